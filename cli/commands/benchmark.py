"""`sharpkeras benchmark`"""

import json
import os
from pathlib import Path

import click

from sharpkeras.errors import VerificationError
from sharpkeras.recipes import SearchRecipe
from sharpkeras_cli import options

RUNS, RUNS_OF_PART = 300, 60
TABLE = Path("latencies.json")
NETWORK = "digits"  # the network of which `sharpkeras search` means a budget where neither says another one
# What the parts of a final network depend on.
SPACE = ("dataset", "image_size", "space", "ops", "num_nodes", "init_channels", "num_cells", "num_scales")


@click.command("benchmark")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--batch-size", type=click.IntRange(1, 65536), default=1, show_default=True, help="Images per run.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads of ONNX Runtime.  [default: all cores]")
@click.option(
    "--runs", type=click.IntRange(3, 10**6), help=f"Timed runs.  [default: {RUNS}; of a primitive {RUNS_OF_PART}]"
)
@click.option("--percentile", "percentiles", type=int, multiple=True, help="Further percentiles, such as 99.")
@click.option("--providers", default="CPU", show_default=True, help="ONNX Runtime providers, such as CUDA,CPU.")
@click.option("--fail-on-noise", is_flag=True, help="Exit with 8 when the machine is too noisy to trust the figure.")
@click.option("--primitives", is_flag=True, help="Measure all that the networks of a search can consist of.")
@click.option("--out", type=click.Path(path_type=Path), help=f"The file of --primitives.  [default: {TABLE}]")
@options.settings(SearchRecipe, *SPACE, "final_filters", "cost_of")
@options.overwrite
@options.as_json
def command(file, batch_size, threads, runs, percentiles, providers, fail_on_noise, primitives, as_json, **others):
    """Latency of an ONNX FILE in ONNX Runtime, or of the --primitives of a search.

    The 50th and 90th percentile, measured in three fresh processes with a fixed number of threads. With --primitives, a
    table of what takes how long, for `sharpkeras search --max-latency-ms`; say which by the options of the search.
    """
    names = tuple(f"{name.strip().removesuffix('ExecutionProvider')}ExecutionProvider" for name in providers.split(","))
    timing = {"batch_size": batch_size, "threads": threads, "providers": names}
    given = {name: value for name, value in others.items() if value}
    if primitives and (file or percentiles):
        raise click.UsageError("--primitives takes no FILE and no --percentile.")
    if primitives:
        unstable = _time_primitives(given, as_json, timing | {"runs": runs or RUNS_OF_PART})
    elif not file:
        raise click.UsageError("Missing argument 'FILE', or --primitives.")
    elif given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} goes with --primitives.")
    else:
        unstable = _time_file(file, as_json, timing | {"runs": runs or RUNS}, tuple(sorted({50, 90, *percentiles})))
    if unstable and fail_on_noise:
        raise VerificationError("the machine is too noisy", where=str(file or "--primitives"), seen=unstable)


def _time_file(file, as_json, timing, percentiles):
    """Prints the latency of a file; returns what makes it unstable, in words."""
    from sharpkeras.measure.latency import benchmark_onnx

    report = benchmark_onnx(file, percentiles=percentiles, **timing)
    if as_json:
        click.echo(json.dumps(report))
    else:
        label = "  UNSTABLE: the machine is noisy" if report["unstable"] else ""
        times = ", ".join(f"p{p} {report[f'p{p}_ms']:.3f} ms" for p in percentiles)
        click.echo(f"{file}: {times}{label}")
        speed = f"{report['images_per_second']:.0f} images/s at batch {report['batch_size']}"
        click.echo(f"{speed}, {report['threads']} threads, {report['runs']} runs")
        click.echo(f"{report['device']}, {', '.join(report['providers'])}, ONNX Runtime {report['onnxruntime']}")
        for warning in report["warnings"]:
            click.echo(f"note: {warning}", err=True)
        options.say_next("list")
    return f"spread {report['spread']:.0%}" if report["unstable"] else None


def _time_primitives(given, as_json, timing):
    """Writes the table of latencies and prints what it is about; returns what makes it unstable, in words."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        click.echo("primitives are exported on TensorFlow", err=True)
    options.choose_backend("tensorflow")
    from sharpkeras.experiment import latencies

    out, overwrite = given.pop("out", TABLE), given.pop("overwrite", False)
    recipe = SearchRecipe.from_dict({"cost_of": NETWORK, **given}, "settings")
    result = latencies.measure(recipe, out, overwrite=overwrite, progress=_shown, **timing)
    if as_json:
        click.echo(json.dumps(result))
    else:
        label = "  UNSTABLE: the machine is noisy" if result["unstable"] else ""
        click.echo(f"{out}: {len(result['table'])} parts; a random network takes {result['random_ms']:.3g} ms{label}")
        where = (
            f"{result['device']}, {', '.join(result['providers'])}, ONNX Runtime {result['versions']['onnxruntime']}"
        )
        click.echo(f"{where}, {result['threads']} threads, batch {result['batch_size']}")
        for warning in result["warnings"]:
            click.echo(f"note: {warning}", err=True)
        repeated = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
        budget = ("--latency-table", out, "--max-latency-ms", f"{result['random_ms']:.3g}")
        options.say_next("search", *repeated, *budget)
    return "more than half of the parts" if result["unstable"] else None


def _shown(parts):
    """The parts one at a time, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    click.echo(f"{len(parts)} parts, about 2 s each …", err=True)
    return track(parts, "measuring", console=console, disable=not console.is_terminal, transient=True)
