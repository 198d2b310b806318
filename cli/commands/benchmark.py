"""`sharpkeras benchmark`"""

import json
from pathlib import Path

import click

from sharpkeras_cli import options


@click.command("benchmark")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--batch-size", type=click.IntRange(1, 65536), default=1, show_default=True, help="Images per run.")
@click.option("--threads", type=click.IntRange(1), help="Threads of ONNX Runtime.  [default: all cores]")
@click.option("--runs", type=click.IntRange(3), default=300, show_default=True, help="Timed runs in all.")
@click.option("--percentile", "percentiles", type=int, multiple=True, help="Further percentiles, such as 99.")
@click.option("--providers", default="CPU", show_default=True, help="ONNX Runtime providers, such as CUDA,CPU.")
@click.option("--fail-on-noise", is_flag=True, help="Exit with 8 when the machine is too noisy to trust the figure.")
@options.as_json
def command(file, batch_size, threads, runs, percentiles, providers, fail_on_noise, as_json):
    """Latency of an ONNX FILE in ONNX Runtime.

    The 50th and 90th percentile, measured in three fresh processes with a fixed number of threads.
    """
    from sharpkeras.errors import VerificationError
    from sharpkeras.measure.latency import benchmark_onnx

    names = tuple(f"{name.strip().removesuffix('ExecutionProvider')}ExecutionProvider" for name in providers.split(","))
    wanted = tuple(sorted({50, 90, *percentiles}))
    report = benchmark_onnx(
        file, batch_size=batch_size, threads=threads, runs=runs, providers=names, percentiles=wanted
    )
    if as_json:
        click.echo(json.dumps(report))
    else:
        label = "  UNSTABLE: the machine is noisy" if report["unstable"] else ""
        times = ", ".join(f"p{p} {report[f'p{p}_ms']:.3f} ms" for p in wanted)
        click.echo(f"{file}: {times}{label}")
        speed = f"{report['images_per_second']:.0f} images/s at batch {batch_size}"
        click.echo(f"{speed}, {report['threads']} threads, {runs} runs")
        click.echo(f"{report['device']}, {', '.join(report['providers'])}, ONNX Runtime {report['onnxruntime']}")
        for warning in report["warnings"]:
            click.echo(f"note: {warning}", err=True)
        options.say_next("list")
    if report["unstable"] and fail_on_noise:
        raise VerificationError("the machine is too noisy", where=str(file), seen=f"spread {report['spread']:.0%}")
