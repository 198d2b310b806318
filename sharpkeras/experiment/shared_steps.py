"""Steps that a search and a training share: checks and records before the first epoch, warnings after the last."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any

from sharpkeras.data import Dataset
from sharpkeras.engine.epochs import NullProgress, refuse_full_disk
from sharpkeras.errors import ResourceError, RunError, is_out_of_memory, printable
from sharpkeras.experiment import forecast, setup
from sharpkeras.experiment.run_options import RunOptions
from sharpkeras.io import kinds
from sharpkeras.recipes.rows import Recipe
from sharpkeras.runs import RunDirectory, contents, files
from sharpkeras.spaces import SearchSpace

logger = logging.getLogger("sharpkeras")


def loop_options(recipe: Recipe, options: RunOptions, progress: NullProgress) -> dict[str, Any]:
    """The arguments of `epochs.run_epochs` that a search and a training have in common."""
    checkpoint_s = math.inf if options.is_follower else options.checkpoint_s
    check = functools.partial(forecast.refuse_too_large, recipe, options.remat) if options.check_memory else None
    return {
        "progress": progress,
        "checkpoint_s": checkpoint_s,
        "check": check,
        "steps_per_call": options.steps_per_call,
    }


def warn(texts: Iterable[str]) -> None:
    """Log each text as a warning."""
    for text in texts:
        logger.warning("%s", text)


def space_entry(space: SearchSpace | None) -> dict[str, Any]:
    """What a run keeps of a HyperCuboid that was defined in Python."""
    return {} if space is None else {"space": space.as_dict()}


def check_dataset(run: RunDirectory, dataset: Dataset) -> Dataset:
    """The dataset, compared by its fingerprint; raises RunError where the run began with another one."""
    if run.resumed and run.has(files.DATA):
        before = contents.data(run)["fingerprint"]
        if before != dataset.fingerprint:
            raise RunError(
                "the run began with other data",
                where=str(run.path),
                seen=f"fingerprint {dataset.fingerprint}",
                allowed=before,
                next_step="choose another directory with `out`, or begin anew with `overwrite`",
            )
    return dataset


def begin(
    run: RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    run_setup: setup.RunSetup,
    options: RunOptions,
    progress: NullProgress,
) -> None:
    """Begin the run, now that all that can be wrong with recipe and data would have been found, and say on what."""
    if options.check_disk:
        refuse_full_disk(run_setup.model, run.path)
    run.begin()
    line = setup.in_words(dataset, run_setup.uses, recipe.precision)
    progress.works_on(line)
    logger.info("%s", line)
    for note in run_setup.notes:
        progress.note(note)
        logger.info("note: %s", note)
    facts = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.images),
        "uses": run_setup.uses,
        "chance": run_setup.chance,
        "shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "deviation": list(dataset.std),
        "notes": list(dataset.notes),
        "skipped_files": list(dataset.skipped_files),
    }
    run.write_json(files.DATA, kinds.of_kind(kinds.DATA, facts))


@contextlib.contextmanager
def memory_errors(recipe: Recipe, options: RunOptions) -> Iterator[None]:
    """Turn a framework's error for want of memory into one that says what was tried and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = (
            f"out of memory: {printable(str(error).strip().splitlines()[0], 200)}" if str(error) else "out of memory"
        )
        tried, change = forecast.tried(recipe, options.remat), forecast.smaller(recipe, options.remat)
        raise ResourceError(problem, seen=tried, next_step=f"{change}; --dry-run tells what a step needs") from error
