"""`sharpkeras evaluate`"""

import json
from pathlib import Path
from typing import Any

import click

from sharpkeras_cli import flags, options


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", "--dataset", "dataset", metavar="SPEC", help="Other data of the same classes, as cifar10.1:DIR."
)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images at a time.")
@options.data
@options.backend
@options.as_json
def command(run: Path, dataset: str | None, batch_size: int, as_json: bool, **data_options: Any) -> None:
    """Test error of a training RUN, with its interval.

    Top-1 and top-5, with the 95 % interval of Clopper and Pearson and the number of images. The run keeps the report
    as evaluation.json and the answer to every image as predictions.safetensors; where it cannot be written, the error
    is told all the same, and the exit code is 5, or 7 on a full disk.
    """
    from sharpkeras import inspection

    inspection.refuse_foreign_model(run)  # before Keras is imported
    import sharpkeras as sk
    from sharpkeras_cli.progress import ConsoleProgress

    def tell(report: dict[str, Any]) -> None:
        texts = {name: [flags.rendered(text) for text in report[name]] for name in ("notes", "findings")}
        _tell({**report, **texts}, as_json)

    with ConsoleProgress("evaluate") as progress:
        sk.evaluate(run, dataset, batch_size=batch_size, data=data_options, progress=progress, tell=tell)
    if not as_json:
        options.say_next("export", run, *options.reading(data_options))


def _tell(report: dict[str, Any], as_json: bool) -> None:
    for note in report["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{report['dataset']}, test: error {report['text']}")
        if report["top5"]:
            click.echo(f"{report['dataset']}, test: top-5 error {report['top5']['text']}")
        click.echo(f"weights: {report['selection']}")
