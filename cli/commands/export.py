"""`sharpkeras export`"""

import json
import os
from pathlib import Path

import click

from sharpkeras_cli import options


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file.  [default: exported/RUN.onnx]")
@click.option("--opset", type=int, default=17, show_default=True, help="ONNX operator set.")
@options.overwrite
@options.as_json
def command(run, out, opset, overwrite, as_json):
    """Write the network of a training RUN as ONNX.

    Refused unless the file agrees with Keras. Beside NAME.onnx stands NAME.json with genotype, cost, preprocessing and
    the differences found.
    """
    from sharpkeras import inspection

    inspection.refuse_foreign_model(run)  # before Keras is imported
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        click.echo("export runs on TensorFlow, from the same weights", err=True)
    options.choose_backend("tensorflow")
    from sharpkeras import experiment

    out = out or Path("exported") / f"{run.resolve().name}.onnx"
    report = experiment.export(run, out, opset, overwrite)
    if report["recipe"]["precision"] != "float32":
        click.echo(f"note: trained in {report['recipe']['precision']}; the file computes in float32", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{out}: {report['bytes']:,} bytes, {report['nodes']} nodes, opset {opset}")
        click.echo(f"largest difference ONNX − Keras: {report['largest_difference']:.2g}")
        options.say_next("benchmark", out)
