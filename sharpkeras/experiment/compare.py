"""Runs side by side: trainings by their test error, searches by their collapse watch (§4.3).

Runs that differ in their seed alone are a group. A run that failed or has not ended keeps its place, and its group
counts it.
"""

import dataclasses
import functools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment.evaluate import TEST_SELECTED
from sharpkeras.io import atomic_writes
from sharpkeras.io.hashes import sha256
from sharpkeras.measure.cost import Cost
from sharpkeras.measure.statistics import Estimate, mcnemar, mean_interval, median_half_range
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import RunDirectory, architectures, contents, files
from sharpkeras.searching.collapse import FREE_KINDS
from sharpkeras.spaces import Architecture
from sharpkeras.spaces.network_spec import NetworkSpec

OTHER_IMAGES, OTHER_SELECTION, SAME_SEED = "OTHER IMAGES", "OTHER SELECTION", "SAME SEED"
KEPT = ("dataset", "fingerprint", "n", "errors", "error", "interval", "text", "top5", "label", "selected", "selection")
WEIGHTLESS = tuple(f"{kind}_share" for kind in FREE_KINDS)
ENTROPY = "entropy_"  # begins the names of a metric for each kind of decisions, of which each space has its own
ENTROPIES = ("entropy_normal", "entropy_reduce", "entropy_grids")  # of the spaces of the paper
FOUND = (
    "found_skips",
    "found_pools",
    "found_convs",
    "found_parameters",
    "found_addmults",
    "held_out_accuracy",
)


