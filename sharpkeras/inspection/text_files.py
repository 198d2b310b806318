"""JSON, TOML and lines of JSON: architectures, recipes, metrics, and the reports that commands write."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpkeras.errors import ConfigError, SharpKerasError, printable
from sharpkeras.inspection.report import Report, names
from sharpkeras.io import atomic_writes, json_files, kinds, regular_files, toml_files
from sharpkeras.io.hashes import sha256_of_file
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import EPOCHS_FROM_0, architectures
from sharpkeras.spaces import ARCHITECTURES, SPACES

RECIPES: dict[str, type[SearchRecipe] | type[TrainRecipe]] = {"search": SearchRecipe, "train": TrainRecipe}
ONLY_PYTHON = "it is of a space that only Python knows: the functions of sharpkeras.experiment, with space=…"
ROUNDING = 1e-9  # between an error and the counts that it is made of


def inspect_json(path: str | os.PathLike[str]) -> Report:
    """The Report on a JSON file; raises ConfigError for what is none, or not what it seems to be."""
    content = json_files.load(path)
    if not isinstance(content, dict):
        seen = type(content).__name__
        raise ConfigError("is JSON, but no object", where=str(path), seen=seen, allowed="an object")
    said = _key_of_kind().get(content["kind"]) if isinstance(content.get("kind"), str) else None
    if said is not None and said not in content:
        raise ConfigError(f"is no {content['kind']}, though it says so", where=str(path), allowed=f"with {said}")
    telling = _telling()
    for key in filter(None, (said, *telling)):
        if key in content:
            return telling[key](content, path)
    return _config(content, path)


def inspect_toml(path: str | os.PathLike[str]) -> Report:
    """The Report on a TOML file of settings; raises ConfigError as a command with `--config` would."""
    content = toml_files.load(path)
    return _config(content.get("settings", content), path)


def inspect_lines(path: str | os.PathLike[str]) -> Report:
    """The Report on a file of metrics; raises ConfigError for a line that is no JSON."""
    rows, findings, cut_off = read_metrics(path)
    findings += ["the last line is cut off"] if cut_off else []
    facts = {"epochs": len(rows), "last": {**rows[-1], **EPOCHS_FROM_0} if rows else None}
    return Report(str(path), "metrics", facts, findings)


def read_metrics(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Rows, findings on the order of their epochs, and whether a last line is cut off.

    Raises:
        ConfigError: a line is no JSON object with an epoch, or there are too many.
    """
    with atomic_writes.disk_errors(path):
        raw = regular_files.read(path, json_files.MAX_BYTES_OF_LINES)
    rows = json_files.decoded_lines(raw, str(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or type(row.get("epoch")) is not int:
            raise ConfigError(
                "is no row of metrics", where=f"{path}, line {number}", seen=row, allowed='{"epoch": 0, …}'
            )
    findings = []
    for before, after in itertools.pairwise([-1, *(row["epoch"] for row in rows)]):
        if after > before + 1:
            last = f" to {after - 1}" if after > before + 2 else ""
            findings.append(f'no row of "epoch": {before + 1}{last} (counted from 0)')
        elif after <= before:
            findings.append(f'"epoch": {after} stands behind "epoch": {before} (counted from 0)')
    return rows, findings, not raw.endswith(b"\n") and bool(raw)


# --- architectures ---


def architecture(fields: Any, where: str) -> tuple[str, dict[str, Any], list[str]]:
    """The kind of an architecture's JSON object, facts and findings; raises ConfigError for a wrong one."""
    found = architectures.from_dict(fields, where)
    return found.words, found.facts(), found.findings()


def _architecture(content: Any, path: str | os.PathLike[str]) -> Report:
    found = architectures.from_dict(content, str(path))
    following = ["train", str(path)] if found.space in SPACES else ONLY_PYTHON
    return Report(str(path), found.words, found.facts(), found.findings(), next=following)


# --- settings ---


def recipe(content: Mapping[str, Any], where: str, kind: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """The commands that take the settings of a recipe, and its other facts and findings.

    Args:
        content: the object in recipe.json.
        where: the file.
        kind: "search" or "train", where that is known.

    Raises:
        ConfigError: no command takes them, or the architecture in it is wrong.
    """
    commands = _commands(content.get("settings"), where, [kind] if kind else list(RECIPES))
    facts: dict[str, Any] = {"settings of": " or ".join(commands)}
    findings: list[str] = []
    for name in ARCHITECTURES:
        if name in content:
            words, more, findings = architecture(content[name], f"{where}: {name}")
            facts |= {"architecture": words, **more}
    return facts, findings


def _commands(settings: Any, where: str, candidates: Sequence[str]) -> list[str]:
    """Those of the candidates whose recipes take the settings; raises the error of the nearest if none does."""
    taken, errors = [], {}
    for name in candidates:
        try:
            RECIPES[name].from_dict(settings, where)
            taken.append(name)
        except ConfigError as error:
            errors[name] = error
    if not taken:
        fields = {name: set(RECIPES[name].__dataclass_fields__) for name in errors}
        known = set(settings) if isinstance(settings, dict) else set()
        raise errors[max(errors, key=lambda name: len(known & fields[name]))]
    return taken


def _recipe(content: Any, path: str | os.PathLike[str]) -> Report:
    facts, findings = recipe(content, str(path))
    return Report(str(path), "a recipe", {**facts, "backend": content.get("backend")}, findings)


def _config(content: Any, path: str | os.PathLike[str]) -> Report:
    """Settings for `--config`, unless no name in them is one of a setting."""
    known = {name for row in RECIPES.values() for name in row.__dataclass_fields__}
    if isinstance(content, dict) and not known & set(content):
        allowed = f"an architecture, a recipe, a report, a table of latencies, or settings such as {min(known)}"
        seen = names([printable(key, 40) for key in content]) or "nothing"
        raise ConfigError("is nothing that sharpkeras reads", where=str(path), seen=seen, allowed=allowed)
    facts = {"settings of": " or ".join(_commands(content, str(path), list(RECIPES))), "settings": content}
    return Report(str(path), "a config", facts)


# --- what commands write ---


def _run(content: Any, path: str | os.PathLike[str]) -> Report:
    names_ = ("program", "kind", "created", "finished", "versions")
    step = ["inspect", os.path.dirname(path) or "."]
    return Report(str(path), "the facts of a run", {name: content.get(name) for name in names_}, next=step)


def _manifest(content: Any, path: str | os.PathLike[str]) -> Report:
    return Report(str(path), "the manifest of a checkpoint", {"files": content["files"]}, next="look at its directory")


def _table(content: Any, path: str | os.PathLike[str]) -> Report:
    from sharpkeras.measure.latency.primitive_table import load_table

    load_table(path)  # which checks it
    facts = {name: content.get(name) for name in ("device", "threads", "call_ms", "random_ms")}
    findings = ["measured on a noisy machine"] if content.get("unstable") else []
    return Report(str(path), "a table of latencies", {"parts": len(content["table"]), **facts}, findings)


def _evaluation(content: Any, path: str | os.PathLike[str]) -> Report:
    """The Report on an evaluation, whose numbers have to belong together."""
    facts = {name: content.get(name) for name in ("run", "dataset", "n", "errors", "error", "interval", "label")}
    interval = content["interval"] if isinstance(content["interval"], list) else []
    numbers = (content.get("n"), content.get("errors"), content.get("error"), *interval)
    if len(numbers) != 5 or any(type(number) not in (int, float) for number in numbers):
        raise ConfigError("is no evaluation", where=str(path), seen=facts, allowed="n, errors, error, interval")
    n, errors, error, low, high = numbers
    sound = n >= 1 and abs(error - errors / n) < ROUNDING and 0 <= low <= error <= high <= 1
    return Report(str(path), "an evaluation", facts, [] if sound else ["errors, n, error and interval do not agree"])


def _export(content: Any, path: str | os.PathLike[str]) -> Report:
    """The Report on the report of an export, and whether its ONNX file is still the one that was checked."""
    facts = {name: content.get(name) for name in ("file", "bytes", "opset", "nodes", "largest_difference")}
    target = content.get("target")
    if isinstance(target, dict):
        facts |= {"made for": target.get("name"), "chosen by": target.get("chosen_by")}
        measured = target.get("filled_to_simple")
        facts |= {n: measured.get(n) for n in ("ratio", "interval", "verdict")} if isinstance(measured, dict) else {}
    name = content.get("file")
    if not isinstance(name, str) or Path(name).name != name:
        raise ConfigError("is no plain file name", where=f"{path}: file", seen=name, allowed="NAME.onnx")
    model, findings = Path(path).with_name(name), []
    try:
        with regular_files.opened(
            name, within=model.parent
        ) as file:  # the name is a stranger's: no link to another file
            size, same = os.fstat(file.fileno()).st_size, False
            if size == content.get("bytes"):
                same = sha256_of_file(file) == content.get("sha256")
            findings += [] if same else [f"{name} is not the file that was checked"]
    except FileNotFoundError:
        findings.append(f"{name} is not there")
    except OSError as error:
        findings.append(f"{name}: {error.strerror}")
    return Report(str(path), "the report of an export", facts, findings, next=["inspect", str(model)])


def _data(content: Any, path: str | os.PathLike[str]) -> Report:
    facts = {name: content.get(name) for name in ("images", "shape", "class_names", "fingerprint", "notes")}
    return Report(str(path), "the facts of a run's data", facts)


def _epoch(content: Any, path: str | os.PathLike[str]) -> Report:
    found = next((content[name] for name in ARCHITECTURES if name in content), None)
    if found is None:
        allowed = " or ".join(ARCHITECTURES)
        raise ConfigError("has alphas without an architecture", where=str(path), allowed=allowed)
    kind, facts, findings = architecture(found, str(path))
    return Report(str(path), "an epoch of a search", {"architecture": kind, **facts}, findings)


def divergence(path: str | os.PathLike[str]) -> str:
    """What a run left that diverged, as a finding; raises ConfigError where it says nothing of the kind."""
    form = {"epoch": int, "step": int, "not_finite": dict}
    content = json_files.require(json_files.load(path), form, str(path))
    which, epoch, step = names([*content["not_finite"]]), content["epoch"] + 1, content["step"] + 1
    return f"diverged: {which} became NaN or infinite in epoch {epoch}, step {step} (counted from 1)"


def _divergence(content: Any, path: str | os.PathLike[str]) -> Report:
    return Report(str(path), "where a run diverged", content, ["numbers became NaN or infinite"])


def _telling() -> dict[str, Callable[[Any, str | os.PathLike[str]], Report]]:
    """A key that tells what an object is → what looks into it; the first that is there counts."""
    return {
        "settings": _recipe,
        "alphas": _epoch,
        **{field: _architecture for row in ARCHITECTURES.values() for field in row.fields},
        "program": _run,
        "files": _manifest,
        "table": _table,
        "interval": _evaluation,
        "opset": _export,
        "class_names": _data,
        "not_finite": _divergence,
    }


def _key_of_kind() -> dict[str, str]:
    """What a file says that it is → the key that it must have then, which goes before the keys of others."""
    return {
        **{kind: row.fields[0] for kind, row in ARCHITECTURES.items()},
        **dict.fromkeys(RECIPES, "program"),
        kinds.RECIPE: "settings",
        kinds.EPOCH: "alphas",
        kinds.LATENCY_TABLE: "table",
        kinds.EVALUATION: "interval",
        kinds.EXPORT: "opset",
        kinds.DATA: "class_names",
        kinds.DIVERGENCE: "not_finite",
    }


def problem_of(error: SharpKerasError) -> str:
    """A SharpKerasError as the text of a finding."""
    seen = f" ({printable(error.seen, 100)})" if error.seen is not None else ""
    return f"{error.problem}{seen}"


def tried(look: Callable[[Path], Any], path: Path, name: str) -> tuple[Any, list[str]]:
    """What `look(path)` returns, or None, and the findings: what it raised on a file that is called `name`."""
    try:
        return look(path), []
    except SharpKerasError as error:
        return None, [f"{name}: {problem_of(error)}"]
    except OSError as error:
        return None, [f"{name}: {error.strerror}"]
