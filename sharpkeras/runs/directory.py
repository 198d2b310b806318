"""Run directory: recipe, metrics, checkpoints and results of a search or a training.

    run.json             kind, schema version, what it runs on, when it was created and finished
    recipe.json          everything that decides the result
    metrics.jsonl        one line an epoch
    checkpoints/         what it goes on from, see `checkpoints`
    <name>.safetensors   arrays with their checksums
    log.txt, lock        what was said; which process holds the directory

In these files, and in the names of an epoch's, epochs and steps count from 0, as each file with such a number says;
what is printed and drawn counts from 1. A kill or a full disk leaves the last good files: see `atomic_writes`.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from sharpkeras.errors import (
    ResourceError,
    RunError,
    SharpKerasError,
    UsageError,
    printable,
    written_by_a_newer_version,
)
from sharpkeras.io import atomic_writes, json_files, kinds, regular_files
from sharpkeras.runs import files
from sharpkeras.runs.checkpoints import Checkpoints, refuse_links

SCHEMA_VERSION = 1
PROGRAM = "sharpkeras"
KINDS = ("search", "train")
EPOCHS_FROM_0, STEPS_FROM_0 = {"epochs_counted_from": 0}, {"steps_counted_from": 0}
RECORDED_PACKAGES = ("sharpkeras", "keras", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "numpy")
FOLDERS = (files.CHECKPOINTS, files.EPOCHS)
NAME_A_RUN = "name a directory that search or train wrote"
OTHER_DIRECTORY = "choose another directory with `out`"

logger = logging.getLogger("sharpkeras")


class RunDirectory:
    """A run directory, opened for writing by `RunDirectory.open` or for reading by `RunDirectory.read`.

    `open` is `reserve` and `begin` in one. What can go wrong between the two costs nothing: nothing was written yet,
    and a run that is to be replaced is still there.

    Attributes:
        path: the directory.
        kind: "search" or "train".
        recipe: the recipe as it is on disk.
        resumed: whether the directory held this run before.
        checkpoints: its Checkpoints.
    """

    def __init__(
        self,
        path: Path,
        facts: dict[str, Any],
        recipe: dict[str, Any],
        lock_file: Any = None,
        resumed: bool = True,
        directory_is_new: bool = False,
    ) -> None:
        self.path, self.recipe, self.resumed, self._directory_is_new = path, recipe, resumed, directory_is_new
        self.kind, self._facts, self._lock_file = facts["kind"], facts, lock_file
        self._log_handler: logging.StreamHandler | None = None
        # Open as long as the run is: so its number on the disk goes to no other directory.
        self._directory = None if lock_file is None else os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.checkpoints = Checkpoints(path / files.CHECKPOINTS, lock_file is not None, self.refuse_loss)
        self._unwritten: dict[str, bytes] = {}  # files for which the disk was too full

    @classmethod
    def open(cls, path: str | os.PathLike[str], kind: str, recipe: dict[str, Any], **options: Any) -> Self:
        """Begin a run in `path`, or resume the one that has the same kind and recipe; arguments as in `reserve`."""
        run = cls.reserve(path, kind, recipe, **options)
        try:
            run.begin()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def reserve(
        cls,
        path: str | os.PathLike[str],
        kind: str,
        recipe: dict[str, Any],
        overwrite: bool = False,
        must_exist: bool = False,
        conditions: dict[str, Any] | None = None,
        strict: bool = False,
    ) -> Self:
        """Lock `path` for a run that begins or resumes with `begin`.

        Args:
            path: the directory; it is created with its parents.
            kind: "search" or "train".
            recipe: JSON values by name; with another one it is another run.
            overwrite: whether a run that is there is removed; a directory that is no run never is.
            must_exist: whether it is an error that no run was started there (`--resume`).
            conditions: what else decides the last bits of a result, such as the processor, as JSON values by name; with
                the versions of the packages they are recorded, and a change is told.
            strict: whether such a change is an error.

        Raises:
            UsageError: both `overwrite` and `must_exist`.
            RunError: the directory is not ours, holds another run, is locked or cannot be written, or goes on under
                other conditions though `strict`.
            ResourceError: the disk is full.
        """
        if overwrite and must_exist:
            raise UsageError("to go on and to begin anew contradict each other", where="`must_exist`, `overwrite`")
        path, recipe = Path(path), kinds.without_kind(_as_json(recipe))
        _read_facts(path, must_exist)  # refuses before anything is touched
        is_new = not os.path.exists(path)
        with atomic_writes.disk_errors(path, by=" with `out`"):
            path.mkdir(parents=True, exist_ok=True)
            lock_file = lock(path)
        try:
            facts = _read_facts(path, must_exist)  # again, now that nobody else writes
            if facts and not overwrite:
                _refuse_other_run(path, facts["kind"], _read_recipe(path), kind, recipe)
                _refuse_links(path)
                _tell_changes(path, facts, conditions or {}, strict)
                return cls(path, facts, recipe, lock_file)
            return cls(path, _new_facts(kind, conditions), recipe, lock_file, resumed=False, directory_is_new=is_new)
        except BaseException:
            lock_file.truncate(0)
            lock_file.close()
            raise

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str | None = None) -> Self:
        """The run in `path`, for reading only; another process may be writing it.

        Raises:
            RunError: there is no run, or one of another kind than `kind`.
        """
        path = Path(path)
        facts = _read_facts(path, must_exist=True, advice=NAME_A_RUN, instead=NAME_A_RUN)
        if kind is not None and facts["kind"] != kind:
            next_step = f"name a run that sharpkeras {kind} wrote"
            raise RunError(f"holds no {kind} run", where=str(path), seen=f"a {facts['kind']} run", next_step=next_step)
        return cls(path, facts, _read_recipe(path) or {})

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._facts["finished"] is not None

    def mark_finished(self) -> None:
        """Record that the run came to its end, and when."""
        self._facts["finished"] = _now()
        self.write_json(files.RUN, self._facts)

    def refuse_loss(self) -> None:
        """Raise RunError unless the directory, and the lock in it, are still those that this process holds.

        Somebody may remove or move them while a run goes on for days. What is written then would make a directory that
        is no run, or spoil that of another process.
        """
        if lost := self._lost():
            problem, seen, next_step = lost
            raise RunError(f"{problem} while the run went on", where=str(self.path), seen=seen, next_step=next_step)

    def _lost(self) -> tuple[str, str, str] | None:
        """What has become of the directory or its lock, with what is seen and the next step; None where all is well."""
        if not _is_same(self.path, self._directory, follow_symlinks=True):
            seen = "another directory in its place" if os.path.lexists(self.path) else "no such directory"
            if os.fstat(self._directory).st_nlink == 0:
                return "the directory was deleted", seen, "the same command begins the run anew"
            with contextlib.suppress(OSError):
                seen += f"; the run is now in {os.readlink(f'/proc/self/fd/{self._directory}')}"
            next_step = "move it back: the same command goes on from its last checkpoint"
            return "the directory was moved away", seen, next_step
        if not _is_same(self.path / files.LOCK, self._lock_file.fileno(), follow_symlinks=False):
            next_step = "the same command goes on from the last checkpoint, once no other process uses the directory"
            if not os.path.lexists(self.path / files.LOCK):
                return "the lock was removed", "no file called lock", next_step
            return "the lock was replaced", _holder(self.path), next_step
        return None

    def close(self) -> None:
        """Close the log and let the directory go; the process's end does the same."""
        if self._log_handler is not None:
            logger.removeHandler(self._log_handler)
            with contextlib.suppress(OSError):  # of a full disk
                self._log_handler.stream.close()
            self._log_handler = None
        if self._lock_file is not None:
            self._lock_file.truncate(0)  # a lock file with text in it tells of a process that died
            if not self._lost() and os.listdir(self.path) == [files.LOCK]:  # never begun
                (self.path / files.LOCK).unlink()
                if self._directory_is_new:
                    self.path.rmdir()
            self._lock_file.close()
            os.close(self._directory)
            self._lock_file = self._directory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.refuse_loss()  # a run that is lost has not ended well
        finally:
            self.close()

    # --- metrics ---

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`: rows of finite numbers and strings, each with its `epoch`; as `write_soon`.

        Raises:
            NumericalError: a value is NaN or infinite.
        """
        self.write_soon(files.METRICS, atomic_writes.dump_lines(rows, str(self.path / files.METRICS)))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        where = str(self.path / files.METRICS)
        raw = self.read_bytes(files.METRICS, json_files.MAX_BYTES_OF_LINES) if self.has(files.METRICS) else b""
        return json_files.require(json_files.decoded_lines(raw, where), [{"epoch": int}], where)

    # --- files ---

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as the JSON file `name`.

        Raises:
            NumericalError: a number in it is NaN or infinite.
        """
        self._replace(name, atomic_writes.dump_file(value, str(self.path / name)))

    def write_soon(self, name: str, content: bytes) -> None:
        """Write the bytes `content` as the file `name`, on a full disk with the next `flush`."""
        self._unwritten[name] = content
        with contextlib.suppress(ResourceError):
            self.flush()

    def flush(self) -> None:
        """Write what a full disk kept from being written; raises ResourceError while it still does."""
        for name, content in list(self._unwritten.items()):
            self._replace(name, content)
            del self._unwritten[name]

    def read_json(self, name: str) -> Any:
        """The value in the JSON file `name`.

        Raises:
            RunError: there is no such file.
            ConfigError: it is not strict JSON.
        """
        if not self.has(name):
            raise RunError(f"has no {name}", where=str(self.path), allowed=f"a run that has written {name}")
        return _read_json(self.path, name)

    def has(self, name: str) -> bool:
        """Whether something stands in the place of the file `name`; reading it says whether it is a file."""
        return os.path.lexists(self.path / name)

    def read_bytes(self, name: str, largest: int) -> bytes:
        """The bytes of the file `name`; raises RunError for one that is no regular file, or larger than `largest`."""
        with atomic_writes.disk_errors(self.path / name):
            return regular_files.read(name, largest, within=self.path)

    def add(self, name: str, content: bytes) -> None:
        """Write the bytes `content` as the file `name` into a run that was opened for reading, such as a report on it.

        Raises:
            ResourceError: the disk is full.
            RunError: the directory cannot be written, or holds another run by now.
        """
        if _read_facts(self.path, must_exist=True).get("created") != self._facts.get("created"):
            raise RunError("holds another run by now", where=str(self.path))
        atomic_writes.write(self.path / name, content)

    def save_arrays(self, name: str, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Write arrays and what belongs to them as the file `name`; see `atomic_writes.save_arrays`."""
        atomic_writes.save_arrays(self.place(name), arrays, meta)

    def load_arrays(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """What `save_arrays` wrote, as (arrays, meta); None when it never wrote; raises RunError when it is damaged."""
        return atomic_writes.load_arrays(name, within=self.path)

    def _replace(self, name: str, content: bytes) -> None:
        atomic_writes.write(self.place(name), content)

    def place(self, name: str) -> Path:
        """The path of the file `name`, which is to be written now.

        Raises:
            RunError: the directory is no longer ours, or a folder in it is a link.
        """
        if self._lock_file is None:
            raise RuntimeError(f"{self.path} was opened for reading")
        self.refuse_loss()
        path = self.path / name
        for folder in [parent for parent in path.parents if parent.is_relative_to(self.path) and parent != self.path]:
            if folder.is_symlink():
                raise RunError("is a link, and a run writes through none", where=str(folder), next_step="remove it")
        return path

    def begin(self) -> None:
        """Make the directory that of the run: remove a run that it replaces, and open the log."""
        self.refuse_loss()
        if not self.resumed:
            _remove_contents(self.path)
        self.write_json(files.RUN, self._facts)  # first: from here on the directory is ours
        self.write_json(files.RECIPE, kinds.of_kind(kinds.RECIPE, self.recipe))
        with atomic_writes.disk_errors(self.path):
            (self.path / files.DIVERGED).unlink(missing_ok=True)  # of an attempt before this one
            regular_files.refuse_other(self.path / files.LOG)
            log = open(self.path / files.LOG, "a", encoding="utf-8", opener=_not_through_links)
            self._log_handler = logging.StreamHandler(log)
        self._log_handler.handleError = lambda record: None  # a full disk is told by the next checkpoint, once
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self._log_handler)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        logger.info("%s %s run in %s", "resumed" if self.resumed else "began", self.kind, self.path)


# --- what is in a directory ---


def _read_facts(
    path: Path,
    must_exist: bool,
    advice: str = f"{NAME_A_RUN}; to begin one, drop `must_exist`",
    instead: str = OTHER_DIRECTORY,
) -> dict[str, Any] | None:
    """The contents of `run.json`; None where no run was begun and one may be.

    Args:
        path: the directory.
        must_exist: whether it is an error that there is none.
        advice: what is told then.
        instead: what is told where a run.json is not ours.
    """
    if os.path.lexists(path / files.RUN):  # unlike a Path's, it knows no name that is too long to ask for
        return _checked_facts(path, instead)
    if must_exist:
        problem, step = "is no run directory", advice
    elif not os.path.exists(path) or path.is_dir() and set(os.listdir(path)) <= {files.LOCK, f".{files.RUN}.part"}:
        return None
    else:
        problem, step = "exists and is no run of ours", f"{OTHER_DIRECTORY}; `overwrite` removes only runs"
    raise RunError(problem, where=str(path), allowed="a directory with a run.json", next_step=step)


def _checked_facts(path: Path, instead: str) -> dict[str, Any]:
    where = str(path / files.RUN)
    try:
        facts = _read_json(path, files.RUN)
    except SharpKerasError as error:
        raise RunError(f"{error.problem}, so it is no run of ours", where=where, next_step=instead) from None
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if not isinstance(version, int) or facts.get("program") != PROGRAM or facts.get("kind") not in KINDS:
        allowed = f'"program": "{PROGRAM}", a schema_version and a kind of {", ".join(KINDS)}'
        raise RunError("is no run of sharpkeras", where=where, seen=facts, allowed=allowed, next_step=instead)
    if version > SCHEMA_VERSION:
        raise written_by_a_newer_version(where, version, SCHEMA_VERSION)
    facts = {"versions": {}, "conditions": {}, "changes": [], "finished": None, **facts, **EPOCHS_FROM_0}
    form = {"versions": dict, "conditions": dict, "changes": [str], "finished": (str, type(None))}
    return json_files.require(facts, form, where)


def _read_recipe(path: Path) -> dict[str, Any] | None:
    """The recipe of a run; None when it was killed before it had written one."""
    file = path / files.RECIPE
    if not os.path.lexists(file):
        return None
    recipe = kinds.without_kind(json_files.require(_read_json(path, files.RECIPE), dict, str(file)))
    return json_files.require(recipe, {"settings": dict} if "settings" in recipe else {}, str(file))


def _read_json(path: Path, name: str) -> Any:
    """The value of the JSON file `name` in the directory `path`; raises RunError or ConfigError, as `read_json`."""
    with atomic_writes.disk_errors(path / name):
        raw = regular_files.read(name, json_files.MAX_BYTES, within=path)
    return json_files.decoded(raw, str(path / name))


def _new_facts(kind: str, conditions: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "program": PROGRAM,
        "kind": kind,
        **EPOCHS_FROM_0,
        "created": _now(),
        "finished": None,
        "versions": _versions(),
        "conditions": _as_json(conditions or {}),
        "changes": [],
    }


def _versions() -> dict[str, str]:
    """Installed versions by package, without importing any."""
    versions = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _refuse_links(path: Path) -> None:
    """Raise RunError where one of the places that a run writes to is a link, a pipe or the like."""
    with atomic_writes.disk_errors(path):
        for entry in sorted(path.iterdir()):
            if entry.suffix in files.SUFFIXES:
                regular_files.refuse_other(entry)
    for name in FOLDERS:
        refuse_links(path / name)


def _tell_changes(path: Path, facts: dict[str, Any], conditions: dict[str, Any], strict: bool) -> None:
    """Warn of other conditions than those a run began under; raises RunError for them if `strict`.

    A run that goes on all the same keeps what had changed: later, under the conditions of its beginning, it is no
    longer what it would have been. Conditions that an older sharpkeras did not record are not compared.
    """
    conditions, problem = _as_json(conditions), "not bit-exact with the run's beginning"
    changes, before = _changes(facts, conditions), facts["changes"]
    if strict and (changes or before):
        next_step = "go on under the conditions it began with, or without `strict_resume`"
        if not changes:
            problem, next_step = f"{problem}, since it went on under other conditions", "go on without `strict_resume`"
        raise RunError(problem, where=str(path), seen=changes or "; ".join(before), next_step=next_step)
    if changes:
        logger.warning("%s: %s", problem, changes)
        facts["changes"] = before + [changes] * (not facts["finished"] and changes not in before)
    unknown = sorted(conditions.keys() - facts["conditions"].keys())
    if strict and unknown:
        logger.warning("not compared, since they were not recorded when the run began: %s", ", ".join(unknown))


def _changes(facts: dict[str, Any], conditions: dict[str, Any]) -> str:
    """What is other than when a run began, as text: versions of packages, and the conditions known of both times."""
    pairs = [(facts["versions"], dict.fromkeys(facts["versions"]) | _versions()), (facts["conditions"], conditions)]
    for name, here in conditions.items():
        there = facts["conditions"].get(name)
        if isinstance(here, dict) and isinstance(there, dict):  # of variables those that are set
            unset = dict.fromkeys([*there, *here], "unset")
            pairs.append((unset | there, unset | here))
    return ", ".join(
        f"{name} {old} -> {here[name]}"
        for there, here in pairs
        for name, old in there.items()
        if name in here and old != here[name] and not isinstance(old, dict)
    )


def _refuse_other_run(
    path: Path, kind_there: str, recipe_there: dict[str, Any] | None, kind: str, recipe: dict[str, Any]
) -> None:
    choices = f"{OTHER_DIRECTORY}, or replace that run with `overwrite`"
    if kind_there != kind:
        raise RunError("holds a run of another kind", where=str(path), seen=kind_there, allowed=kind, next_step=choices)
    if recipe_there is None:
        return
    table = differences(recipe_there, recipe)
    if not table:
        return
    allowed = "the same recipe; `device`, `checkpoint_s` and what else is no setting of it may change"
    raise RunError(f"holds a run with another recipe{table}", where=str(path), allowed=allowed, next_step=choices)


def differences(there: Any, here: Any) -> str:
    """A table of what two JSON objects do not have in common, for a message; empty where they are the same."""
    there, here = _flat(there), _flat(here)
    rows = [
        (key, there.get(key, "-"), here.get(key, "-"))
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if not rows:
        return ""
    rows = [("", "there", "asked for"), *([printable(text, 60) for text in row] for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "".join(f"\n    {key:{widths[0]}}  {old:{widths[1]}}  {new}" for key, old, new in rows)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested objects as one level of dotted keys, with values as JSON text."""
    if not isinstance(value, dict) or not value:
        return {prefix: json.dumps(value)}
    flat: dict[str, str] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return flat


def _remove_contents(path: Path) -> None:
    """Empty the directory of a run that we hold; `run.json` goes last, so that a kill leaves it known as ours."""
    with atomic_writes.disk_errors(path):
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name == files.RUN):
            if entry.name != files.LOCK:
                atomic_writes.remove(entry)


def lock(path: Path) -> TextIO:
    """The open lock file: held until it is closed, at the latest by the end of the process, however that comes."""
    regular_files.refuse_other(path / files.LOCK)
    file = open(path / files.LOCK, "a+", encoding="utf-8", errors="replace", opener=_not_through_links)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(
            "is in use by another process",
            where=str(path),
            seen=_holder(path),
            allowed="one process for each run directory",
            next_step=f"wait for that process or end it, or {OTHER_DIRECTORY}",
        ) from None
    if os.fstat(file.fileno()).st_nlink == 0:  # its holder, which never began, has removed it in this moment
        file.close()
        return lock(path)
    file.truncate(0)
    file.write(f"PID {os.getpid()} on {socket.gethostname()} since {_now()}\n")
    file.flush()
    return file


def _holder(path: Path) -> str:
    """What the lock file says of the process that holds a directory."""
    with contextlib.suppress(OSError), regular_files.opened(files.LOCK, within=path) as file:
        return file.read(1000).decode("utf-8", "replace").strip() or "a process that is just starting"
    return "a process that has just ended"


def _is_same(path: Path, number: int, follow_symlinks: bool) -> bool:
    """Whether what stands at `path` is the open file of that number."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=follow_symlinks), os.fstat(number))
    except OSError:
        return False


def _not_through_links(path: str, flags: int) -> int:
    """Open what is to be appended to: in a directory that a stranger made, it could be a link or a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _as_json(value: Any) -> Any:
    """`value` as it is when it comes back from its file: tuples as lists, keys as text."""
    return json.loads(atomic_writes.dumps(value, "recipe"))


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
