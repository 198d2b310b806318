"""`sharpkeras export`"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sharpkeras.io.onnx_files import TARGETS
from sharpkeras_cli import options


@click.command("export")
@click.argument("source", metavar="SOURCE")
@click.option("--out", type=click.Path(path_type=Path), help="The file.  [default: exported/SOURCE.onnx]")
@click.option("--opset", type=int, default=17, show_default=True, help="ONNX operator set, 13 to 18.")
@click.option(
    "--input",
    "pixels",
    type=click.Choice(("float32", "uint8")),
    default="float32",
    show_default=True,
    help="Images that the file takes: preprocessed, or as they are stored.",
)
@click.option(
    "--precision",
    "--quantize",
    "precision",
    type=click.Choice(("float32", "float16", "int8")),
    default="float32",
    show_default=True,
    help="What the file computes in: float16 is for GPUs; int8 is for CPUs, calibrated on training images.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(0),
    default=512,
    show_default=True,
    help="Training images for --precision int8, at least 100.",
)
@click.option(
    "--weight-bits",
    type=click.Choice(("7", "8")),
    help="Of int8: 7 for every processor; 8 for x86 with VNNI and ARM alone.  [default: 7]",
)
@click.option(
    "--test-images", type=click.IntRange(0), default=1000, show_default=True, help="Images that the file is tested on."
)
@click.option("--no-optimize", is_flag=True, help="Leave the graph as the converter makes it.")
@click.option(
    "--target",
    type=click.Choice(("auto", *TARGETS)),
    default="auto",
    show_default=True,
    help="Processor that the file is made for; auto measures two forms of it here and takes the faster one.",
)
@options.network_sizes
@options.data
@options.overwrite
@options.as_json
def command(
    source: str,
    out: Path | None,
    opset: int,
    pixels: str,
    precision: str,
    calibration_images: int,
    weight_bits: str | None,
    test_images: int,
    no_optimize: bool,
    target: str,
    sizes: Mapping[str, Any],
    overwrite: bool,
    as_json: bool,
    **data_options: Any,
) -> None:
    """Write the network of SOURCE as ONNX.

    A training run; or, with random weights, an architecture (a file or a published name, of the sizes of table 2 or
    those given) or a model of keras.applications (keras:MobileNetV2). A file that disagrees with Keras is refused, kept
    as NAME.rejected.onnx, and the exit code is 8. Beside NAME.onnx stands NAME.json with architecture, cost,
    preprocessing and the differences found.
    """
    from sharpkeras import inspection

    if weight_bits and precision != "int8":
        raise click.UsageError("--weight-bits goes with --precision int8.")
    if no_optimize and target != "auto":
        raise click.UsageError("--target goes without --no-optimize.")
    inspection.refuse_foreign_model(Path(source))  # before Keras is imported
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        click.echo("export runs on TensorFlow, from the same weights", err=True)
    options.choose_backend("tensorflow")
    import sharpkeras as sk
    from sharpkeras import api
    from sharpkeras.measure import saturation

    out = out or api.exported_file(source)
    report = sk.export(
        source,
        out,
        opset=opset,
        input=pixels,
        precision=precision,
        calibration_images=calibration_images,
        weight_bits=int(weight_bits or 7),
        test_images=test_images,
        optimize=not no_optimize,
        target=target,
        overwrite=overwrite,
        data=data_options,
        **sizes,
    )
    if report.get("recipe", {}).get("precision", "float32") != "float32":
        click.echo(f"note: trained in {report['recipe']['precision']}; the file computes in float32", err=True)
    if report["selected"]["by"] == "nothing":
        click.echo("note: the weights are random; export a training run for a network that knows something", err=True)
    if as_json:
        click.echo(json.dumps(report))
        return
    before = f" ({report['nodes_before_rewrites']} before)" if not no_optimize else ""
    click.echo(f"{out}: {report['bytes']:,} bytes, {report['nodes']} nodes{before}, opset {opset}")
    if report["target"]:
        click.echo(_made_for(report["target"]))
    before, agreed = (", before int8", report["before_int8"]) if "before_int8" in report else ("", report)
    relative = f"{agreed['relative_difference']:.1g} of the logit's size"
    click.echo(f"largest difference ONNX − Keras{before}: {agreed['largest_difference']:.2g}, {relative}")
    if "accuracy" in agreed:
        file, keras = (agreed["accuracy"][name] for name in ("file", "keras"))
        click.echo(f"test error of the file{before}: {file['text']}; Keras: {100 * keras['error']:.2f} %")
    elif report["selected"]["by"] != "nothing" and test_images:
        click.echo("note: without images of the run's dataset the file's test error is not measured", err=True)
    if "quantization" in report:
        lost = report["quantization"]
        click.echo(f"test error of the file, in int8: {lost['int8']['text']}")
        click.echo(f"int8 against float32: {lost['mcnemar']}")
        click.echo(f"weights of {lost['weight_bits']} bits: {saturation.words(lost)}")
        worst = ", ".join(f"{row['layer']} ({row['signal_to_noise_db']} dB)" for row in lost["worst_layers"][:3])
        click.echo(f"most is lost in {worst}")
    options.say_next("benchmark", out)


def _made_for(target: Mapping[str, Any]) -> str:
    """ "made for avx512, by measurement: channels filled to whole blocks take 0.87 (0.84–0.90) of the time, faster"."""
    words = f"made for {target['name'] or 'any processor'}, by {target['chosen_by']}"
    if "filled_to_simple" not in target:
        return words
    found = target["filled_to_simple"]
    low, high = found["interval"]
    ratio = f"{found['ratio']:.2f} ({low:.2f}–{high:.2f}) of the time"
    unstable = ", UNSTABLE" if found["unstable"] else ""
    return f"{words}: channels filled to whole blocks take {ratio}, {found['verdict']}{unstable}"
