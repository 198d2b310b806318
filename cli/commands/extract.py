"""`sharpkeras extract`"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.spaces import find_space
from sharpkeras_cli import options

if TYPE_CHECKING:
    from sharpkeras.api import Extraction
    from sharpkeras.measure.cost import Cost
    from sharpkeras.spaces.architecture import Architecture


def strategies() -> Iterable[str]:
    """The names in graph.STRATEGIES, "longest" first."""
    from sharpkeras.spaces.hypercuboid import path_search

    return path_search.STRATEGIES


@click.command("extract")
@click.argument("run")
@click.option("--epoch", type=click.IntRange(1, 10**6), help="Whose alphas, from 1.  [default: the last]")
@click.option(
    "--strategy",
    type=options.Names(strategies),
    default="longest",
    show_default=True,
    help="Of a path of multichannel.",
)
@click.option(
    "--routes", type=click.IntRange(1, 64), default=1, show_default=True, help="Of a path, by min-cost flow; at most."
)
@options.settings(SearchRecipe, "skip_none", "max_addmults", "max_parameters", "max_latency_ms", "cost_of")
@options.settings(SearchRecipe, "latency_table")
@click.option("--out", type=click.Path(path_type=Path), default="extracted.json", show_default=True, help="JSON file.")
@options.overwrite
@options.as_json
def command(
    run: str, epoch: int | None, strategy: str, routes: int, out: Path, overwrite: bool, as_json: bool, **settings: Any
) -> None:
    """Read another architecture off a search RUN.

    By other strategies than the search's own, with several routes, or within a budget that it had not: of all
    architectures within it, exactly the one whose weights have the largest sum.
    """
    options.choose_backend()
    import sharpkeras as sk

    given = {name: value for name, value in settings.items() if value is not None}
    given |= {"strategy": strategy, "routes": routes, "epoch": epoch, "overwrite": overwrite}

    def tell(found: "Extraction") -> None:
        _tell(*found, out, as_json)

    _, _, recipe, training = sk.extract(run, out, tell=tell, **given)
    if not as_json:
        how = options.trained_by(recipe.cost_of or recipe.training, training)
        options.say_next("train", out, *how, *options.by_backend_of(run))


def _tell(
    found: "Architecture", cost: "Cost", recipe: SearchRecipe, training: TrainRecipe, out: Path, as_json: bool
) -> None:
    if as_json:
        names = {"file": str(out), found.kind: found.as_dict(), "cost_of": recipe.cost_of}
        click.echo(json.dumps({**names, **cost._asdict()}))
        return
    click.echo(found.as_json(), nl=False)
    own = f"as a network of {find_space(recipe.space).load().size_in_words(training)}"
    network = f"as the network of {recipe.cost_of} (--cost-of names another)" if recipe.cost_of else own
    click.echo(f"{cost.parameters:,} parameters, {cost.addmults_paper:,} AddMults (the paper's count), {network}")
