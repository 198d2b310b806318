"""What a finished run is shown by: the metrics and alphas of its epochs, and the pictures of them."""

import contextlib
import logging

import numpy as np

from sharpkeras.errors import ResourceError, RunError
from sharpkeras.runs import contents, files

logger = logging.getLogger("sharpkeras")


def last_epoch(run):
    """The file of the alphas with which a finished search ended."""
    return files.epoch(metrics(run)[-1]["epoch"])


def metrics(run):
    """The metrics of a finished run, a row per epoch."""
    rows = run.read_metrics()
    if not rows:
        raise RunError("has lost its metrics", where=str(run.path / files.METRICS), next_step="run it anew")
    return rows


@contextlib.contextmanager
def missing_on_a_full_disk():
    """While it lasts, a disk without room costs pictures, and no result that stands in the run already."""
    try:
        yield
    except ResourceError as error:
        logger.warning("pictures are missing (%s): the same command draws them", error.problem)


def draw_search(run, space, found):
    """Draws metrics, collapse watch, alphas and what a finished search found into its run directory."""
    from sharpkeras.view import collapse, curves

    rows = metrics(run)
    curves.draw_metrics(rows, run.place(files.METRICS_PICTURE))
    collapse.draw_collapse({run.path.name: rows}, run.place(files.COLLAPSE_PICTURE))
    alphas = [contents.alphas(run, files.epoch(row["epoch"]), space) for row in rows]
    title = f"{run.path.name}: epoch {rows[-1]['epoch'] + 1}"
    {"genotype": _draw_cells, "path": _draw_cuboid}[found.kind](run, space, found, alphas, title)


def _draw_cells(run, space, found, alphas, title):
    from sharpkeras.view import cells, curves

    cells.draw_genotype(found, run.place("cells.png"), title=title)
    for kind, name in enumerate(("normal", "reduce")):
        by_epoch = np.array([epoch[kind] for epoch in alphas])  # (T, E, P)
        heading = f"{name.replace('reduce', 'reduction')} cell"
        curves.draw_alphas(by_epoch, space.primitive_names, run.place(f"alphas_{name}.png"), title=heading)


def _draw_cuboid(run, space, found, alphas, title):
    from sharpkeras.view import hypercuboid

    routes, weights = [space.route(route) for route in found.routes], space.weights(alphas[-1])
    hypercuboid.draw_path(routes, space.lattice, space.choices, weights, run.place("path.png"), title=title)
    hypercuboid.draw_weights(weights, space.choices, run.place("alphas.png"), title=f"weights of {title}")


def draw_training(run, found):
    """Draws the metrics and the cells of a finished training into its run directory."""
    from sharpkeras.view import cells, curves

    curves.draw_metrics(metrics(run), run.place(files.METRICS_PICTURE))
    if found.kind == "genotype":
        cells.draw_genotype(found, run.place("cells.png"), title=found.name)
