"""`sharpkeras train`"""

import difflib
import json
from pathlib import Path

import click

from sharpkeras.recipes import TRAININGS, TrainRecipe
from sharpkeras_cli import options


@click.command("train")
@click.argument("architecture", metavar="RECIPE|ARCHITECTURE")
@click.option("--recipe", "name", type=options.Names(tuple(TRAININGS)), help="Recipe.  [default: RECIPE, else digits]")
@click.option("--init", metavar="RUN|FILE", help="Begin with these weights: a training run, .safetensors or .h5.")
@options.recipe_options(TrainRecipe, TRAININGS)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/train]")
@options.data
@options.backend
@options.conduct
@options.as_json
def command(architecture, name, init, recipe_of, smoke, out, conduct, dry_run, as_json, **data_options):
    """Train the network of a recipe or of an architecture.

    RECIPE is a row of `sharpkeras list recipes` and brings its published architecture; ARCHITECTURE is a search run, a
    genotype file or a published name, trained by --recipe. Which epoch's weights are the result, --selection says.
    """
    from sharpkeras import experiment
    from sharpkeras.errors import ConfigError
    from sharpkeras_cli.progress import Spoken

    if architecture in TRAININGS:
        row, name = TRAININGS[architecture], name or architecture
        if row.architecture is None:
            problem, next_step = "this recipe has no architecture of its own", f"sharpkeras train RUN --recipe {name}"
            raise ConfigError(problem, where="RECIPE", seen=architecture, next_step=next_step)
        if not smoke:
            options.tell_printed(row)
        architecture = row.architecture
    recipe, out = recipe_of(name or "digits"), options.run_directory(out, "train", smoke)
    try:
        found = experiment.architecture(architecture)
    except ConfigError as error:
        near = difflib.get_close_matches(architecture, TRAININGS, n=1)
        error.next_step = f"did you mean {near[0]}? sharpkeras list recipes" if near else error.next_step
        raise
    if dry_run:
        return options.tell_forecast(experiment.forecast_training(recipe, found, conduct, data_options), as_json)
    with Spoken("train") as progress:
        cost = experiment.train(recipe, found, out, conduct, progress, data_options, init=init)
    if as_json:
        click.echo(json.dumps({"run": str(out), **cost._asdict()}))
    else:
        click.echo(f"{cost.parameters:,} parameters, {cost.addmults_paper:,} AddMults (as the paper counts them)")
        options.say_next("evaluate", out)
