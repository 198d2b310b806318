"""`sharpkeras train`"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.recipes import TRAININGS, TrainRecipe
from sharpkeras_cli import flags, options
from sharpkeras_cli.groups import GroupedCommand

if TYPE_CHECKING:
    from sharpkeras.experiment.run_options import RunOptions


@click.command("train", cls=GroupedCommand)
@click.argument("architecture", metavar="RECIPE|ARCHITECTURE")
@click.option("--recipe", "name", type=options.Names(TRAININGS), help="Its recipe.  [default: RECIPE, else digits]")
@click.option("--init", metavar="RUN|FILE", help="Begin with the weights of a run, a .safetensors or an .h5 file.")
@options.recipe_options(TrainRecipe)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/train]")
@options.data
@functools.partial(options.backend, of_run="architecture")
@options.run_options
@options.as_json
def command(
    architecture: str,
    name: str | None,
    init: str | None,
    recipe_of: Callable[[TrainRecipe], TrainRecipe],
    smoke: bool,
    out: Path | None,
    run_options: "RunOptions",
    dry_run: bool,
    as_json: bool,
    **data_options: Any,
) -> None:
    """Train the network of a recipe or of an architecture.

    RECIPE is a row of `sharpkeras list recipes` and brings its published architecture; ARCHITECTURE is a run, a
    genotype file or a published name, trained by --recipe. What a search found is trained on its images and by its
    backend, unless a flag, a file or --recipe says otherwise. Which epoch's weights are the result, --selection says.
    """
    import sharpkeras as sk
    from sharpkeras.experiment import inherited_settings
    from sharpkeras.experiment.forecast import forecast_training
    from sharpkeras.experiment.result_checks import what_was_not_learned
    from sharpkeras_cli.progress import ConsoleProgress

    requested = inherited_settings.requested_training(architecture, name)
    if architecture in TRAININGS and not smoke:
        options.tell_printed(TRAININGS[architecture])
    recipe = recipe_of(requested.recipe)
    for note in requested.notes(recipe) if not smoke else ():
        click.echo(f"note: {note}", err=True)
    if dry_run:
        forecast = forecast_training(recipe, requested.architecture, run_options, data_options, init=init)
        return options.tell_forecast(forecast, as_json)
    out = inherited_settings.run_directory(out, "train", smoke)
    with ConsoleProgress("train") as progress:
        cost = sk.train(
            requested.architecture,
            out,
            recipe=recipe,
            init=init,
            options=run_options,
            progress=progress,
            data=data_options,
        )
    if run_options.is_follower:
        return
    if as_json:
        findings = [flags.rendered(text) for text in what_was_not_learned(out)]
        click.echo(json.dumps({"run": str(out), **cost._asdict(), "findings": findings}))
    else:
        click.echo(f"{cost.parameters:,} parameters, {cost.addmults_paper:,} AddMults (as the paper counts them)")
        options.say_next("evaluate", out, *options.reading(data_options))
