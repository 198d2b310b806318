"""`sharpkeras compare`"""

import json
from pathlib import Path

import click

from sharpkeras.errors import printable
from sharpkeras_cli import options

WATCH = {  # words with the unit, scale, digits
    "skip_share": ("edges won by skip, %", 100, 1),
    "pool_share": ("edges won by pooling, %", 100, 1),
    "none_share": ("edges won by none, %", 100, 1),
    "entropy_normal": ("entropy, normal cells, nats", 1, 4),
    "entropy_reduce": ("entropy, reduction cells, nats", 1, 4),
    "entropy_grids": ("entropy, positions of a hypercuboid, nats", 1, 4),
    "found_skips": ("skips in the architecture", 1, 1),
    "found_pools": ("pools in the architecture", 1, 1),
    "found_convs": ("convolutions in the architecture", 1, 1),
    "found_parameters": ("its parameters, thousands", 1e-3, 1),
    "found_addmults": ("its AddMults (paper), millions", 1e-6, 2),
    "held_out_accuracy": ("held-out accuracy, %", 100, 2),
}


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Compare across other images or selections, labelled.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the collapse watch of searches as this PNG.")
@options.overwrite
@options.as_json
def command(runs, force, picture, overwrite, as_json):
    """Runs side by side: errors, seeds, collapse watch.

    Trainings by their test error: groups of seeds as median ± range/2 and as a mean with its t-interval, and exact
    McNemar tests against the first run. Searches by what wins on their edges, last epoch and worst.
    """
    options.choose_backend()
    from sharpkeras import experiment

    def tell(report):
        _tell(report, picture, as_json)

    report = experiment.compare(runs, force, picture, overwrite, tell)
    if as_json:
        return
    if picture:
        click.echo(f"Picture: {picture}")
    options.say_next(*_next(report))


def _tell(report, picture, as_json):
    if as_json:
        click.echo(json.dumps({**report, "picture": picture and str(picture)}))
        return
    for difference in report["differences"]:
        click.echo(f"WARNING: {printable(difference)}", err=True)
    if report["trainings"]:
        _print_trainings(report)
    if report["searches"]:
        _print_searches(report)
    if report["trainings"] and report["searches"]:
        click.echo("Trainings and searches stand in tables of their own: nothing of one compares with the other.")


def _print_trainings(report):
    columns = ("group", "run", "architecture", "seed", "parameters", "AddMults", "error")
    labelled = any(row["labels"] for row in report["trainings"])
    table = _table("Trainings", *columns, *["labels"] * labelled)
    table.caption = "AddMults as the paper counts them; errors with the 95 % interval of Clopper and Pearson"
    for row in report["trainings"]:
        counted = [_integer(row[name]) for name in ("parameters", "addmults_paper")]
        labels = ["\n".join(row["labels"])] * labelled
        _add(table, row["group"], row["name"], row["architecture"], row["seed"], *counted, _errors(row), *labels)
    _show(table)
    for group in report["training_groups"]:
        who = f"group {group['group']} ({printable(str(group['architecture']))}"
        if group["median"] is None:
            click.echo(f"{who}): no error of {len(group['runs'])} runs")
            continue
        numbers = [group[name]["text"] for name in ("median", "mean") if name == "median" or group["mean"]["n"] > 1]
        click.echo(f"{who}), {printable(group['dataset'])}: " + "; ".join(numbers))
    if report["pairs"]:
        click.echo(
            "Between two runs, on the same images: of these weights, not of their architectures, which want seeds."
        )
    for pair in report["pairs"]:
        first, second, dataset = (printable(pair[key]) for key in ("first", "second", "dataset"))
        click.echo(f"{first} against {second}, {dataset}: {pair['text']}")


