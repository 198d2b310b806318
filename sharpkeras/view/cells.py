"""The cells of a genotype as a picture, like the figures of found cells in the paper."""

import io
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from sharpkeras.errors import printable
from sharpkeras.io import atomic_writes
from sharpkeras.view import layout

PRIMITIVE_COLOURS = {
    "none": "#ffffff",
    "skip_connect": "#d9d9d9",
    "avg_pool_3x3": "#a6cee3",
    "max_pool_3x3": "#7fb4d8",
    "sep_conv_3x3": "#fdd49e",
    "sep_conv_5x5": "#fdbb84",
    "sep_conv_7x7": "#fc9d59",
    "dil_conv_3x3": "#fff2a8",
    "dil_conv_5x5": "#fde05a",
    "flood_conv_3x3": "#c7e9c0",
    "flood_conv_5x5": "#a1d99b",
    "dil_flood_conv_3x3": "#7fcdbb",
    "dil_flood_conv_5x5": "#5dbfa9",
    "choke_conv_3x3": "#dadaeb",
    "dil_choke_conv_3x3": "#bcbddc",
}
OTHER_COLOUR = "#fbb4c4"
# One for each state, so that a line can be followed through a crossing.
LINE_COLOURS = ("#4477aa", "#cc6677", "#117733", "#997700", "#aa4499", "#44aa99", "#666666")
INK = "#222222"

# Inches.
PILL = 1.42, 0.25
LETTERS = 18  # of a pill at full size; the name of a primitive of somebody's own may be longer
PILL_STEP = 0.32
PORT = 0.30  # between the pills and the circle of their node
RADIUS = 0.17
BLOCK = PILL[0] + PORT + 2 * RADIUS  # a node with its pills
END = 0.62, 0.34  # an input or the output
PORT_STEP = 0.11  # between the lines that arrive at the output
HEAD = 0.09
GAP = 0.85  # between columns, for the lines
NODE_HEIGHT = 2 * PILL_STEP + 0.22
WAYPOINT_HEIGHT = 0.16
MARGIN = 0.25
TITLE_LINE = 0.25
TITLE_LETTER = 0.13  # a wide one
OUTPUT = "output"
STATE_NAMES = {0: "$c_{k-2}$", 1: "$c_{k-1}$", OUTPUT: "$c_k$"}


@dataclass(frozen=True)
class _Cell:
    """A cell on paper: the left edge of every column, the middle of every box, the waypoints of every line."""

    pills: dict[int, list[tuple[str, int]]]  # node -> its two (primitive, source), the upper one first
    concat: Sequence[int]
    left: dict[int, float]  # column -> x
    column: dict[Any, int]
    y: dict[Any, float]
    ways: dict[tuple, list[Any]]
    width: float
    low: float
    high: float


def draw_genotype(genotype: Any, path: str | os.PathLike[str], title: str | None = None) -> None:
    """Write a PNG of the normal and the reduction cell, one above the other.

    States 0 and 1 are the cell's inputs, the outputs of the two cells before; each node sums two primitives, and the
    output concatenates nodes.

    Args:
        genotype: has `normal` and `reduce`, two (primitive, source state) for each node, and `normal_concat` and
            `reduce_concat`, the states that the output concatenates.
        path: the PNG file; an existing one is replaced.
        title: a line above the cells.
    """
    cells = {
        "normal cell": _arrange(genotype.normal, genotype.normal_concat),
        "reduction cell": _arrange(genotype.reduce, genotype.reduce_concat),
    }
    heights = [cell.high - cell.low + 0.45 + MARGIN for cell in cells.values()]
    width = max(cell.width for cell in cells.values()) + 2 * MARGIN
    lines = lines_of(title, width - 2 * MARGIN) if title else []
    height = sum(heights) + (0.15 + TITLE_LINE * len(lines) if lines else 0)
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), aspect="equal", xlim=(0, width), ylim=(-height, 0))
    axes.axis("off")
    top = -0.15
    if lines:
        axes.text(MARGIN, top, "\n".join(lines), ha="left", va="top", fontsize=13, fontweight="bold", color=INK)
        top -= 0.15 + TITLE_LINE * len(lines)
    for (name, cell), own_height in zip(cells.items(), heights):
        axes.text(MARGIN, top, name, ha="left", va="top", fontsize=11, color=INK)
        middle = top - 0.3 - (own_height - 0.3) / 2 - (cell.high + cell.low) / 2
        _draw_cell(axes, cell, MARGIN, middle)
        top -= own_height
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    atomic_writes.write(path, buffer.getbuffer())


