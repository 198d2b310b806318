"""A path through its HyperCuboid as a picture, after Fig. 6, and the weights of all choices."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpkeras.view.cells import INK, LINE_COLOURS, lettering
from sharpkeras.view.curves import entitle, save, show_weights

FAINT = "#9aa5b1"
COLUMN, ROW = 1.75, 0.85  # inches between positions and between states
LABELS_AS_TICKS = 40  # choices of a position that still have room for their names


def draw_path(
    routes: Sequence[Sequence[tuple[int, int]]],
    lattice: tuple[Sequence, Sequence],
    choices: Sequence[tuple],
    weights: Sequence[np.ndarray] | None,
    path: str | os.PathLike[str],
    title: str | None = None,
) -> None:
    """Write a PNG of all states and choices, the lines as wide as their weights, with the routes of a path on top.

    Args:
        routes: lists of (state, choice) indices, one per position.
        lattice: (shapes, outcomes) of the HyperCuboid.
        choices: the K choices as tuples of (axis, label).
        weights: per position the softmax weights (S_l, K); None draws all lines alike.
        path: the PNG file; an existing one is replaced.
        title: a line above the picture.
    """
    shapes, outcomes = lattice
    deepest = max(len(states) for states in shapes)
    size = (1.6 + COLUMN * len(outcomes), 1.5 + ROW * deepest)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for position, targets in enumerate(outcomes):
        _draw_position(axes, position, targets, None if weights is None else weights[position])
    for number, route in enumerate(routes):
        _draw_route(axes, route, outcomes, choices, LINE_COLOURS[(number + 1) % len(LINE_COLOURS)])
    for position, states in enumerate(shapes):
        for state, shape in enumerate(states):
            axes.annotate(str(shape[-1]), (position, state), ha="center", va="center", fontsize=9, color=INK, bbox=_BOX)
    axes.set_xticks(range(len(shapes)), [_scale(shapes[0][0], states[0]) for states in shapes], fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(deepest - 0.4, -0.6)
    axes.set_xlim(-0.45, len(outcomes) + 0.45)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("filters of each state; below, the size of the image", fontsize=9, color=INK)
    entitle(figure, title)
    save(figure, path)


_BOX = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}


def _scale(first: Sequence[int], shape: Sequence[int]) -> str:
    factor = round(first[0] / shape[0])
    return "full" if factor == 1 else f"1/{factor}"


def _draw_position(axes: Axes, position: int, targets: Any, weights: np.ndarray | None) -> None:
    """One line for each pair of states, as wide as the strongest choice between them."""
    for state, row in enumerate(targets):
        for target in np.unique(row):
            width = 0.8 if weights is None else 0.3 + 3.5 * weights[state][row == target].max() / weights.max()
            axes.plot((position, position + 1), (state, target), color=FAINT, linewidth=width, alpha=0.5, zorder=0)


def _draw_route(
    axes: Axes, route: Sequence[tuple[int, int]], outcomes: Sequence, choices: Sequence[tuple], colour: str
) -> None:
    for position, (state, choice) in enumerate(route):
        target = outcomes[position][state][choice]
        axes.plot((position, position + 1), (state, target), color=colour, linewidth=3, zorder=1)
        middle = (position + 0.5, (state + target) / 2)
        beside = [(axis, label) for axis, label in choices[choice] if axis != "filters"]  # which the states show
        text = "\n".join(lettering(label if isinstance(label, str) else f"{axis} {label}") for axis, label in beside)
        axes.annotate(text, middle, ha="center", va="bottom", fontsize=7.5, color=colour, bbox=_LABEL, zorder=2)


_LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def draw_weights(
    weights: Sequence[np.ndarray], choices: Sequence[tuple], path: str | os.PathLike[str], title: str | None = None
) -> None:
    """Write a PNG of the softmax weight of every choice beside a uniform one, a picture per position.

    Args:
        weights: per position (S_l, K).
        choices: the K choices as tuples of (axis, label).
        path: the PNG file; an existing one is replaced.
        title: a line above the pictures.
    """
    names = [lettering(" ".join(str(label) for _, label in choice)) for choice in choices]
    states, named = max(len(position) for position in weights), len(choices) <= LABELS_AS_TICKS
    height = len(weights) * (0.5 + 0.25 * states) + 1.6 + (0.07 * max(map(len, names)) if named else 0)
    size = (max(4.0, 2.2 + 0.3 * len(choices)), max(3.6, height))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(len(weights), 1, squeeze=False)[:, 0]
    show_weights(figure, panels, [(values, values.size) for values in weights])
    for position, axes in enumerate(panels):
        axes.set_ylabel(f"{position}", rotation=0, labelpad=12, fontsize=9)
        axes.set_yticks([])
        axes.set_xticks([])
    if named:
        axes_named = lettering(", ".join(axis for axis, _ in choices[0]))
        panels[-1].set_xlabel(axes_named, fontsize=9, color=INK)
        panels[-1].set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    figure.supylabel("position (rows: the states it reads)", fontsize=9, color=INK)
    entitle(figure, title)
    save(figure, path)