def compare(
    paths: Sequence[str | os.PathLike[str]],
    force: bool = False,
    picture: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Trainings and searches: each kind as rows, and as groups of seeds.

    Args:
        paths: run directories; the first evaluated training is the one that the others are tested against.
        force: whether runs on other images, or with weights selected otherwise, are compared all the same; labelled.
        picture: a PNG file for the collapse watch of the searches.
        overwrite: whether a picture that is there is replaced.
        tell: report → None, called before the picture is drawn: a full disk costs no figure.

    Returns:
        A dict: `trainings` and `searches`, a dict for each run; `training_groups` and `search_groups`, a dict for each
        group; `pairs`, the exact McNemar tests; `differences`, sentences on what makes runs incomparable.

    Raises:
        UsageError: a run is named twice, or a picture is asked for without a search.
        RunError: a directory holds no run, or an evaluation that cannot be read.
        ConfigError: the runs are not comparable, and `force` is not set.
    """
    runs = _read(paths)
    rows = _rows(runs)
    trainings = [row for run, row in zip(runs, rows) if run.kind == "train"]
    searches = [row for run, row in zip(runs, rows) if run.kind == "search"]
    problems = [*_other_protocols(trainings), *_other_data(searches), *_repeated_seeds(rows)]
    for row, label, _ in problems:
        row["labels"].append(label)
    differences = [sentence for _, _, sentence in problems]
    if differences and not force:
        raise ConfigError(
            "the runs are not comparable",
            seen="; ".join(differences),
            allowed="the same images, weights selected in the same way, each seed of a group once",
            next_step=f"{_advice(problems)}, or `force` to see them labelled",
        )
    by_name = {row["name"]: run for run, row in zip(runs, rows)}
    report = {
        "trainings": trainings,
        "training_groups": _training_groups(trainings),
        "pairs": _pairs(by_name, trainings),
        "searches": searches,
        "search_groups": _search_groups(searches),
        "differences": differences,
    }
    if picture:
        _refuse_picture(Path(picture), searches, overwrite)
    if tell:
        tell(report)
    if picture:  # last, when nothing but the disk can go wrong any more
        _draw(Path(picture), searches, by_name)
    return report


def _read(paths: Sequence[str | os.PathLike[str]]) -> list[RunDirectory]:
    runs, places = [RunDirectory.read(path) for path in paths], [Path(path).resolve() for path in paths]
    twice = [str(path) for path, place in zip(paths, places) if places.count(place) > 1]
    if twice:
        raise UsageError("the same run twice", where="RUN", seen=", ".join(twice), allowed="each run once")
    return runs


def _rows(runs: Sequence[RunDirectory]) -> list[dict[str, Any]]:
    """What is said of each run, its group a number."""
    keys, names = [_group_key(run) for run in runs], _names([run.path.resolve().parts for run in runs])
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}
    rows = []
    for run, key, name in zip(runs, keys, names):
        failed = run.has(files.DIVERGED)
        row = {
            "group": numbers[key],
            "run": str(run.path),
            "name": name,
            "status": "finished" if run.finished else "failed" if failed else "unfinished",
            "seed": contents.settings(run)["seed"] if run.recipe else None,
        }
        rows.append(row | (_training(run) if run.kind == "train" else _search(run)))
    return rows


def _names(places: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest end of each path that none of the others has: "search", or "a/search" and "b/search"."""
    names = []
    for place in places:
        lengths = (n for n in range(1, len(place)) if sum(other[-n:] == place[-n:] for other in places) == 1)
        names.append(str(Path(*place[-next(lengths, len(place)) :])))
    return names


def _group_key(run: RunDirectory) -> str:
    """What the runs of a group share: kind and recipe but for the seed. A run without a recipe stands alone."""
    settings = {**(contents.settings(run) if run.recipe else {"run": str(run.path)}), "seed": None}
    return json.dumps([run.kind, {**run.recipe, "settings": settings}], sort_keys=True)


def _grouped(rows: list[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    """The number of each group and its rows."""
    return [(group, [r for r in rows if r["group"] == group]) for group in dict.fromkeys(r["group"] for r in rows)]


# --- trainings ---


def _training(run: RunDirectory) -> dict[str, Any]:
    """Its architecture and cost, and its error on each dataset that it was evaluated on."""
    found, evaluations = architectures.of_recipe(run), _evaluations(run)
    return {
        "architecture": _name(found) if found else None,
        **_cost(run, found),
        "evaluations": evaluations,
        "labels": [TEST_SELECTED] if any(evaluation["label"] for evaluation in evaluations) else [],
    }


def _name(found: Architecture) -> str:
    """An architecture's name, or what tells it from others that have none."""
    text = json.dumps(found.as_dict())
    return found.name or f"{found.kind} {sha256(text.encode())[:8]}"


def _cost(run: RunDirectory, found: Architecture | None) -> dict[str, Any]:
    """Parameters and AddMults of the run's network; None each while it has not seen its data, or only Python knows its
    space."""
    if not found or "space" in run.recipe or not run.has(files.DATA):
        return dict.fromkeys(Cost._fields)
    recipe = TrainRecipe.from_dict({**contents.settings(run), "seed": 0}, str(run.path / files.RECIPE))
    facts = contents.data(run)
    return _counted(NetworkSpec(recipe, facts["shape"], len(facts["class_names"])), found)._asdict()


_counted = functools.lru_cache(NetworkSpec.cost)  # once for the seeds of a group


def _evaluations(run: RunDirectory) -> list[dict[str, Any]]:
    """What `evaluate` has left in a finished run, that on its own test images first."""
    evaluations = []
    for path in sorted(run.path.glob(files.EVALUATIONS)) if run.finished else []:
        report = run.read_json(path.name)
        if not isinstance(report, dict) or not report.keys() >= {*KEPT}:
            step = shlex.join(["sharpkeras", "evaluate", str(run.path)])
            raise RunError("is no evaluation of this version", where=str(path), allowed=", ".join(KEPT), next_step=step)
        contents.evaluation(run, path.name)
        report, answers = contents.evaluation(run, path.name), Path(files.predictions_of(path.name))
        evaluations.append({**{key: report[key] for key in KEPT}, "predictions": answers.stem})
    return sorted(evaluations, key=lambda evaluation: evaluation["predictions"] != "predictions")


def _training_groups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each group and each dataset, the errors of its seeds as one number, in the paper's way and as a mean."""
    groups = []
    for group, members in _grouped(rows):
        common = {"group": group, "runs": [row["name"] for row in members], "seeds": [row["seed"] for row in members]}
        common["architecture"] = members[0]["architecture"]
        found = {e["fingerprint"]: e for row in members for e in row["evaluations"]}
        for fingerprint, example in found.items():
            by_run = [{e["fingerprint"]: e["error"] for e in row["evaluations"]} for row in members]
            errors, label = [by.get(fingerprint) for by in by_run], example["label"]
            numbers = {"median": median_half_range(errors), "mean": mean_interval(errors)}
            texts = {name: _as_dict(number, label=label) for name, number in numbers.items()}
            groups.append({**common, "dataset": example["dataset"], "label": label, **texts})
        if not found:
            groups.append({**common, "dataset": None, "label": None, "median": None, "mean": None})
    return groups


def _as_dict(estimate: Estimate, *, label: str | None = None, **form: Any) -> dict[str, Any]:
    text = f"{estimate.number(**form)} ({estimate.how})"
    return {**dataclasses.asdict(estimate), "text": f"{label} {text}" if label else text}


def _pairs(runs: Mapping[str, RunDirectory], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exact McNemar tests between the first evaluated training and each other one, on all images they share."""
    first, *others = [row for row in rows if row["evaluations"]] or [None]
    pairs = []
    for other in others:
        theirs = {evaluation["fingerprint"]: evaluation for evaluation in other["evaluations"]}
        for evaluation in first["evaluations"]:
            if evaluation["fingerprint"] not in theirs:
                continue
            sides = (first, evaluation), (other, theirs[evaluation["fingerprint"]])
            test = mcnemar(*(_right(runs[row["name"]], answered) for row, answered in sides))
            label = next((answered["label"] for _, answered in sides if answered["label"]), None)
            names = {"first": first["name"], "second": other["name"], "dataset": evaluation["dataset"]}
            text = f"{label} {test}" if label else str(test)
            pairs.append({**names, **test._asdict(), "label": label, "text": text})
    return pairs


def _right(run: RunDirectory, evaluation: Mapping[str, Any]) -> np.ndarray:
    """Whether each image was answered rightly, (N,) booleans."""
    name = f"{evaluation['predictions']}.safetensors"
    loaded = contents.answers(run, name)
    if loaded is not None:
        labels, classes, meta = loaded
        right = classes[:, 0] == labels
        if meta.get("fingerprint") == evaluation["fingerprint"] and len(right) - right.sum() == evaluation["errors"]:
            return right
    problem = "does not belong to the evaluation" if loaded else "is missing"
    step = shlex.join(["sharpkeras", "evaluate", str(run.path), "--data", evaluation["dataset"]])
    raise RunError(problem, where=str(run.path / name), next_step=step)


# --- searches ---


def _search(run: RunDirectory) -> dict[str, Any]:
    """Its settings, and the collapse watch of its last epoch and of the worst one."""
    settings, rows = contents.settings(run) if run.recipe else {}, contents.numbers(run, _watched(run.read_metrics()))
    own = run.recipe.get("space")  # of a search in a HyperCuboid of one's own, and not what the settings say
    if isinstance(own, dict):
        settings = settings | {"space": str(own.get("name")), "weighting": str(own.get("weighting"))}
    watched = [row for row in rows if row.keys() >= {*WEIGHTLESS}]
    worst = max(watched, key=lambda row: sum(row[share] for share in WEIGHTLESS), default=None)
    return {
        **{name: settings.get(name) for name in ("space", "ops", "weighting", "order", "epochs", "cost_of")},
        "fingerprint": contents.data(run)["fingerprint"] if run.has(files.DATA) else None,
        "last": _watch(rows[-1]) if rows else None,
        "worst": _watch(worst) if worst else None,
        "labels": [],
    }


def _watched(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the metrics that are shown: those of the collapse watch, and what was found."""
    entropies = [*ENTROPIES, *(name for row in rows for name in row if str(name).startswith(ENTROPY))]
    return (*WEIGHTLESS, *dict.fromkeys(entropies), *FOUND)


def _watch(row: Mapping[str, Any]) -> dict[str, Any]:
    there = [name for name in _watched([row]) if name in row or not name.startswith(ENTROPY)]
    return {"epoch": row["epoch"] + 1, "epochs_counted_from": 1, **{name: row.get(name) for name in there}}


def _search_groups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each group, the collapse watch of the last epoch as the mean of its seeds; of those that have ended."""
    groups = []
    for group, members in _grouped(rows):
        last = [row["last"] if row["status"] == "finished" else None for row in members]
        watched = _watched([epoch for epoch in last if epoch])
        values = {name: [epoch and epoch.get(name) for epoch in last] for name in watched}
        numbers = {name: mean_interval(v) if any(x is not None for x in v) else None for name, v in values.items()}
        common = {name: members[0][name] for name in ("space", "ops", "weighting")}
        runs = {"runs": [row["name"] for row in members], "seeds": [row["seed"] for row in members]}
        groups.append(
            {"group": group, **common, **runs, "mean": {n: e and dataclasses.asdict(e) for n, e in numbers.items()}}
        )
    return groups


def _refuse_picture(path: Path, searches: list[dict[str, Any]], overwrite: bool) -> None:
    if not searches:
        raise UsageError("a picture shows searches, and there is none", where="`picture`", allowed="a search run")
    if path.suffix != ".png":
        raise UsageError("a picture is a PNG file", where="`picture`", seen=str(path), allowed="a name in .png")
    atomic_writes.refuse_to_replace(path, overwrite, "another `picture`, or `overwrite`")


def _draw(path: Path, searches: list[dict[str, Any]], runs: Mapping[str, RunDirectory]) -> None:
    from sharpkeras.view.collapse import draw_collapse

    metrics = {row["name"]: runs[row["name"]].read_metrics() for row in searches}
    draw_collapse(metrics, path, _in_a_legend(searches))


def _in_a_legend(searches: list[dict[str, Any]]) -> dict[str, str]:
    """Name of a search → what its group is called in a picture: by its weighting where no other group has the same."""
    groups = _grouped(searches)
    weightings = [members[0]["weighting"] for _, members in groups]
    labels: dict[str, str] = {}
    for (_, members), weighting in zip(groups, weightings):
        names = ", ".join(row["name"] for row in members)
        is_enough = weighting is not None and len(set(weightings)) == len(groups)
        label = weighting if is_enough else f"{names} ({weighting})" if weighting else names
        labels |= {row["name"]: label for row in members}
    return labels


# --- what makes runs incomparable ---


def _advice(problems: Sequence[tuple[dict[str, Any], str, str]]) -> str:
    """What can be done about them: a training can be evaluated on other images, a search has seen those it has seen."""
    row = next((row for row, label, _ in problems if label == OTHER_IMAGES and "evaluations" in row), None)
    if row is None:
        return "leave out those that are named"
    return f"{shlex.join(['sharpkeras', 'evaluate', row['run'], '--data', 'SPEC'])} on images they share"


def _other_protocols(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(row, label, sentence) for each training whose test images or selection are not those of the first."""
    first, *others = [row for row in rows if row["evaluations"]] or [None]
    for row in others:
        images, selection = _shared(first, row), row["evaluations"][0]["selected"]["by"]
        if not images:
            yield row, OTHER_IMAGES, f"{row['name']} was tested on other images than {first['name']}"
        if selection != first["evaluations"][0]["selected"]["by"]:
            yield row, OTHER_SELECTION, f"the weights of {row['name']} were selected otherwise ({selection})"


def _shared(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool | set[str]:
    """Whether two trainings were tested on some images in common, and never on others by the same name."""
    one, two = ({e["dataset"]: e["fingerprint"] for e in row["evaluations"]} for row in (first, second))
    agree = all(one[dataset] == two[dataset] for dataset in one.keys() & two.keys())
    return agree and set(one.values()) & set(two.values())


def _other_data(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The same for searches: those on other training images than the first."""
    first, *others = [row for row in rows if row["fingerprint"]] or [None]
    for row in others:
        if row["fingerprint"] != first["fingerprint"]:
            yield row, OTHER_IMAGES, f"{row['name']} searched on other images than {first['name']}"


def _repeated_seeds(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The same for runs whose recipe, seed included, is that of one before: they are no sample of anything."""
    seen: dict[tuple[int, int | None], dict[str, Any]] = {}
    for row in rows:
        first = seen.setdefault((row["group"], row["seed"]), row)
        if first is not row and row["seed"] is not None:
            yield row, SAME_SEED, f"{row['name']} is {first['name']} again, with the same seed"
