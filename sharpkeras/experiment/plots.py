"""What a finished run is shown by: the metrics and alphas of its epochs, and the pictures of them."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from sharpkeras.errors import ResourceError, RunError
from sharpkeras.runs import RunDirectory, contents, files
from sharpkeras.spaces import Architecture, SearchSpace

logger = logging.getLogger("sharpkeras")


def last_epoch(run: RunDirectory) -> str:
    """The file of the alphas with which a finished search ended."""
    return files.epoch(metrics(run)[-1]["epoch"])


def metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """The metrics of a finished run, a row per epoch."""
    rows = run.read_metrics()
    if not rows:
        raise RunError("has lost its metrics", where=str(run.path / files.METRICS), next_step="run it anew")
    return rows


@contextlib.contextmanager
def missing_on_a_full_disk() -> Iterator[None]:
    """While it lasts, a disk without room costs pictures, and no result that stands in the run already."""
    try:
        yield
    except ResourceError as error:
        logger.warning("pictures are missing (%s): the same command draws them", error.problem)


def draw_search(run: RunDirectory, space: SearchSpace, found: Architecture) -> None:
    """Draws metrics, collapse watch, alphas and what a finished search found into its run directory."""
    from sharpkeras.view import collapse, curves

    rows = metrics(run)
    curves.draw_metrics(rows, run.place(files.METRICS_PICTURE))
    collapse.draw_collapse({run.path.name: rows}, run.place(files.COLLAPSE_PICTURE))
    alphas = [contents.alphas(run, files.epoch(row["epoch"]), space) for row in rows]
    space.draw(found, alphas, run.place, f"{run.path.name}: epoch {rows[-1]['epoch'] + 1}")


def draw_training(run: RunDirectory, found: Architecture) -> None:
    """Draws the metrics and the architecture of a finished training into its run directory."""
    from sharpkeras.view import curves

    curves.draw_metrics(metrics(run), run.place(files.METRICS_PICTURE))
    found.draw(run.place, found.name)
