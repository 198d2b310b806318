"""The collapse watch of searches over the epochs, as a picture: Scalar against Max-W side by side (§4.3)."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpkeras.view.cells import INK, LINE_COLOURS
from sharpkeras.view.curves import MARKED_EPOCHS, finish, save

ENTROPIES = {"entropy_normal": "-", "entropy_reduce": "--", "entropy_grids": "-"}
SHARE, COUNT, MILLIONS = 100, 1, 1e-6
PANELS = (  # title, metric → how its line is drawn, scale of the numbers, lowest of the axis where it is fixed
    ("edges won by skip, %", {"skip_share": "-"}, SHARE, 0),
    ("edges won by pooling, %", {"pool_share": "-"}, SHARE, 0),
    ("edges won by none, %", {"none_share": "-"}, SHARE, 0),
    # A short search moves it by hundredths of a nat from ln P, which an axis from 0 would hide.
    ("entropy of the alphas, nats (reduction cells dashed)", ENTROPIES, COUNT, None),
    ("convolutions in what was found", {"found_convs": "-"}, COUNT, 0),
    ("AddMults of what was found, millions", {"found_addmults": "-"}, MILLIONS, 0),
)


def draw_collapse(rows_by_run, path, weightings=None, title=None):
    """Writes a PNG of what wins on the edges of one or several searches, how sure they are, and what it costs.

    Args:
        rows_by_run: name of a run → its metrics, a dictionary for each epoch; what an epoch does not have is left out.
        path: the PNG file; an existing one is replaced.
        weightings: name of a run → its weighting; runs of one weighting then have one colour.
        title: a line above the pictures.
    """
    kinds = {name: (weightings or {}).get(name, name) for name in rows_by_run}
    colours = dict(zip(dict.fromkeys(kinds.values()), LINE_COLOURS * len(kinds)))
    figure = Figure(figsize=(13, 6.4), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 3)
    for axes, (heading, styles, scale, lowest) in zip(panels.flat, PANELS):
        for name, rows in rows_by_run.items():
            for metric, style in styles.items():
                _draw_line(axes, rows, metric, scale, color=colours[kinds[name]], linestyle=style)
        axes.set_title(heading, fontsize=10, loc="left")
        _limit(axes, scale, lowest)
        finish(axes, "epoch")
    lines = [Line2D([], [], color=colour, linewidth=2.4) for colour in colours.values()]
    names = [_legend(kind, kinds) for kind in colours]
    figure.legend(lines, names, loc="outside lower center", ncols=min(len(names), 5), fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    save(figure, path)


def _draw_line(axes, rows, metric, scale, **style):
    points = [(row["epoch"] + 1, scale * row[metric]) for row in rows if row.get(metric) is not None]
    marker = "." if len(points) < MARKED_EPOCHS else ""
    if points:
        axes.plot(*zip(*points), linewidth=1.6, marker=marker, alpha=0.85, **style)


def _limit(axes, scale, lowest):
    if scale == SHARE:
        axes.set_ylim(-3, 103)
    elif lowest is not None and axes.lines:
        highest = max(max(line.get_ydata()) for line in axes.lines)
        axes.set_ylim(lowest, 1.08 * highest or 1)
        axes.yaxis.get_major_locator().set_params(integer=True)


def _legend(kind, kinds):
    runs = sum(kind == other for other in kinds.values())
    return f"{kind} ({runs} runs)" if runs > 1 else kind
