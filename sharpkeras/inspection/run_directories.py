"""Inspection and repair of run directories, after a kill or a full disk.

Looking changes nothing. A repair does what the plan says while it holds the lock, and nothing else: it removes what was
only half written, drops a line of metrics that was cut off, and puts damaged checkpoints where no run looks for them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sharpkeras.errors import ConfigError, RunError, SafetyError, SharpKerasError
from sharpkeras.inspection import text_files
from sharpkeras.inspection.arrays import inspect_safetensors
from sharpkeras.inspection.report import Report, names
from sharpkeras.io import atomic_writes, json_files, regular_files
from sharpkeras.runs import RunDirectory, checkpoints, files
from sharpkeras.runs.files import CHECKPOINTS, DATA, DIVERGED, EPOCHS, LOCK, METRICS, RECIPE, RUN
from sharpkeras.spaces import ARCHITECTURES

IN_USE = "in use by"  # a fact
WRITTEN_BY_ALL = (RECIPE, DATA)
DIVERGED_NEXT = "the sharpkeras {} that began it with a lower `learning_rate` and with `overwrite` or another `out`"
NEXT = {"search": "train", "train": "evaluate"}


class Step(NamedTuple):
    """A step of a repair: a row of REPAIRS, and the path below the run directory that it is done to."""

    action: str
    path: str

    def __str__(self) -> str:
        return f"{self.action} {self.path}"


def inspect_directory(path: Path) -> Report:
    """The Report on a run directory, or on one of its checkpoints; raises RunError for another directory."""
    return _look(path)[0]


def repair(path: Path) -> Report:
    """The Report on a run directory after its repair.

    Raises:
        RunError: it is no run directory, or a process holds it.
        SafetyError: a link stands where its lock should be.
    """
    if not (path / RUN).is_file():
        RunDirectory.read(path)  # which says so
    report, steps = _look(path)
    if not steps and IN_USE not in report.facts:
        return report
    with _held(path):
        _, steps = _look(path, held_here=True)
        for step in steps:
            with atomic_writes.disk_errors(path / step.path):
                REPAIRS[step.action](path / step.path)
    report, _ = _look(path)
    report.repaired = [str(step) for step in steps]
    return report


def _look(path: Path, held_here: bool = False) -> tuple[Report, list[Step]]:
    """The Report on a directory, and the steps of its repair; none while another process holds it."""
    if not (path / RUN).exists() and (path / files.MANIFEST).is_file():
        problem = _checkpoint_problem(path)
        return Report(str(path), "a checkpoint", {}, [problem] if problem else []), []
    facts, recipe, findings = _run(path)
    holder, stale = _holder(path, held_here)
    kind, finished = facts["kind"], facts["finished"]
    told = {"created": facts.get("created"), "finished": finished or "not yet", **recipe}
    told |= {IN_USE: holder} if holder else {}
    diverged, found = _divergence(path)
    findings += found
    steps = [] if holder else [Step("empty", LOCK) for _ in stale]
    findings += stale
    for look in (_leftovers, _metrics, _files, _checkpoints, _evaluations):
        more, found, needed = look(path, facts)
        told, findings = {**told, **more}, findings + found
        steps += [] if holder else needed
    if holder:  # what is being written looks like what was left
        findings = [finding for finding in findings if ".part" not in finding]
    following: list[str] | str = ["inspect", str(path), "--repair"] if steps else [NEXT[kind], str(path)]
    if not steps and "space" in recipe:
        following = text_files.ONLY_PYTHON
    if not steps and not finished:
        following = "it is running" if holder else f"the {kind} command that began it goes on with it"
        following = DIVERGED_NEXT.format(kind) if diverged and not holder else following
    state = "finished" if finished else "running" if holder else "diverged" if diverged else "interrupted"
    told = {"state": state, **told}
    return Report(str(path), f"a {kind} run", told, findings, [str(step) for step in steps], next=following), steps


def _run(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What run.json says, facts from the recipe, and findings; raises RunError where there is no run."""
    findings = []
    try:
        RunDirectory.read(path)
    except (ConfigError, RunError) as error:
        if not str(error.where).startswith(str(path / RECIPE)):
            raise
        findings.append(f"{RECIPE}: {text_files.problem_of(error)}")  # run.json is right
    facts = {"finished": None, **json_files.load(path / RUN)}
    told: dict[str, Any] | None = None
    more: list[str] = []
    if not findings and _is_own(path / RECIPE):
        told, more = text_files.tried(lambda file: _recipe(file, facts["kind"]), path / RECIPE, RECIPE)
    return facts, told or {}, findings + more