def lettering(text: Any) -> str:
    """A text of somebody else's for a picture: matplotlib takes what stands between $ for a formula, and leaves a name
    that begins with _ out of a legend."""
    text = printable(str(text), 1000).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def lines_of(title: str, width: float) -> list[str]:
    """The lines of a title on a width in inches."""
    letters = max(12, int(width / TITLE_LETTER))
    return [lettering(line) for line in textwrap.wrap(title, letters, break_on_hyphens=False)]


def _arrange(operations: Sequence[tuple[str, int]], concat: Sequence[int]) -> _Cell:
    graph = networkx.DiGraph()
    graph.add_nodes_from((0, 1))
    for index, (_, source) in enumerate(operations):
        graph.add_edge(source, 2 + index // 2)
    graph.add_edges_from((state, OUTPUT) for state in concat)
    column = layout.columns(graph, last=OUTPUT)
    proper, column, ways = layout.with_waypoints(graph, column)
    sizes = {node: WAYPOINT_HEIGHT if isinstance(node, tuple) else NODE_HEIGHT for node in proper}
    sizes.update({0: 0.6, 1: 0.6})
    sizes[OUTPUT] = _output_height(concat) + 0.2
    y = layout.heights(proper, column, sizes)
    if y[0] < y[1]:
        y = {node: -height for node, height in y.items()}  # c_{k-2} on top, in every picture

    def arrival(source: int, node: int) -> float:
        return y[[source, *ways[source, node]][-1]]

    pills = {
        node: sorted(operations[2 * node - 4 : 2 * node - 2], key=lambda pill: -arrival(pill[1], node))
        for node in range(2, 2 + len(operations) // 2)
    }
    last = column[OUTPUT]
    left = {0: 0.0, **{index: END[0] + GAP + (index - 1) * (BLOCK + GAP) for index in range(1, last + 1)}}
    low = min(y[node] - sizes[node] / 2 for node in proper)
    high = max(y[node] + sizes[node] / 2 for node in proper)
    return _Cell(pills, concat, left, column, y, ways, left[last] + END[0], low, high)


def _draw_cell(axes: Axes, cell: _Cell, left: float, middle: float) -> None:
    def place(node: Any) -> tuple[float, float]:
        return left + cell.left[cell.column[node]], middle + cell.y[node]

    lines = _lines(cell, place)
    for source in sorted({line[0] for line in lines}):
        own = [points for line_source, points in lines if line_source == source]
        for points in own:
            _draw_line(axes, points, "white", 3.5)  # a gap in the lines that it crosses, not in its own branches
        for points in own:
            _draw_line(axes, points, LINE_COLOURS[source % len(LINE_COLOURS)], 1.5)
            _draw_head(axes, points[-1], LINE_COLOURS[source % len(LINE_COLOURS)])
    _draw_end(axes, *place(0), STATE_NAMES[0], END[1])
    _draw_end(axes, *place(1), STATE_NAMES[1], END[1])
    _draw_end(axes, *place(OUTPUT), STATE_NAMES[OUTPUT], _output_height(cell.concat))
    for node, pills in cell.pills.items():
        _draw_node(axes, *place(node), node, pills)


def _lines(cell: _Cell, place: Callable[[Any], tuple[float, float]]) -> list[tuple[int, list[tuple[float, float]]]]:
    """Every line as (source state, its points: start, waypoints, tip)."""
    lines = []
    for (source, target), way in cell.ways.items():
        x, y = place(target)
        if target == OUTPUT:
            order = sorted(cell.concat, key=lambda state: cell.y[[state, *cell.ways[state, OUTPUT]][-1]])
            heights = [y + (order.index(source) - (len(order) - 1) / 2) * PORT_STEP]
        else:
            both = (y + PILL_STEP / 2, y - PILL_STEP / 2)
            heights = [height for height, (_, end) in zip(both, cell.pills[target]) if end == source]
        start = _right_end(place(source), source)
        lines += [(source, [start, *(place(waypoint) for waypoint in way), (x, height)]) for height in heights]
    return lines


def _output_height(concat: Sequence[int]) -> float:
    return max(END[1], PORT_STEP * (len(concat) + 1))


def _right_end(place: tuple[float, float], node: Any) -> tuple[float, float]:
    width = END[0] if node in (0, 1) else BLOCK
    return place[0] + width, place[1]


def _draw_line(axes: Axes, points: Sequence[tuple[float, float]], colour: str, linewidth: float) -> None:
    """A curve that is level at every point and straight beside the boxes that it passes."""
    *points, tip = points
    vertices, codes = points[:1], [Path.MOVETO]
    for x, y in points[1:]:
        vertices += [*_curve(vertices[-1], (x, y)), (x + BLOCK, y)]
        codes += [Path.CURVE4] * 3 + [Path.LINETO]
    vertices += _curve(vertices[-1], (tip[0] - HEAD, tip[1]))
    codes += [Path.CURVE4] * 3
    line = Path(vertices, codes)
    axes.add_patch(PathPatch(line, fill=False, edgecolor=colour, linewidth=linewidth, capstyle="butt"))


def _draw_head(axes: Axes, tip: tuple[float, float], colour: str) -> None:
    x, y = tip
    corners = [tip, (x - HEAD, y + HEAD / 2), (x - HEAD, y - HEAD / 2)]
    axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="none"))


