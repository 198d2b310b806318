"""`sharpkeras search`"""

import json
from pathlib import Path

import click

from sharpkeras.recipes import SEARCHES, SearchRecipe
from sharpkeras_cli import options


@click.command("search")
@options.recipe_options(SearchRecipe, SEARCHES)
@click.option("--out", type=click.Path(path_type=Path), default="runs/search", show_default=True, help="Run directory.")
@options.resume
@options.overwrite
@options.data
@options.check_disk
@click.option("--fail-on-degenerate", is_flag=True, help="Exit with 6 when the genotype is degenerate.")
@options.backend
@options.as_json
def command(recipe, out, must_exist, overwrite, check_disk, fail_on_degenerate, as_json, **data_options):
    """Search a genotype, on training images alone.

    Differentiable and bilevel, as in DARTS. Leaves recipe.json, metrics.jsonl, genotype.json, the alphas of every
    epoch, a checkpoint and pictures in the run directory. The same command goes on where a run was stopped.
    """
    from sharpkeras import experiment
    from sharpkeras.errors import NumericalError
    from sharpkeras_cli.progress import Spoken

    with Spoken("search") as progress:
        genotype = experiment.search(recipe, out, overwrite, must_exist, progress, data_options, check_disk)
    warning = experiment.degenerate(out, recipe.ops)
    if warning:
        click.echo(f"WARNING: degenerate genotype: {warning}", err=True)
    if as_json:
        click.echo(json.dumps({"run": str(out), "genotype": genotype.as_dict(), "degenerate": warning}))
    else:
        click.echo(genotype.as_json(), nl=False)
        click.echo(f"Pictures: {out}/cells.png, metrics.png, alphas_normal.png, alphas_reduce.png")
        options.say_next("train", out, *_kept(recipe))
    if warning and fail_on_degenerate:
        raise NumericalError("degenerate genotype", where=str(out), seen=warning)


def _kept(recipe):
    """The flags by which a training reads the same images, and names stand for the same layers."""
    kept = {name: getattr(recipe, name) for name in ("dataset", "image_size", "ops")}
    defaults = SEARCHES["digits"].as_dict()
    changed = [(name, value) for name, value in kept.items() if value != defaults[name]]
    return [word for name, value in changed for word in (f"--{name.replace('_', '-')}", value)]
