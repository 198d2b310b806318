"""`sharpkeras train`"""

import json
from pathlib import Path

import click

from sharpkeras.recipes import TRAININGS, TrainRecipe
from sharpkeras_cli import options


@click.command("train")
@click.argument("architecture")
@options.recipe_options(TrainRecipe, TRAININGS)
@click.option("--out", type=click.Path(path_type=Path), default="runs/train", show_default=True, help="Run directory.")
@options.resume
@options.overwrite
@options.data
@options.check_disk
@options.backend
@options.as_json
def command(architecture, recipe, out, must_exist, overwrite, check_disk, as_json, **data_options):
    """Train the network of an ARCHITECTURE.

    A search run, a genotype file or a published name. The weights of the last epoch are the result; nothing is
    selected on any test image.
    """
    from sharpkeras import experiment
    from sharpkeras_cli.progress import Spoken

    genotype = experiment.architecture(architecture)
    with Spoken("train") as progress:
        cost = experiment.train(recipe, genotype, out, overwrite, must_exist, progress, data_options, check_disk)
    if as_json:
        click.echo(json.dumps({"run": str(out), **cost._asdict()}))
    else:
        click.echo(f"{cost.parameters:,} parameters, {cost.addmults_paper:,} AddMults (as the paper counts them)")
        options.say_next("evaluate", out)