def _errors(row):
    """A line for each dataset that a training was evaluated on, or why there is none."""
    if not row["evaluations"]:
        return "not evaluated" if row["status"] == "finished" else row["status"]
    lines = []
    for evaluation in row["evaluations"]:
        low, high = (100 * end for end in evaluation["interval"])
        numbers = f"{100 * evaluation['error']:.2f} % ({low:.2f}–{high:.2f}, n = {evaluation['n']})"
        lines.append(" ".join(filter(None, (evaluation["label"], printable(evaluation["dataset"]), numbers))))
    return "\n".join(lines)


def _print_searches(report):
    """A column for each search: its last epoch, and behind it the one with the most edges won without weights."""
    searches = report["searches"]
    table = _table("Searches: last epoch (and worst)", "", *[printable(row["name"]) for row in searches])
    for name in ("group", "weighting", "space", "seed", "status"):
        _add(table, name, *[row[name] for row in searches])
    if any(row["labels"] for row in searches):
        _add(table, "labels", *["\n".join(row["labels"]) for row in searches])
    for name, (words, *form) in {"epoch": ("epoch", 1, 0), **WATCH}.items():
        cells = [_last_and_worst(row, name, *form) for row in searches]
        if any(cells):  # a space has not all of them
            _add(table, words, *cells)
    _show(table, len(searches))
    groups = [group for group in report["search_groups"] if len(group["runs"]) > 1]
    if groups:
        _print_groups(groups)


def _print_groups(groups):
    """A column for each group of seeds."""
    from sharpkeras.measure.statistics import Estimate

    table = _table("Groups of seeds: last epoch", "", *[f"group {group['group']}" for group in groups])
    for name in ("weighting", "space"):
        _add(table, name, *[group[name] for group in groups])
    _add(table, "runs", *[", ".join(map(printable, group["runs"])) for group in groups])
    means = [{name: Estimate(**mean) for name, mean in group["mean"].items() if mean} for group in groups]
    hows = [{mean.how for mean in group.values()} for group in means]
    _add(table, "estimator", *["; ".join(sorted(how)) or "no run has ended" for how in hows])
    for name, (words, scale, digits) in WATCH.items():
        cells = [(group.get(name), len(how) > 1) for group, how in zip(means, hows)]
        if any(mean for mean, _ in cells):
            _add(table, words, *[_mean(mean, scale, digits, with_how) for mean, with_how in cells])
    _show(table, len(groups))


def _last_and_worst(row, name, scale, digits):
    last, worst = ((row[epoch] or {}).get(name) for epoch in ("last", "worst"))
    if last is None:
        return None
    digits = 0 if isinstance(last, int) and scale == 1 else digits
    in_words = [f"{scale * value:.{digits}f}" for value in (last, worst) if value is not None]
    return " ".join([in_words[0], *[f"({words})" for words in in_words[1:]]])


def _mean(mean, scale, digits, with_how):
    if mean is None:
        return None
    number = mean.number(scale, digits, unit="")
    return f"{number} ({mean.how})" if with_how else number


def _next(report):
    waiting = [row for row in report["trainings"] if row["status"] == "finished" and not row["evaluations"]]
    if waiting:
        return "evaluate", waiting[0]["run"]
    if report["trainings"]:
        return "export", report["trainings"][0]["run"]
    return "train", report["searches"][0]["run"]


def _table(title, *columns):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for name in columns:
        width = {"labels": 15, "error": 34}.get(name)
        right = name in ("seed", "parameters", "AddMults")
        table.add_column(
            Text(name), justify="right" if right else "left", min_width=width, overflow="fold", no_wrap=not name
        )
    return table


def _add(table, *cells):
    """A row of cells whose text is taken as it is, without rich's markup."""
    from rich.text import Text

    texts = ["–" if cell is None else str(cell) for cell in cells]
    table.add_row(*[Text("\n".join(map(printable, text.split("\n")))) for text in texts])


def _integer(value):
    return None if value is None else f"{value:,}"


def _show(table, columns=0):
    options.show(table, max(120, 36 + 20 * columns))
