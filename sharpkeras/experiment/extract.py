"""Architectures out of the alphas of a search that has run: other strategies, several routes, a budget afterwards."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpkeras import spaces
from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment.inherited_settings import training_recipe
from sharpkeras.experiment.plots import last_epoch
from sharpkeras.experiment.sample import refuse_to_lose
from sharpkeras.experiment.search_budget import Budget
from sharpkeras.io import atomic_writes
from sharpkeras.measure.cost import Cost
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import RunDirectory, contents, files
from sharpkeras.spaces import Architecture

DEFAULT = "longest"  # strategy, of the spaces that have any
COUNTED = {"addmults": "addmults_paper", "parameters": "parameters"}  # cost → its field of a Cost


def extract(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    strategy: str = DEFAULT,
    routes: int = 1,
    epoch: int | None = None,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    tell: Callable[[Architecture, Cost, SearchRecipe, TrainRecipe], None] | None = None,
) -> tuple[Architecture, Cost, SearchRecipe, TrainRecipe]:
    """Read an architecture off the alphas of a search and writes it as a JSON file.

    Args:
        run: a search run.
        out: the file.
        strategy: for a path, a name in `path_search.STRATEGIES`; under a budget only "longest".
        routes: of a path, by min-cost flow (§5); under a budget the most that fit, up to this number.
        epoch: whose alphas, from 1; None is the last.
        changes: settings of the recipe that are other now, such as max_addmults or skip_none.
        overwrite: whether an architecture that is there is replaced.
        tell: called with the four results before the file is written, so that a full disk loses none of them.

    Returns:
        The architecture, the Cost of its network, the SearchRecipe with the changes, whose `cost_of` names the recipe
        of that network, and the TrainRecipe by which it is trained next.

    Raises:
        UsageError: `strategy` or `routes` in a space without paths, or `strategy` together with a budget or routes.
        RunError: no such run or epoch, or a file is in the way.
        ConfigError: when nothing is within the budget.
    """
    searched = RunDirectory.read(run, "search")
    if "space" in searched.recipe:
        step = "alphas are in its epochs/: space.extract(alphas)"
        raise RunError("has a space that only Python knows", where=str(searched.path), next_step=step)
    settings = {**contents.settings(searched), **(changes or {})}
    recipe = SearchRecipe.from_dict(settings, str(searched.path / files.RECIPE)).priced()
    facts = contents.data(searched)
    space = spaces.of_recipe(recipe)
    name = _epoch_file(searched, epoch)
    alphas = contents.alphas(searched, name, space)
    if not space.strategies and (strategy != DEFAULT or routes > 1):
        problem = f"a {spaces.find_space(recipe.space).architecture} is no path"
        raise UsageError(problem, where="`strategy`, `routes`", allowed="a search of multichannel")
    if strategy != DEFAULT and (routes > 1 or recipe.limit_of_cost is not None):
        problem = "several routes and budgets have an extraction of their own"
        raise UsageError(problem, where="`strategy`", seen=strategy, allowed=DEFAULT)
    budget = Budget.of(recipe, space, facts["shape"], len(facts["class_names"]))
    if strategy != DEFAULT:
        found = space.extract(alphas, strategy=strategy)
    else:
        found = (_several(budget, alphas, routes) if routes > 1 else None) or budget.extract(alphas)
    refuse_to_lose(Path(out), overwrite)
    result = found, budget.network.cost(found), recipe, training_recipe(searched.path, search=recipe)
    if tell:
        tell(*result)
    atomic_writes.write(Path(out), found.as_json().encode())
    return result


def _epoch_file(run: RunDirectory, epoch: int | None) -> str:
    """The file of the alphas of an epoch, which counts from 1; None is the last of a finished search."""
    if epoch is None:
        return last_epoch(run)
    name = files.epoch(epoch - 1)
    if not os.path.isfile(run.path / name):
        done = f"1 to {len(run.read_metrics())}"
        raise RunError(f"has no epoch {epoch}", where=str(run.path), seen=f"no {name}", allowed=done)
    return name


def _several(budget: Budget, alphas: Sequence[np.ndarray], routes: int) -> Architecture | None:
    """The architecture of several routes with the largest sum of weights; within a limit of as many as fit, or None."""
    if budget.limit is None:
        return budget.space.extract_routes(alphas, routes)
    if budget.recipe.cost not in COUNTED:
        raise UsageError("several routes have a budget of AddMults or parameters", where="`max_latency_ms`")

    def cost(found: Architecture) -> int:
        return getattr(budget.network.cost(found), COUNTED[budget.recipe.cost])

    try:
        return budget.space.extract_routes(alphas, routes, cost, budget.limit)
    except ConfigError:  # not even the longest path alone
        return None