def _curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    bend = (end[0] - start[0]) * 0.5
    return [(start[0] + bend, start[1]), (end[0] - bend, end[1]), end]


def _box(x: float, y: float, width: float, height: float, colour: str, rounding: float) -> FancyBboxPatch:
    """A box with round corners, from its left edge and its middle height."""
    return FancyBboxPatch(
        (x + rounding, y - height / 2 + rounding),
        width - 2 * rounding,
        height - 2 * rounding,
        boxstyle=f"round,pad={rounding}",
        facecolor=colour,
        edgecolor=INK,
        linewidth=0.9,
    )


def _draw_end(axes: Axes, x: float, y: float, name: str, height: float) -> None:
    axes.add_patch(_box(x, y, END[0], height, "#f2f2f2", 0.05))
    axes.text(x + END[0] / 2, y, name, ha="center", va="center", fontsize=11, color=INK)


def _draw_node(axes: Axes, x: float, y: float, node: int, pills: Sequence[tuple[str, int]]) -> None:
    centre = x + PILL[0] + PORT + RADIUS, y
    for height, (primitive, _) in zip((y + PILL_STEP / 2, y - PILL_STEP / 2), pills):
        right = (x + PILL[0], height)
        curve = Path([right, *_curve(right, (centre[0] - RADIUS, y))], [Path.MOVETO] + [Path.CURVE4] * 3)
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=INK, linewidth=1.2))
        axes.add_patch(_box(x, height, *PILL, PRIMITIVE_COLOURS.get(primitive, OTHER_COLOUR), 0.08))
        size = 9 if len(primitive) <= LETTERS else 0.85 * 9 * LETTERS / len(primitive)
        name = lettering(primitive)
        axes.text(x + PILL[0] / 2, height - 0.01, name, ha="center", va="center", fontsize=size, color=INK)
    colour = LINE_COLOURS[node % len(LINE_COLOURS)]
    axes.add_patch(Circle(centre, RADIUS, facecolor="white", edgecolor=colour, linewidth=1.8))
    axes.text(*centre, str(node - 2), ha="center", va="center_baseline", fontsize=10, color=INK)
