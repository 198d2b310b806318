"""Alphas, metrics and schedules over time, as pictures."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import softmax

from sharpkeras.io import atomic_writes
from sharpkeras.view.cells import INK, LINE_COLOURS, OTHER_COLOUR, PRIMITIVE_COLOURS, lettering, lines_of

GRID = "#dddddd"
MARKED_EPOCHS = 30  # up to here every epoch is a point
MARKERS = "osD^vPX*<>hpd"
# Of log₂ (weight / uniform weight), of which 0.12 beside 0.111 is 0.11: where the colour is full at the least, so that
# a small difference is seen, and is seen to be small.
LEAST_FULL_COLOUR = 0.5


def draw_alphas(
    alphas_by_epoch: np.ndarray,
    primitives: Sequence[str],
    path: str | os.PathLike[str],
    title: str | None = None,
    edges: Sequence[str] | None = None,
) -> None:
    """Write a PNG of what a search decided: the last weights of every edge, and how the winners got there.

    Args:
        alphas_by_epoch: logits of one kind of cell, (T, E, P) for T epochs, E edges and P primitives.
        primitives: the P names.
        path: the PNG file; an existing one is replaced.
        title: a line above the pictures.
        edges: the E names of what was decided; None are those of the edges of a cell.
    """
    weights = softmax(np.asarray(alphas_by_epoch, "float64"), axis=-1)  # (T, E, P)
    num_edges = weights.shape[1]
    figure = Figure(figsize=(13, max(3.6, 1.6 + 0.28 * num_edges)), layout="constrained", facecolor="white")
    heat, lines = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_last_weights(figure, heat, weights, primitives, edges or edge_names(num_edges))
    _draw_winners(lines, weights, primitives)
    entitle(figure, title)
    save(figure, path)


def show_weights(
    figure: Figure, panels: Iterable[Axes], groups: Sequence[tuple[np.ndarray, int]]
) -> tuple[list[np.ndarray], float]:
    """Draw softmax weights as images, coloured by log₂ (weight / uniform weight), with a colour bar.

    Args:
        figure: that of the panels.
        panels: axes, one for each of the groups.
        groups: (weights, an array of two axes; over how many choices a softmax goes).

    Returns:
        The logarithms to base 2 of weight / uniform weight, an array for each group, and that of a full colour.
    """
    with np.errstate(divide="ignore"):
        ratios = [np.log2(weights * choices) for weights, choices in groups]
    most = max(np.log2(choices) for _, choices in groups)  # of a weight of 1; that of 0 has none
    top = np.clip(max(np.abs(ratio).max() for ratio in ratios), LEAST_FULL_COLOUR, max(most, LEAST_FULL_COLOUR))
    for axes, ratio in zip(panels, ratios):
        image = axes.imshow(ratio.clip(-top, top), cmap="PuOr_r", vmin=-top, vmax=top, aspect="auto")
    beyond = "min" if min(ratio.min() for ratio in ratios) < -top else "neither"
    label = "log₂ (weight / uniform weight)"
    figure.colorbar(image, ax=panels, shrink=0.8, label=label, extend=beyond)
    return ratios, top


def _draw_last_weights(
    figure: Figure, axes: Axes, weights: np.ndarray, primitives: Sequence[str], edges: Sequence[str]
) -> None:
    last = weights[-1]  # (E, P)
    (ratios,), top = show_weights(figure, [axes], [(last, len(primitives))])
    for edge, primitive in enumerate(last.argmax(-1)):
        value, is_dark = last[edge, primitive], ratios[edge, primitive] > 0.6 * top
        number = f"{value:.2f}" if value >= 0.2 else f"{value:.3f}"  # 0.115 is not 0.124
        colour = "white" if is_dark else INK
        axes.text(primitive, edge, number, ha="center", va="center", fontsize=8, color=colour)
    names = list(map(lettering, primitives))
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(last)), edges)
    axes.set_title(f"weights after epoch {len(weights)}", fontsize=10, loc="left")


def _draw_winners(axes: Axes, weights: np.ndarray, primitives: Sequence[str]) -> None:
    winners = weights[-1].argmax(-1)  # (E,)
    epochs = range(1, 1 + len(weights))
    marker = "." if len(weights) < MARKED_EPOCHS else ""
    for edge, primitive in enumerate(winners):
        colour = _line_colour(primitives[primitive])
        axes.plot(epochs, weights[:, edge, primitive], color=colour, linewidth=1.6, marker=marker)
    for primitive in np.unique(winners):
        name, edges = primitives[primitive], np.sum(winners == primitive)
        axes.plot([], [], color=_line_colour(name), linewidth=4, label=f"{lettering(name)} ({edges})")
    axes.axhline(1 / len(primitives), color=INK, linewidth=0.8, linestyle=":", label="uniform")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # outside, where no line runs
    axes.legend(title="last winner (edges)", fontsize=8, title_fontsize=8, frameon=False, **place)
    axes.set_title("weight of each edge's last winner", fontsize=10, loc="left")
    finish(axes, "epoch")


def edge_names(num_edges: int) -> list[str]:
    """Names of a cell's edges in their order, "source → node"; inputs are c_{k-2} and c_{k-1}, nodes count from 0."""
    names: list[str] = []
    node = 0
    while len(names) < num_edges:
        sources = ["$c_{k-2}$", "$c_{k-1}$", *map(str, range(node))]
        names += [f"{source} → {node}" for source in sources]
        node += 1
    return names[:num_edges]


