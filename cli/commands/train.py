"""`sharpkeras train`"""

import dataclasses
import difflib
import functools
import json
import os
from pathlib import Path

import click

from sharpkeras.errors import printable
from sharpkeras.recipes import DATA, DIGITS, TRAININGS, TrainRecipe
from sharpkeras_cli import options


@click.command("train")
@click.argument("architecture", metavar="RECIPE|ARCHITECTURE")
@click.option("--recipe", "name", type=options.Names(TRAININGS), help="Recipe.  [default: RECIPE, else digits]")
@click.option("--init", metavar="RUN|FILE", help="Begin with these weights: a training run, .safetensors or .h5.")
@options.recipe_options(TrainRecipe)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/train]")
@options.data
@functools.partial(options.backend, of_run="architecture")
@options.run_options
@options.as_json
def command(architecture, name, init, recipe_of, smoke, out, run_options, dry_run, as_json, **data_options):
    """Train the network of a recipe or of an architecture.

    RECIPE is a row of `sharpkeras list recipes` and brings its published architecture; ARCHITECTURE is a run, a
    genotype file or a published name, trained by --recipe. What a search found is trained on its images and by its
    backend, unless a flag, a file or --recipe says otherwise. Which epoch's weights are the result, --selection says.
    """
    import sharpkeras as sk
    from sharpkeras.errors import ConfigError
    from sharpkeras.experiment.forecast import forecast_training
    from sharpkeras.experiment.inherited_settings import training_recipe
    from sharpkeras.experiment.result_checks import what_was_not_learned
    from sharpkeras_cli.progress import ConsoleProgress

    if architecture in TRAININGS:
        row, name = TRAININGS[architecture], name or architecture
        if row.architecture is None:
            problem, next_step = "this recipe has no architecture of its own", f"sharpkeras train RUN --recipe {name}"
            raise ConfigError(problem, where="RECIPE", seen=architecture, next_step=next_step)
        if not smoke:
            options.tell_printed(row)
        architecture = row.architecture
    out = options.run_directory(out, "train", smoke)
    try:
        found = sk.architecture(architecture)
    except ConfigError as error:
        near = difflib.get_close_matches(architecture, TRAININGS, n=1)
        error.next_step = f"did you mean {near[0]}? sharpkeras list recipes" if near else error.next_step
        raise
    recipe = recipe_of(_begins_with(training_recipe, architecture, name))
    if not smoke:
        _tell_origin(training_recipe, architecture, recipe)
    if dry_run:
        forecast = forecast_training(recipe, found, run_options, data_options, init=init)
        return options.tell_forecast(forecast, as_json)
    with ConsoleProgress("train") as progress:
        cost = sk.train(recipe, found, out, run_options, progress, data_options, init=init)
    if as_json:
        click.echo(json.dumps({"run": str(out), **cost._asdict(), "findings": what_was_not_learned(out)}))
    else:
        click.echo(f"{cost.parameters:,} parameters, {cost.addmults_paper:,} AddMults (as the paper counts them)")
        options.say_next("evaluate", out, *options.reading(data_options))


def _begins_with(training_recipe, architecture, name):
    """The TrainRecipe that flags and files change: of the row that is named, else of a run, else of the first row."""
    if not os.path.isdir(architecture):
        return TRAININGS[name or DIGITS].settings
    of_run = training_recipe(architecture)
    if name is None:
        return of_run
    return dataclasses.replace(TRAININGS[name].settings, ops=of_run.ops)  # what the names of an architecture stand for


def _tell_origin(training_recipe, architecture, recipe):
    """Says which settings are those of a run, and where its architecture is trained on other images than its own."""
    if not os.path.isdir(architecture):
        return
    of_run, where = training_recipe(architecture), printable(str(architecture))
    names = [name for name in (*DATA, "ops") if getattr(of_run, name) != getattr(TRAININGS[DIGITS].settings, name)]
    taken = [f"{name} {getattr(recipe, name)}" for name in names if getattr(recipe, name) == getattr(of_run, name)]
    if taken:
        click.echo(f"note: {printable(', '.join(taken))}: as {where} has it; flags name others", err=True)
    if recipe.dataset != of_run.dataset:
        other = f"note: trains on {printable(recipe.dataset)}, and not on {printable(of_run.dataset)} as {where} did"
        click.echo(other, err=True)
