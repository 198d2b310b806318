"""Run directories: what a kill or a full disk left in them, and the repair that makes them tidy again.

Looking changes nothing. A repair does what the plan says while it holds the lock, and nothing else: it removes what was
only half written, drops a line of metrics that was cut off, and puts damaged checkpoints where no run looks for them.
"""

import contextlib
import fcntl
import os
from typing import NamedTuple

from sharpkeras.errors import ConfigError, RunError, SafetyError, SharpKerasError
from sharpkeras.inspection import text_files
from sharpkeras.inspection.arrays import inspect_safetensors
from sharpkeras.inspection.report import Report, names
from sharpkeras.io import atomic_writes, json_files, regular_files
from sharpkeras.runs import WRITTEN, RunDirectory, checkpoints

IN_USE = "in use by"  # a fact
CHECKPOINTS, EPOCHS, METRICS, LOCK = "checkpoints", "epochs", "metrics.jsonl", "lock"
WRITTEN_BY_ALL = ("recipe.json", "data.json")
DIVERGED = "diverged.json"
DIVERGED_NEXT = "the sharpkeras {} that began it with a lower `learning_rate` and with `overwrite` or another `out`"
RESULTS = {"search": ("genotype.json", "path.json"), "train": ("weights.safetensors",)}  # one of them ends a run
NEXT = {"search": "train", "train": "evaluate"}


class Step(NamedTuple):
    """A step of a repair: a row of REPAIRS, and the path below the run directory that it is done to."""

    action: str
    path: str

    def __str__(self):
        return f"{self.action} {self.path}"


def inspect_directory(path):
    """The Report on a run directory, or on one of its checkpoints; raises RunError for another directory."""
    return _look(path)[0]


def repair(path):
    """The Report on a run directory after its repair.

    Raises:
        RunError: it is no run directory, or a process holds it.
        SafetyError: a link stands where its lock should be.
    """
    if not (path / "run.json").is_file():
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


def _look(path, held_here=False):
    """The Report on a directory, and the steps of its repair; none while another process holds it."""
    if not (path / "run.json").exists() and (path / checkpoints.MANIFEST).is_file():
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
    following = ["inspect", str(path), "--repair"] if steps else [NEXT[kind], str(path)]
    if not steps and "space" in recipe:
        following = text_files.ONLY_PYTHON
    if not steps and not finished:
        following = "it is running" if holder else f"the {kind} command that began it goes on with it"
        following = DIVERGED_NEXT.format(kind) if diverged and not holder else following
    state = "finished" if finished else "running" if holder else "diverged" if diverged else "interrupted"
    told = {"state": state, **told}
    return Report(str(path), f"a {kind} run", told, findings, [str(step) for step in steps], next=following), steps


def _run(path):
    """What run.json says, facts from the recipe, and findings; raises RunError where there is no run."""
    findings = []
    try:
        RunDirectory.read(path)
    except (ConfigError, RunError) as error:
        if not str(error.where).startswith(str(path / "recipe.json")):
            raise
        findings.append(f"recipe.json: {text_files.problem_of(error)}")  # run.json is right
    facts = {"finished": None, **json_files.load(path / "run.json")}
    told, more = None, []
    if not findings and _is_own(path / "recipe.json"):
        told, more = text_files.tried(lambda file: _recipe(file, facts["kind"]), path / "recipe.json", "recipe.json")
    return facts, told or {}, findings + more


def _recipe(path, kind):
    content = json_files.load(path)
    facts, _ = text_files.recipe(content if isinstance(content, dict) else {}, str(path), kind)
    settings, space = content["settings"], content.get("space")
    own = {"space": space.get("name")} if isinstance(space, dict) else {}
    return {**facts, **own, "dataset": settings.get("dataset"), "epochs": settings.get("epochs")}


# --- what may be wrong: each returns facts, findings and steps ---


def _divergence(path):
    """Whether a run has ended with numbers that are not finite, and findings."""
    if not os.path.lexists(path / DIVERGED):
        return False, []
    if not _is_own(path / DIVERGED):
        return True, []  # what it is, is a finding of `_leftovers`
    finding, problems = text_files.tried(text_files.divergence, path / DIVERGED, DIVERGED)
    return True, [finding] if finding else problems


def _leftovers(path, facts):
    found = [entry for folder in _folders(path) for entry in _entries(folder)]
    parts = [str(entry.relative_to(path)) for entry in found if entry.name[0] == "." and entry.name.endswith(".part")]
    findings = [f"{part} was left half written" for part in parts]
    for entry in found:
        try:
            if entry.name[0] != "." and not (_is_folder(entry) and entry.suffix not in WRITTEN):
                regular_files.refuse_other(entry)
        except regular_files.Refused as error:
            findings.append(f"{entry.relative_to(path)} {error.strerror}: it is not opened")
    return {}, findings, [Step("remove", part) for part in parts]


