"""`sharpkeras search`"""

import json
from pathlib import Path

import click

from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe
from sharpkeras_cli import options


@click.command("search")
@click.argument("name", metavar="[RECIPE]", type=options.Names(tuple(SEARCHES)), default="digits")
@options.recipe_options(SearchRecipe, SEARCHES)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/search]")
@options.resume
@options.overwrite
@options.data
@options.check_disk
@click.option("--fail-on-degenerate", is_flag=True, help="Exit with 6 when the genotype is degenerate.")
@options.backend
@options.as_json
def command(
    name, recipe_of, smoke, out, must_exist, overwrite, check_disk, fail_on_degenerate, as_json, **data_options
):
    """Search a genotype, on training images alone.

    RECIPE is a row of `sharpkeras list recipes`; every flag changes a setting of it. Leaves recipe.json, metrics.jsonl,
    genotype.json, the alphas of every epoch, a checkpoint and pictures in the run directory. The same command goes on
    where a run was stopped.
    """
    from sharpkeras import experiment
    from sharpkeras.errors import NumericalError
    from sharpkeras_cli.progress import Spoken

    recipe, overwrite = recipe_of(name), overwrite or smoke and out is None
    out = options.run_directory(out, "search", smoke)
    if not smoke:
        options.tell_printed(SEARCHES[name])
    with Spoken("search") as progress:
        genotype = experiment.search(recipe, out, overwrite, must_exist, progress, data_options, check_disk)
    warning = experiment.degenerate(out, recipe.ops)
    if warning:
        click.echo(f"WARNING: degenerate genotype: {warning}", err=True)
    if as_json:
        click.echo(json.dumps({"run": str(out), "genotype": genotype.as_dict(), "degenerate": warning}))
    else:
        click.echo(genotype.as_json(), nl=False)
        click.echo(f"Pictures: {out}/cells.png, collapse.png, metrics.png, alphas_normal.png, alphas_reduce.png")
        options.say_next("train", out, *_kept(name, recipe, smoke))
    if warning and fail_on_degenerate:
        raise NumericalError("degenerate genotype", where=str(out), seen=warning)


def _kept(name, recipe, smoke):
    """The flags by which a training has the same row, reads the same images, and names stand for the same layers."""
    row = name if name in TRAININGS else "digits"
    words, settings = ["--recipe", row] if row != "digits" else [], TRAININGS[row].settings
    if smoke:
        return [*words, "--smoke"]
    for field in ("dataset", "limit", "image_size", "ops"):
        if getattr(recipe, field) != getattr(settings, field):
            words += [f"--{field.replace('_', '-')}", getattr(recipe, field)]
    return words
