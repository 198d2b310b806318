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
@options.download
@options.skip_bad_images
@options.follow_symlinks
@click.option("--fail-on-degenerate", is_flag=True, help="Exit with 6 when the genotype is degenerate.")
@options.backend
@options.as_json
def command(recipe, out, must_exist, overwrite, fail_on_degenerate, as_json, **data_options):
    """Search a genotype: bilevel, differentiable (DARTS), on training images alone.

    Leaves recipe.json, metrics.jsonl, genotype.json, the alphas of every epoch, a checkpoint and pictures in the run
    directory. The same command goes on where a run was stopped.
    """
    from sharpkeras import experiment
    from sharpkeras.errors import NumericalError
    from sharpkeras_cli.progress import Spoken

    with Spoken("search") as progress:
        genotype = experiment.search(recipe, out, overwrite, must_exist, progress, data_options)
    warning = experiment.degenerate(genotype, recipe.ops)
    if warning:
        click.echo(f"WARNING: degenerate genotype: {warning}", err=True)
    if as_json:
        click.echo(json.dumps({"run": str(out), "genotype": genotype.as_dict(), "degenerate": warning}))
    else:
        click.echo(genotype.as_json(), nl=False)
        click.echo(f"Pictures: {out}/cells.png, metrics.png, alphas_normal.png, alphas_reduce.png")
        click.echo(f"Next: sharpkeras train {out} --out runs/train")
    if warning and fail_on_degenerate:
        raise NumericalError("degenerate genotype", where=str(out), seen=warning)