def _metrics(path, facts):
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
        written = [f"{EPOCHS}/{row['epoch']:04d}.json" for row in rows]
        missing = [name for name in written if not _is_own(path / name)]
        findings += [f"missing: {names(missing)}"] if missing else []
    last = rows[-1]["epoch"] + 1 if rows else 0
    return {"epochs done": last}, findings, [Step("cut the last line off", METRICS)] if cut_off else []


def _files(path, facts):
    """JSON and arrays, and what every run has."""
    findings, present = [], set(os.listdir(path))
    findings += [f"{name} is missing" for name in WRITTEN_BY_ALL if name not in present]
    if facts["finished"] and not present & set(RESULTS[facts["kind"]]):
        findings.append(f"finished, but {' or '.join(RESULTS[facts['kind']])} is missing: the same command makes it")
    for folder in (path, path / EPOCHS):
        for file in _entries(folder) if folder == path or _is_folder(folder) else []:
            name = str(file.relative_to(path))
            look = {".json": json_files.load, ".safetensors": inspect_safetensors}.get(file.suffix)
            if look and _is_own(file) and file.name[0] != "." and name not in ("run.json", "recipe.json"):
                report, found = text_files.tried(look, file, name)
                findings += found + [f"{name}: {finding}" for finding in getattr(report, "findings", [])]
    return {}, findings, []


def _checkpoints(path, facts):
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


def _behind(path, whole):
    """The finding that metrics have fewer epochs than the newest checkpoint, which is always written after them."""
    read, _ = (
        text_files.tried(text_files.read_metrics, path / METRICS, METRICS) if _is_own(path / METRICS) else (None, [])
    )
    if read is None or not whole:
        return []
    rows, done = len(read[0]), int(whole[-1].partition("-")[0])
    return [f"{METRICS} has {rows} epochs, checkpoint {whole[-1]} has {done}"] if rows < done else []


def _evaluations(path, facts):
    """Whether the answers to the images of each evaluation are there, and of the same images."""
    findings = []
    for file in sorted(path.glob("evaluation*.json")):
        name = f"{file.stem.replace('evaluation', 'predictions', 1)}.safetensors"
        report, _ = text_files.tried(json_files.load, file, file.name) if _is_own(file) else (None, [])
        if not isinstance(report, dict):
            continue
        answers, _ = text_files.tried(lambda folder: atomic_writes.load_arrays(name, within=folder), path, name)  # noqa: B023
        if not os.path.lexists(path / name):
            findings.append(f"{name} is missing: sharpkeras evaluate makes it")
        elif answers and any(answers[1].get(key) != report.get(key) for key in ("fingerprint", "errors")):
            findings.append(f"{name} belongs to other data than {file.name}: sharpkeras evaluate makes both anew")
    return {}, findings, []


def _checkpoint_problem(path):
    """What is wrong with a checkpoint, in words; None where it is whole."""
    try:
        for name in os.listdir(path):
            if not _is_own(path / name):
                return f"{name} is no regular file"
        checkpoints.read(path)
    except checkpoints.Damaged as damage:
        return str(damage)
    except SharpKerasError as error:  # of a newer version
        return text_files.problem_of(error)
    return None


# --- files and folders, never through a link ---


def _folders(path):
    return [folder for folder in (path, path / EPOCHS, path / CHECKPOINTS) if folder == path or _is_folder(folder)]


def _entries(folder):
    return sorted(folder.iterdir())


def _is_folder(path):
    return path.is_dir() and not path.is_symlink()


def _is_own(path):
    return path.is_file() and not path.is_symlink()


# --- the lock ---


def _holder(path, held_here):
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
def _held(path):
    """Holds a run directory while it is repaired."""
    try:
        number = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if (path / LOCK).is_symlink():
            raise SafetyError("is a link, and a lock never is", where=str(path / LOCK)) from None
        raise RunError("can not be written", where=str(path), seen=error.strerror) from None
    with open(number, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, step = file.read(1000).strip(), "wait for that process or end it"
            raise RunError("is in use by another process", where=str(path), seen=holder, next_step=step) from None
        yield


# --- the repair ---


def _cut_last_line(path):
    content = regular_files.read(path, json_files.MAX_BYTES_OF_LINES)
    atomic_writes.write(path, content[: content.rfind(b"\n") + 1])


def _put_aside(path):
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
