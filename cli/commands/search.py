"""`sharpkeras search`"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.recipes import SEARCHES, SearchRecipe, TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces import find_space
from sharpkeras_cli import flags, options
from sharpkeras_cli.groups import GroupedCommand

if TYPE_CHECKING:
    from sharpkeras.experiment.run_options import RunOptions

UNITS = {"addmults": "AddMults", "parameters": "parameters", "latency": "ms"}


@click.command("search", cls=GroupedCommand)
@click.argument("name", metavar="[RECIPE]", type=options.Names(SEARCHES), default="digits")
@options.recipe_options(SearchRecipe)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/search]")
@options.data
@click.option("--fail-on-degenerate", is_flag=True, help="Exit with 6 where the architecture is degenerate.")
@options.backend
@options.run_options
@options.as_json
def command(
    name: str,
    recipe_of: Callable[[SearchRecipe], SearchRecipe],
    smoke: bool,
    out: Path | None,
    run_options: "RunOptions",
    dry_run: bool,
    fail_on_degenerate: bool,
    as_json: bool,
    **data_options: Any,
) -> None:
    """Search an architecture, on training images alone.

    RECIPE is a row of `sharpkeras list recipes`; every flag changes a setting of it. The run directory gets
    recipe.json, metrics.jsonl, the architecture (genotype.json or path.json), the alphas of every epoch, checkpoints
    and pictures. The same command goes on where a run was stopped.
    """
    import sharpkeras as sk
    from sharpkeras.errors import NumericalError
    from sharpkeras.experiment import forecast, inherited_settings, result_checks
    from sharpkeras_cli.progress import ConsoleProgress

    recipe = recipe_of(inherited_settings.named_search(name))
    out = inherited_settings.run_directory(out, "search", smoke)
    if not smoke:
        options.tell_printed(SEARCHES[name])
    if dry_run:
        return options.tell_forecast(forecast.forecast_search(recipe, run_options, data_options), as_json)
    with ConsoleProgress("search") as progress:
        found = sk.search(recipe, out, options=run_options, progress=progress, data=data_options)
    if run_options.is_follower:
        return
    warning = result_checks.degenerate(recipe, out)
    if warning:
        click.echo(f"WARNING: degenerate architecture: {warning}", err=True)
    if as_json:
        findings = [flags.rendered(text) for text in result_checks.what_was_not_learned(out)]
        facts = {"degenerate": warning, "findings": findings}
        click.echo(json.dumps({"run": str(out), found.kind: found.as_dict(), **facts}))
    else:
        click.echo(found.as_json(), nl=False)
        cost_of = RunDirectory.read(out, "search").recipe["settings"]["cost_of"]
        row = cost_of or recipe.training
        training = inherited_settings.training_recipe(out, row)
        _tell_cost(recipe, out, cost_of, training)
        click.echo(f"Pictures: {', '.join(path.name for path in sorted(out.glob('*.png')))} in {out}")
        options.say_next("train", out, *options.trained_by(row, training, smoke), *options.reading(data_options))
    if warning and fail_on_degenerate:
        raise NumericalError("degenerate architecture", where=str(out), seen=warning)


def _tell_cost(recipe: SearchRecipe, out: Path, cost_of: str | None, training: TrainRecipe) -> None:
    """What the found network costs beside its budget, where the search had one or weighed costs."""
    if recipe.cost == "none":
        return
    row, unit = RunDirectory.read(out, "search").read_metrics()[-1], UNITS[recipe.cost]
    found = f"{row[f'found_{recipe.cost}']:,.10g} {unit}"
    limit = f"budget {recipe.limit_of_cost:,.10g}, " if recipe.limit_of_cost else ""
    expected = f"the alphas expect {row[f'expected_{recipe.cost}']:{',.4g' if recipe.cost == 'latency' else ',.0f'}}"
    size = find_space(recipe.space).load().size_in_words(training)
    network = f"the network of {cost_of}" if cost_of else f"a network of {size}"
    click.echo(f"As {network}: {found} ({limit}{expected})")
