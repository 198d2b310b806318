"""The search, from its recipe to the files of its run directory."""

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from sharpkeras import spaces
from sharpkeras.engine.epochs import NullProgress
from sharpkeras.errors import SharpKerasError
from sharpkeras.experiment import plots, result_checks, setup, shared_steps
from sharpkeras.experiment.inherited_settings import of_kind
from sharpkeras.experiment.run_options import DEFAULT_OPTIONS, RunOptions
from sharpkeras.experiment.search_budget import Budget
from sharpkeras.io import json_files, kinds
from sharpkeras.recipes import SearchRecipe
from sharpkeras.runs import RunDirectory, architectures, files
from sharpkeras.searching.loop import search as run_search
from sharpkeras.spaces import Architecture, SearchSpace


def search(
    recipe: SearchRecipe,
    out: str | os.PathLike[str],
    options: RunOptions = DEFAULT_OPTIONS,
    progress: NullProgress | None = None,
    data_options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
) -> Architecture:
    """Searches an architecture and leaves it in the run directory `out`, with alphas, metrics and pictures.

    Args:
        recipe: SearchRecipe; what its costs and budgets mean, `SearchRecipe.priced` says.
        out: the run directory; a run of the same recipe goes on where it was.
        options: RunOptions.
        progress: see `epochs.NullProgress`.
        data_options: further arguments of `data.load`, such as download.
        space: a SearchSpace of one's own, such as a HyperCuboid, instead of the recipe's space.

    Returns:
        The Architecture, such as a Genotype or a Path.
    """
    of_kind(recipe, SearchRecipe)
    options.begin_job(recipe.batch_size)
    recipe = _priced(recipe, out) if space is None else recipe
    settings = {"settings": recipe.as_dict(), "backend": keras.backend.backend(), **shared_steps.space_entry(space)}
    space, progress = space or spaces.of_recipe(recipe), progress or NullProgress()
    with options.reserve(out, "search", settings) as run:
        if run.finished:
            progress.complete()
            run.begin()
        else:
            found = _search(recipe, space, run, options, progress, data_options)
            architectures.write(run, found)
            run.mark_finished()
        found = _last_found(run)
        with plots.missing_on_a_full_disk():
            plots.draw_search(run, space, found)
        shared_steps.warn(result_checks.of_search(run, space))
        return found


def _priced(recipe: SearchRecipe, out: str | os.PathLike[str]) -> SearchRecipe:
    """The recipe with the network that its costs mean; as it is where a run goes on that began without one.

    Before costs had a network by default they meant, where Python had named none, one of the search's own size.
    """
    if recipe.cost == "none":
        return recipe
    with contextlib.suppress(SharpKerasError):  # no run there, or a damaged one, which is told when it is opened
        if RunDirectory.read(out, "search").recipe.get("settings") == recipe.as_dict():
            return recipe
    return recipe.priced()


def _search(
    recipe: SearchRecipe,
    space: SearchSpace,
    run: RunDirectory,
    options: RunOptions,
    progress: NullProgress,
    data_options: Mapping[str, Any] | None,
) -> Architecture:
    # Test images are not read here, so that no search can see them.
    dataset = shared_steps.check_dataset(run, setup.training_data(recipe, progress, data_options))
    shape, classes = dataset.images.shape[1:], len(dataset.class_names)
    budget = Budget.of(recipe, space, shape, classes)
    budget.extract(space.init_alphas(recipe.seed))  # a budget that nothing fits into is told before the search
    progress.stage("building the supernet")
    run_setup = setup.search(recipe, space, dataset, options.remat, budget.penalty if budget.costs else None)
    shared_steps.begin(run, recipe, dataset, run_setup, options, progress)
    with shared_steps.memory_errors(recipe, options):
        return run_search(
            run_setup.model,
            run,
            recipe.epochs,
            data=run_setup.data,
            held_out=run_setup.held_out,
            extract=budget.extract,
            describe=_description(budget),
            **shared_steps.loop_options(recipe, options, progress),
        )


def _description(budget: Budget) -> Callable[[Architecture, Sequence[Any]], dict[str, Any]]:
    """(architecture, alphas) → what it is made of, the cost of its network, and the cost that the alphas expect."""
    count, name = functools.cache(budget.network.cost), budget.recipe.cost

    def describe(found: Architecture, alphas: Sequence[Any]) -> dict[str, Any]:
        kinds, numbers = budget.space.kinds_of(found), count(found)
        counts = {f"found_{kind}s": kinds.count(kind) for kind in ("skip", "pool", "conv")}
        row = {**counts, "found_parameters": numbers.parameters, "found_addmults": numbers.addmults_paper}
        if budget.costs is not None:
            row.setdefault(f"found_{name}", budget.cost(found))
            row[f"expected_{name}"] = float(budget.expected_cost(alphas))
        return row

    return describe


def _last_found(run: RunDirectory) -> Architecture:
    """The architecture of a finished search, from its last epoch if its file is gone."""
    if architectures.in_run(run) is None:
        epoch = run.read_json(plots.last_epoch(run))
        kind = next((kind for kind in spaces.ARCHITECTURES if kind in epoch), "genotype")
        json_files.require(epoch, {kind: dict}, str(run.path / plots.last_epoch(run)))
        run.write_json(files.architecture(kind), kinds.of_kind(kind, epoch[kind]))
    return architectures.in_run(run)
