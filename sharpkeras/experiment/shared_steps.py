"""What a search and a training share: checks and records before the first epoch, and what is told after the last."""

import contextlib
import functools
import logging

from sharpkeras.engine.epochs import refuse_full_disk
from sharpkeras.errors import ResourceError, RunError, UsageError, is_out_of_memory, printable
from sharpkeras.experiment import forecast, setup
from sharpkeras.runs import contents
from sharpkeras.runs.contents import DATA

logger = logging.getLogger("sharpkeras")


def loop_options(recipe, conduct, progress):
    """The arguments of `epochs.run_epochs` that a search and a training have in common."""
    check = functools.partial(forecast.refuse_too_large, recipe, conduct.remat) if conduct.check_memory else None
    return {"progress": progress, "checkpoint_s": conduct.checkpoint_s, "check": check}


def warn(texts):
    for text in texts:
        logger.warning("%s", text)


def check_recipe(recipe, kind):
    if not isinstance(recipe, kind):
        raise UsageError("another recipe", where="recipe", seen=type(recipe).__name__, allowed=kind.__name__)


def space_entry(space):
    """What a run keeps of a HyperCuboid that was defined in Python."""
    return {} if space is None else {"space": space.as_dict()}


def check_dataset(run, dataset):
    """The dataset; raises RunError where the run began with another one."""
    if run.resumed and run.has(DATA):
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


def begin(run, recipe, dataset, made, conduct, progress):
    """Begins the run, now that all that can be wrong with recipe and data would have been found, and says on what."""
    if conduct.check_disk:
        refuse_full_disk(made.model, run.path)
    run.begin()
    line = setup.in_words(dataset, made.uses, recipe.precision)
    progress.works_on(line)
    logger.info("%s", line)
    for note in made.notes:
        progress.note(note)
        logger.info("note: %s", note)
    facts = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.images),
        "uses": made.uses,
        "chance": made.chance,
        "shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "deviation": list(dataset.deviation),
        "notes": list(dataset.notes),
        "skipped_files": list(dataset.skipped_files),
    }
    run.write_json(DATA, facts)


@contextlib.contextmanager
def memory_errors(recipe, conduct):
    """Turns a framework's error for want of memory into one that says what was tried and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = (
            f"out of memory: {printable(str(error).strip().splitlines()[0], 200)}" if str(error) else "out of memory"
        )
        tried, change = forecast.tried(recipe, conduct.remat), forecast.smaller(recipe, conduct.remat)
        raise ResourceError(problem, seen=tried, next_step=f"{change}; --dry-run tells what a step needs") from error
