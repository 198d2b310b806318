"""`sharpkeras sample`"""

import json
from pathlib import Path
from typing import Any

import click

from sharpkeras.recipes import SearchRecipe
from sharpkeras_cli import options


@click.command("sample")
@options.settings(SearchRecipe, "space", "ops", "num_nodes", "init_channels", "num_cells", "num_scales")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the first genotype.")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="Genotypes; each has the next seed."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="genotypes", show_default=True, help="A folder, or a .json file."
)
@options.overwrite
@options.as_json
def command(count: int, out: Path, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Draw random architectures: the baseline of a search.

    Every node of a genotype gets two different sources and two primitives but none; a path of multichannel gets a
    choice at each position; all equally likely. Trained by the same recipe, they say what a search is worth.
    """
    options.choose_backend()
    import sharpkeras as sk

    given = {name: value for name, value in settings.items() if value is not None}
    recipe = SearchRecipe.from_dict(given, "settings")
    drawn = sk.sample(recipe, out, count=count, overwrite=overwrite)
    if as_json:
        found = [{"file": str(path), "genotype": genotype.as_dict()} for path, genotype in drawn]
        click.echo(json.dumps({"genotypes": found}))
        return
    for path, genotype in drawn:
        click.echo(f"{path}\n{genotype.as_json()}", nl=False)
    ops = () if recipe.ops == SearchRecipe().ops else ("--ops", recipe.ops)
    options.say_next("train", drawn[0][0], *ops)
