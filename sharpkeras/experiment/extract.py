"""Architectures out of the alphas of a search that has run: other strategies, several routes, a budget afterwards."""

import os
from pathlib import Path

from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment import budgets, builders
from sharpkeras.experiment.inherited_settings import training_recipe
from sharpkeras.experiment.plots import last_epoch
from sharpkeras.experiment.sample import refuse_to_lose
from sharpkeras.io import atomic_writes
from sharpkeras.recipes import SearchRecipe
from sharpkeras.runs import RunDirectory, contents
from sharpkeras.spaces.hypercuboid import graph
from sharpkeras.spaces.hypercuboid.space import HyperCuboid


def extract(run, out, strategy="longest", routes=1, epoch=None, changes=None, overwrite=False, tell=None):
    """Reads an architecture off the alphas of a search and writes it as a JSON file.

    Args:
        run: a search run.
        out: the file.
        strategy: for a path, a name in `graph.STRATEGIES`; under a budget only "longest".
        routes: of a path, by min-cost flow (§5); under a budget the most that fit, up to this number.
        epoch: whose alphas, from 1; None is the last.
        changes: settings of the recipe that are other now, such as max_addmults or skip_none.
        overwrite: whether an architecture that is there is replaced.
        tell: what is returned → None, called before the file is written: a full disk costs no result.

    Returns:
        The architecture, the Cost of its network, the SearchRecipe with the changes, whose `cost_of` names the recipe
        of that network, and the TrainRecipe by which it is trained next.

    Raises:
        UsageError: for what this space has not.
        RunError: no such run or epoch, or a file is in the way.
        ConfigError: when nothing is within the budget.
    """
    run = RunDirectory.read(run, "search")
    if "space" in run.recipe:
        step = "alphas are in its epochs/: space.extract(alphas)"
        raise RunError("has a space that only Python knows", where=str(run.path), next_step=step)
    settings = {**contents.settings(run), **(changes or {})}
    recipe, facts = SearchRecipe.from_dict(settings, f"{run.path}/recipe.json").priced(), contents.data(run)
    space, shape, classes = builders.search_space(recipe), tuple(facts["shape"]), len(facts["class_names"])
    name = _epoch_file(run, epoch)
    alphas = contents.alphas(run, name, space)
    if not isinstance(space, HyperCuboid) and (strategy != "longest" or routes > 1):
        raise UsageError("a genotype is no path", where="`strategy`, `routes`", allowed="a search of multichannel")
    if strategy != "longest" and (routes > 1 or recipe.limit_of_cost is not None):
        problem = "several routes and budgets have an extraction of their own"
        raise UsageError(problem, where="`strategy`", seen=strategy, allowed="longest")

    def count(found):
        network = budgets.costed_network(recipe, shape, classes)
        return builders.count_cost(found, *network, budgets.costed_space(recipe, space))

    if strategy != "longest":
        found = space.extract(alphas, strategy=strategy)
    else:
        found = _flow(space, alphas, routes, recipe, count) if routes > 1 else None
        costs = budgets.costs(recipe, space, shape, classes)
        found = found or budgets.extraction(recipe, space, costs)(alphas)
    refuse_to_lose(Path(out), overwrite)
    result = found, count(found), recipe, training_recipe(run.path, search=recipe)
    if tell:
        tell(*result)
    atomic_writes.write(Path(out), found.as_json().encode())
    return result


def _epoch_file(run, epoch):
    """The file of the alphas of an epoch, which counts from 1; None is the last of a finished search."""
    if epoch is None:
        return last_epoch(run)
    name = f"epochs/{epoch - 1:04d}.json"
    if not os.path.isfile(run.path / name):
        done = f"1 to {len(run.read_metrics())}"
        raise RunError(f"has no epoch {epoch}", where=str(run.path), seen=f"no {name}", allowed=done)
    return name


def _flow(space, alphas, routes, recipe, count):
    """The Path of several routes with the largest sum of weights; under a budget of as many as fit, None if none."""
    paths = space.graph(alphas)
    if recipe.limit_of_cost is None:
        return space.path([graph.choices(nodes) for nodes in graph.flow_paths(paths, routes)])
    field = {"addmults": "addmults_paper", "parameters": "parameters"}.get(recipe.cost)
    if field is None:
        raise UsageError("several routes have a budget of AddMults or parameters", where="`max_latency_ms`")

    def cost_of(found):
        return getattr(count(space.path([graph.choices(nodes) for nodes in found])), field)

    try:
        fitting = graph.within_budget(paths, cost_of, recipe.limit_of_cost, routes)
    except ConfigError:  # not even the longest path alone
        return None
    return space.path([graph.choices(nodes) for nodes in fitting])