def _recipe(path: Path, kind: str) -> dict[str, Any]:
    content = json_files.load(path)
    facts, _ = text_files.recipe(content if isinstance(content, dict) else {}, str(path), kind)
    settings, space = content["settings"], content.get("space")
    own = {"space": space.get("name")} if isinstance(space, dict) else {}
    return {**facts, **own, "dataset": settings.get("dataset"), "epochs": settings.get("epochs")}


def _results(kind: str) -> list[str]:
    """The files of which one ends a run."""
    if kind == "train":
        return [files.WEIGHTS]
    return [files.architecture(kind) for kind in ARCHITECTURES]


# --- what may be wrong: each returns facts, findings and steps ---


def _divergence(path: Path) -> tuple[bool, list[str]]:
    """Whether a run has ended with numbers that are not finite, and findings."""
    if not os.path.lexists(path / DIVERGED):
        return False, []
    if not _is_own(path / DIVERGED):
        return True, []  # what it is, is a finding of `_leftovers`
    finding, problems = text_files.tried(text_files.divergence, path / DIVERGED, DIVERGED)
    return True, [finding] if finding else problems


def _leftovers(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str], list[Step]]:
    found = [entry for folder in _folders(path) for entry in _entries(folder)]
    parts = [str(entry.relative_to(path)) for entry in found if entry.name[0] == "." and entry.name.endswith(".part")]
    findings = [f"{part} was left half written" for part in parts]
    for entry in found:
        try:
            if entry.name[0] != "." and not (_is_folder(entry) and entry.suffix not in files.SUFFIXES):
                regular_files.refuse_other(entry)
        except regular_files.RefusedError as error:
            findings.append(f"{entry.relative_to(path)} {error.strerror}: it is not opened")
    return {}, findings, [Step("remove", part) for part in parts]


def _metrics(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str], list[Step]]:
    file = path / METRICS
    if not _is_own(file):
        return {"epochs done": 0}, [f"{METRICS} is missing"] if facts["finished"] else [], []
    read, findings = text_files.tried(text_files.read_metrics, file, METRICS)
    if read is None:
        return {}, findings, []
    rows, findings, cut_off = read
    findings = [f"{METRICS}: {finding}" for finding in findings]
    findings += [f"{METRICS}: the last line is cut off"] if cut_off else []
    if facts["kind"] == "search":
        written = [files.epoch(row["epoch"]) for row in rows]
        missing = [name for name in written if not _is_own(path / name)]
        findings += [f"missing: {names(missing)}"] if missing else []
    last = rows[-1]["epoch"] + 1 if rows else 0
    return {"epochs done": last}, findings, [Step("cut the last line off", METRICS)] if cut_off else []


def _files(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str], list[Step]]:
    """JSON and arrays, and what every run has."""
    findings, present = [], set(os.listdir(path))
    findings += [f"{name} is missing" for name in WRITTEN_BY_ALL if name not in present]
    if facts["finished"] and not present & set(_results(facts["kind"])):
        findings.append(f"finished, but {' or '.join(_results(facts['kind']))} is missing: the same command makes it")
    for folder in (path, path / EPOCHS):
        for file in _entries(folder) if folder == path or _is_folder(folder) else []:
            name = str(file.relative_to(path))
            look = {".json": json_files.load, ".safetensors": inspect_safetensors}.get(file.suffix)
            if look and _is_own(file) and file.name[0] != "." and name not in (RUN, RECIPE):
                report, found = text_files.tried(look, file, name)
                findings += found + [f"{name}: {finding}" for finding in getattr(report, "findings", [])]
    return {}, findings, []


