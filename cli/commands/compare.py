"""`sharpkeras compare`"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sharpkeras.errors import printable
from sharpkeras_cli import options, tables

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
def command(runs: tuple[Path, ...], force: bool, picture: Path | None, overwrite: bool, as_json: bool) -> None:
    """Runs side by side: errors, seeds, collapse watch.

    Trainings by their test error: groups of seeds as median ± range/2 and as a mean with its t-interval, and exact
    McNemar tests against the first run. Searches by what wins on their edges, last epoch and worst.
    """
    options.choose_backend()
    import sharpkeras as sk

    def tell(report: dict[str, Any]) -> None:
        tell_report(report, picture, as_json)

    report = sk.compare(runs, force=force, picture=picture, overwrite=overwrite, tell=tell)
    if as_json:
        return
    if picture:
        click.echo(f"Picture: {picture}")
    options.say_next(*next_command(report))


def tell_report(report: dict[str, Any], picture: Path | None, as_json: bool) -> None:
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


def _print_trainings(report: dict[str, Any]) -> None:
    labelled = any(row["labels"] for row in report["trainings"])
    tables.show(
        [
            {
                "group": row["group"],
                "run": tables.whole(row["name"]),
                "architecture": tables.whole(row["architecture"]),
                "seed": row["seed"],
                "parameters": _integer(row["parameters"]),
                "AddMults": _integer(row["addmults_paper"]),
                "error": _errors(row),
                **({"labels": _labels(row)} if labelled else {}),
            }
            for row in report["trainings"]
        ],
        title="Trainings",
        caption="AddMults as the paper counts them; errors with the 95 % interval of Clopper and Pearson",
        right=("seed", "parameters", "AddMults"),
    )
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


def _errors(row: Mapping[str, Any]) -> str:
    """A line for each dataset that a training was evaluated on, or why there is none."""
    if not row["evaluations"]:
        return "not evaluated" if row["status"] == "finished" else row["status"]
    lines = []
    for evaluation in row["evaluations"]:
        low, high = (100 * end for end in evaluation["interval"])
        error, n = f"{100 * evaluation['error']:.2f} %", f"n = {evaluation['n']})"
        words = (evaluation["label"], evaluation["dataset"], error, f"({low:.2f}–{high:.2f},", n)
        lines.append(" ".join(tables.whole(word) for word in words if word))
    return "\n".join(lines)


def _labels(row: Mapping[str, Any]) -> str:
    return tables.whole("\n".join(row["labels"]))


def _print_searches(report: dict[str, Any]) -> None:
    """A column for each search: its last epoch, and behind it the one with the most edges won without weights."""
    searches = report["searches"]
    lines = {"": [tables.whole(row["name"]) for row in searches]}
    lines |= {name: [row[name] for row in searches] for name in ("group", "weighting", "space", "seed", "status")}
    lines |= {"labels": [_labels(row) or None for row in searches]} if any(row["labels"] for row in searches) else {}
    watch = _watch([row["last"] or {} for row in searches])
    for name, (words, scale, digits) in {"epoch": ("epoch", 1, 0), **watch}.items():
        lines[words] = [_last_and_worst(row, name, scale, digits) for row in searches]
    # The network that is trained next can be another: `sharpkeras cost RUN` counts that.
    counted = [(row["last"] or {}).get("found_parameters") is not None for row in searches]
    sizes = [row.get("cost_of") or "the search's size" for row in searches]
    lines["parameters and AddMults are of"] = [size if told else None for size, told in zip(sizes, counted)]
    _show("Searches: last epoch (and worst)", lines)
    groups = [group for group in report["search_groups"] if len(group["runs"]) > 1]
    if groups:
        _print_groups(groups)


def _watch(rows: Sequence[Any]) -> dict[str, tuple[str, float, int]]:
    """WATCH, with the entropies of spaces that it does not know."""
    entropies = [name for row in rows for name in row if name.startswith("entropy_") and name not in WATCH]
    return WATCH | {name: (f"entropy, {printable(name[8:])}, nats", 1, 4) for name in entropies}


def _print_groups(groups: Sequence[Any]) -> None:
    """A column for each group of seeds."""
    from sharpkeras.measure.statistics import Estimate

    means = [{name: Estimate(**mean) for name, mean in group["mean"].items() if mean} for group in groups]
    hows = [{mean.how for mean in group.values()} for group in means]
    lines = {"": [tables.whole(f"group {group['group']}") for group in groups]}
    lines |= {name: [group[name] for group in groups] for name in ("weighting", "space")}
    lines["runs"] = [", ".join(map(tables.whole, group["runs"])) for group in groups]
    lines["estimator"] = ["; ".join(sorted(how)) or "no run has ended" for how in hows]
    for name, (words, scale, digits) in _watch(means).items():
        lines[words] = [_mean(group.get(name), scale, digits, len(how) > 1) for group, how in zip(means, hows)]
    _show("Groups of seeds: last epoch", lines)


def _show(title: str, lines: dict[str, Any]) -> None:
    """A standing table of the values by heading, without the headings of nothing: a space has not all of them."""
    lines = {heading: values for heading, values in lines.items() if any(value is not None for value in values)}
    records = [dict(zip(lines, values)) for values in zip(*lines.values())]
    tables.show(records, title=title, standing=True, width=max(tables.WIDTH, 36 + 20 * len(records)))


def _last_and_worst(row: Mapping[str, Any], name: str, scale: float, digits: int) -> str | None:
    last, worst = ((row[epoch] or {}).get(name) for epoch in ("last", "worst"))
    if last is None:
        return None
    digits = 0 if isinstance(last, int) and scale == 1 else digits
    in_words = [f"{scale * value:.{digits}f}" for value in (last, worst) if value is not None]
    return " ".join([in_words[0], *[f"({words})" for words in in_words[1:]]])


def _mean(mean: Any, scale: float, digits: int, with_how: bool) -> str | None:
    if mean is None:
        return None
    number = mean.number(scale, digits, unit="")
    return f"{number} ({mean.how})" if with_how else number


def next_command(report: dict[str, Any]) -> Sequence[Any]:
    """What a finished run is for; of those that have not ended, what they are."""
    done = {kind: [row for row in report[kind] if row["status"] == "finished"] for kind in ("trainings", "searches")}
    waiting = [row for row in done["trainings"] if not row["evaluations"]]
    for name, rows in (("evaluate", waiting), ("export", done["trainings"]), ("train", done["searches"])):
        if rows:
            return name, rows[0]["run"]
    return "inspect", (report["trainings"] or report["searches"])[0]["run"]


def _integer(value: float) -> str | None:
    return None if value is None else f"{value:,}"
