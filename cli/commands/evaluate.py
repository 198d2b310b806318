"""`sharpkeras evaluate`"""

import json
from pathlib import Path

import click

from sharpkeras_cli import options


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--dataset", help="Other data of the same classes: digits, cifar10 or folder:PATH.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images at a time.")
@options.data
@options.backend
@options.as_json
def command(run, dataset, batch_size, as_json, **data_options):
    """Test error of a training RUN, with its interval.

    Of Clopper and Pearson, 95 %; and with the number of images.
    """
    from sharpkeras import experiment

    report = experiment.evaluate(run, dataset, batch_size, data_options)
    for note in report["notes"]:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{report['dataset']}, test: error {report['text']}")
        click.echo(f"weights: {report['selection']}")
        options.say_next("export", run)