def _checkpoints(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str], list[Step]]:
    folder = path / CHECKPOINTS
    if not _is_folder(folder):
        return {"checkpoints": "none"}, [], []
    found = [name for name in checkpoints.Checkpoints(folder, writable=False).names() if _is_folder(folder / name)]
    problems = {name: _checkpoint_problem(folder / name) for name in found}
    bad = [name for name, problem in problems.items() if problem]
    findings = [f"{CHECKPOINTS}/{name}: {problems[name]}" for name in bad]
    findings += _behind(path, [name for name in found if name not in bad])
    aside = [entry.name for entry in _entries(folder) if entry.name.endswith(".damaged")]
    findings += [f"{CHECKPOINTS}/{name} was damaged and put aside; it can be removed" for name in aside]
    if not found and not aside and not facts["finished"]:
        findings.append(f"{CHECKPOINTS} is empty: the run begins again at its first step")
    if bad and len(bad) == len(found):
        findings.append("no checkpoint is whole: the run can only begin anew, with `overwrite`")
    steps = [Step("put aside as damaged", f"{CHECKPOINTS}/{name}") for name in bad]
    return {"checkpoints": [name for name in found if name not in bad]}, findings, steps


def _behind(path: Path, whole: list[str]) -> list[str]:
    """The finding that metrics have fewer epochs than the newest checkpoint, which is always written after them."""
    read, _ = (
        text_files.tried(text_files.read_metrics, path / METRICS, METRICS) if _is_own(path / METRICS) else (None, [])
    )
    if read is None or not whole:
        return []
    rows, done = len(read[0]), int(whole[-1].partition("-")[0])
    return [f"{METRICS} has {rows} epochs, checkpoint {whole[-1]} has {done}"] if rows < done else []


def _evaluations(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str], list[Step]]:
    """Whether the answers to the images of each evaluation are there, and of the same images."""
    findings = []
    for file in sorted(path.glob(files.EVALUATIONS)):
        name = files.predictions_of(file.name)
        report, _ = text_files.tried(json_files.load, file, file.name) if _is_own(file) else (None, [])
        if not isinstance(report, dict):
            continue
        answers, _ = text_files.tried(lambda folder: atomic_writes.load_arrays(name, within=folder), path, name)  # noqa: B023
        if not os.path.lexists(path / name):
            findings.append(f"{name} is missing: sharpkeras evaluate makes it")
        elif answers and any(answers[1].get(key) != report.get(key) for key in ("fingerprint", "errors")):
            findings.append(f"{name} belongs to other data than {file.name}: sharpkeras evaluate makes both anew")
    return {}, findings, []


def _checkpoint_problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where it is whole."""
    try:
        for name in os.listdir(path):
            if not _is_own(path / name):
                return f"{name} is no regular file"
        checkpoints.read(path)
    except checkpoints.DamagedError as damage:
        return str(damage)
    except SharpKerasError as error:  # of a newer version
        return text_files.problem_of(error)
    return None


# --- files and folders, never through a link ---


def _folders(path: Path) -> list[Path]:
    return [folder for folder in (path, path / EPOCHS, path / CHECKPOINTS) if folder == path or _is_folder(folder)]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# --- the lock ---


def _holder(path: Path, held_here: bool) -> tuple[str | None, list[str]]:
    """Who holds a run directory, and findings; a lock file with text that nobody holds is of a process that died.

    Args:
        path: the directory.
        held_here: whether this process holds it.
    """
    try:
        file = regular_files.opened(LOCK, within=path)
    except OSError:
        return None, []
    with file:
        text = file.read(1000).decode("utf-8", "replace").strip()
        try:
            if not held_here:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go at once
        except BlockingIOError:
            return text or "a process", []
    return None, [f"{LOCK} is stale: nobody holds it, and it says {text}"] if text else []


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a run directory while it is repaired."""
    try:
        number = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if (path / LOCK).is_symlink():
            raise SafetyError("is a link, and a lock never is", where=str(path / LOCK)) from None
        raise RunError("cannot be written", where=str(path), seen=error.strerror) from None
    with open(number, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, step = file.read(1000).strip(), "wait for that process or end it"
            raise RunError("is in use by another process", where=str(path), seen=holder, next_step=step) from None
        yield


# --- the repair ---


def _cut_last_line(path: Path) -> None:
    content = regular_files.read(path, json_files.MAX_BYTES_OF_LINES)
    atomic_writes.write(path, content[: content.rfind(b"\n") + 1])


def _put_aside(path: Path) -> None:
    """As `checkpoints` does: of two damaged ones of the same name, the later stays."""
    place = path.with_name(f"{path.name}.damaged")
    atomic_writes.remove(place)
    os.replace(path, place)


REPAIRS = {
    "empty": lambda path: os.truncate(path, 0),
    "remove": atomic_writes.remove,
    "cut the last line off": _cut_last_line,
    "put aside as damaged": _put_aside,
}
