"""How well AddMults predict latency, as a picture: one point for each network."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpkeras.view.cells import INK, lettering
from sharpkeras.view.curves import GRID, save, style


def draw_latency(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write a PNG of p50 against AddMults, a panel for each size of images and batch, with the line of least squares.

    Args:
        rows: dicts with `name`, `size`, `batch_size`, `addmults_paper`, `p50_ms` and its `p50_interval_ms`.
        path: the PNG file; an existing one is replaced.
    """
    panels = list(dict.fromkeys((row["size"], row["batch_size"]) for row in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.6 * lines), layout="constrained", facecolor="white")
    for axes, (size, batch_size) in zip(figure.subplots(lines, columns, squeeze=False).flat, panels):
        _draw_panel(axes, [row for row in rows if (row["size"], row["batch_size"]) == (size, batch_size)])
        axes.set_title(f"{size}, batch {batch_size}", fontsize=10, loc="left")
    save(figure, path)


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    millions = np.array([row["addmults_paper"] for row in rows]) / 1e6
    p50 = np.array([row["p50_ms"] for row in rows])
    low, high = np.array([row["p50_interval_ms"] for row in rows]).T
    errors = np.clip([p50 - low, high - p50], 0, None)
    for index, row in enumerate(rows):
        line: dict[str, Any] = {
            **style(index),
            "linestyle": "none",
            "markersize": 5,
            "elinewidth": 1,
            "label": lettering(row["name"]),
        }
        axes.errorbar(millions[index], p50[index], yerr=errors[:, index : index + 1], **line)
    if len(rows) > 2:
        slope, offset = np.polyfit(millions, p50, 1)
        ends = np.array([millions.min(), millions.max()])
        correlation = np.corrcoef(millions, p50)[0, 1]
        axes.plot(ends, slope * ends + offset, color=INK, linewidth=0.8, label=f"least squares, r = {correlation:.2f}")
    axes.legend(frameon=False, fontsize=7)
    axes.set(xlabel="AddMults of one image, millions (paper's count)", ylabel="p50, ms")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