def draw_metrics(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write a PNG of the losses and the accuracies over the epochs.

    Args:
        rows: a dictionary for each epoch with `epoch` and numbers whose names contain "loss" or "accuracy".
        path: the PNG file; an existing one is replaced.
    """
    figure = Figure(figsize=(11, 3.8), layout="constrained", facecolor="white")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        for name in [name for name in _names(rows) if quantity in name]:
            points = [(row["epoch"] + 1, row[name]) for row in rows if row.get(name) is not None]
            marker = "." if len(points) < MARKED_EPOCHS else ""
            axes.plot(*zip(*points), label=lettering(name.replace("_", " ")), linewidth=1.6, marker=marker)
        axes.set_title(quantity, fontsize=10, loc="left")
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        finish(axes, "epoch")
    save(figure, path)


def draw_schedule(steps_per_epoch: int, values: Sequence[float], path: str | os.PathLike[str]) -> None:
    """Write a PNG of a learning rate over the epochs, on a linear and on a logarithmic scale (Fig. 5).

    Args:
        steps_per_epoch: steps in an epoch.
        values: the learning rate of every step.
        path: the PNG file; an existing one is replaced.
    """
    epochs = np.arange(len(values)) / steps_per_epoch
    figure = Figure(figsize=(11, 3.8), layout="constrained", facecolor="white")
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log")):
        axes.plot(epochs, values, color="#4477aa", linewidth=1.8)
        axes.set_yscale(scale)
        axes.set_title(f"learning rate, {scale} scale", fontsize=10, loc="left")
        finish(axes, "epoch")
    save(figure, path)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all rows, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _line_colour(primitive: str) -> tuple[float, ...]:
    """A primitive's colour of the cells, dark enough for a line."""
    colour = PRIMITIVE_COLOURS.get(primitive, OTHER_COLOUR)
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return tuple(channel**1.8 * 0.85 for channel in channels)


def style(index: int) -> dict[str, str]:
    """Colour and marker of a line, which no other index has."""
    round_, colour = divmod(index, len(LINE_COLOURS))
    return {"color": LINE_COLOURS[colour], "marker": MARKERS[round_] if round_ < len(MARKERS) else f"${round_}$"}


def entitle(figure: Figure, title: str | None) -> None:
    """Set the title of a figure, in as many lines as its width needs."""
    if title:
        text = "\n".join(lines_of(title, figure.get_figwidth()))
        figure.suptitle(text, fontsize=13, fontweight="bold", color=INK)


def finish(axes: Axes, label: str) -> None:
    """Set label, grid and ticks of axes over time."""
    axes.set_xlabel(label)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True, min_n_ticks=1)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure as a PNG, whole or not at all, and the same one each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    atomic_writes.write(path, buffer.getbuffer())
