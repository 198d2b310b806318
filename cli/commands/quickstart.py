"""`sharpkeras quickstart`"""

import json
from pathlib import Path
from typing import Any

import click

from sharpkeras_cli import options, tables


@click.command("quickstart")
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True, help="Directory.")
@options.overwrite
@options.as_json
def command(out: Path, overwrite: bool, as_json: bool) -> None:
    """Search, train, evaluate, export, benchmark: digits.

    The whole path on real handwritten digits, in a few minutes on two cores.
    """
    options.choose_backend("tensorflow")
    import time

    started = time.perf_counter()
    import sharpkeras as sk
    from sharpkeras.experiment.run_options import RunOptions
    from sharpkeras.measure.latency.benchmark import benchmark_onnx
    from sharpkeras_cli.progress import ConsoleProgress

    run_options = RunOptions(overwrite=overwrite)
    click.echo("1/5 sharpkeras search", err=True)
    with ConsoleProgress("search") as searching:
        genotype = sk.search("digits", out / "search", options=run_options, progress=searching)
    click.echo("2/5 sharpkeras train", err=True)
    with ConsoleProgress("train") as training:
        cost = sk.train(out / "search", out / "train", options=run_options, progress=training)
    click.echo("3/5 sharpkeras evaluate", err=True)
    with ConsoleProgress("evaluate") as evaluating:
        evaluation = sk.evaluate(out / "train", progress=evaluating)
    click.echo("4/5 sharpkeras export", err=True)
    exported = sk.export(out / "train", out / "digits.onnx", overwrite=True)
    click.echo("5/5 sharpkeras benchmark", err=True)
    latency = benchmark_onnx(out / "digits.onnx")
    report = {
        "genotype": genotype.as_dict(),
        "cost": cost._asdict(),
        "evaluation": evaluation,
        "largest_difference": exported["largest_difference"],
        "latency": latency,
        "first_step_s": {"search": searching.first_step_s, "train": training.first_step_s},
        "seconds": time.perf_counter() - started,
        "picture": str(out / "search" / "cells.png"),
    }
    click.echo(json.dumps(report, default=str)) if as_json else _print(report, out)


def _print(report: dict[str, Any], out: Path) -> None:
    cost, latency, first = report["cost"], report["latency"], report["first_step_s"]
    noise = "  UNSTABLE, the machine is noisy" if latency["unstable"] else ""
    steps = [f"{name} {seconds:.1f} s" for name, seconds in first.items() if seconds is not None]
    cells = {
        f"{kind} cell": "  ".join(f"{name}({source})" for name, source in report["genotype"][kind])
        for kind in ("normal", "reduce")
    }
    found = {
        **cells,
        "parameters": f"{cost['parameters']:,}",
        "AddMults": f"{cost['addmults_paper']:,} (paper), {cost['addmults_conv_dense']:,} (conv + dense)",
        "test error": report["evaluation"]["text"],
        "largest difference ONNX − Keras": f"{report['largest_difference']:.2g}",
        "latency": f"p50 {latency['p50_ms']:.3f} ms, batch 1, {latency['threads']} threads{noise}",
        "measured on": latency["device"],
        "until the first step": ", ".join(steps) or "both were finished before",
        "in all": f"{report['seconds']:.0f} s",
    }
    tables.show([found], title="Found on 8×8 digits", standing=True)
    click.echo(f"The cells: {report['picture']}")
    click.echo("Next: sharpkeras search sharpsepconv-darts --dataset folder:PATH --out runs/mine")
