"""The collapse watch of searches over the epochs, as a picture: Scalar against Max-W side by side (§4.3)."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpkeras.view.cells import LINE_COLOURS, lettering
from sharpkeras.view.curves import MARKED_EPOCHS, entitle, finish, save, style

LEGEND_LETTERS = 130  # that have room beside each other

ENTROPY = "entropy_"  # begins the names of a metric for each kind of decisions, of which each space has its own
LINES = ("-", "--", ":", "-.")  # in the order in which these stand in the metrics
SHARE, COUNT, MILLIONS = 100, 1, 1e-6
PANELS = (  # title, metric → line (None: entropies), scale of the numbers, lowest of the axis where it is fixed
    ("edges won by skip, %", {"skip_share": "-"}, SHARE, 0),
    ("edges won by pooling, %", {"pool_share": "-"}, SHARE, 0),
    ("edges won by none, %", {"none_share": "-"}, SHARE, 0),
    # A short search moves it by hundredths of a nat from ln P, which an axis from 0 would hide.
    ("entropy of the alphas, nats (reduction cells dashed)", None, COUNT, None),
    ("convolutions in what was found", {"found_convs": "-"}, COUNT, 0),
    ("AddMults of what was found, millions", {"found_addmults": "-"}, MILLIONS, 0),
)


def draw_collapse(
    rows_by_run: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """Write a PNG of what wins on the edges of one or several searches, how sure they are, and what it costs.

    Args:
        rows_by_run: name of a run → its metrics, a dictionary for each epoch; what an epoch does not have is left out.
        path: the PNG file; an existing one is replaced.
        labels: name of a run → what it is called; runs of one label are drawn alike. None calls each by its name.
        title: a line above the pictures.
    """
    labels = labels or {name: name for name in rows_by_run}
    styles = {label: _style(index) for index, label in enumerate(dict.fromkeys(labels.values()))}
    names = [_legend(label, labels) for label in styles]
    columns = max(1, min(5, len(names), LEGEND_LETTERS // (6 + max(map(len, names)))))
    lines = -(-len(names) // columns) + sum(name.count("\n") for name in names)
    figure = Figure(figsize=(13, 6.2 + 0.2 * lines), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 3)
    for axes, (heading, kinds, scale, lowest) in zip(panels.flat, PANELS):
        for name, rows in rows_by_run.items():
            for metric, linestyle in (_entropies(rows) if kinds is None else kinds).items():
                _draw_line(axes, rows, metric, scale, linestyle=linestyle, **styles[labels[name]])
        axes.set_title(heading, fontsize=10, loc="left")
        _limit(axes, scale, lowest)
        finish(axes, "epoch")
    handles = [Line2D([], [], linewidth=2.4, **line) for line in styles.values()]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles, names, fontsize=9, frameon=False, **place)
    entitle(figure, title)
    save(figure, path)


def _entropies(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(ENTROPY))
    return dict(zip(names, itertools.cycle(LINES)))


def _style(index: int) -> dict[str, Any]:
    """Of as few as there are colours, a line without marks."""
    return style(index) if index >= len(LINE_COLOURS) else {"color": style(index)["color"], "marker": ""}


def _draw_line(
    axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str, scale: float, marker: str, **line: Any
) -> None:
    points = [(row["epoch"] + 1, scale * row[metric]) for row in rows if row.get(metric) is not None]
    marks: dict[str, Any] = {
        "marker": marker or ("." if len(points) < MARKED_EPOCHS else ""),
        "markersize": 5 if marker else None,
    }
    if points:
        axes.plot(*zip(*points), linewidth=1.6, alpha=0.85, markevery=1 + len(points) // MARKED_EPOCHS, **marks, **line)


def _limit(axes: Any, scale: float, lowest: float | None) -> None:
    if scale == SHARE:
        axes.set_ylim(-3, 103)
    elif lowest is not None and axes.lines:
        highest = max(max(line.get_ydata()) for line in axes.lines)
        axes.set_ylim(lowest, 1.08 * highest or 1)
        axes.yaxis.get_major_locator().set_params(integer=True)


def _legend(label: str, labels: Mapping[str, str]) -> str:
    runs = sum(label == other for other in labels.values())
    text = f"{label} ({runs} runs)" if runs > 1 else label
    return "\n".join(map(lettering, textwrap.wrap(text, LEGEND_LETTERS, break_on_hyphens=False)))
