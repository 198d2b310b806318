"""The directory of a sweep: what rows it has, and which process carries it out."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpkeras.errors import ConfigError, RunError, written_by_a_newer_version
from sharpkeras.io import atomic_writes, json_files, kinds
from sharpkeras.runs import differences
from sharpkeras.runs.directory import lock as lock_directory
from sharpkeras.sweeping.plan import Row, read

FILE = "sweep.json"
REPORT = "compare.json"
LOCK = "lock"
SCHEMA_VERSION = 1
KIND = kinds.SWEEP


def recorded(out: Path) -> list[Row]:
    """The rows that a directory has; none where no sweep was begun.

    Raises:
        RunError: it holds something else.
    """
    if not os.path.lexists(out / FILE):
        if os.path.exists(out) and not (out.is_dir() and set(os.listdir(out)) <= {LOCK, f".{FILE}.part"}):
            step = "choose another directory with `out`"
            raise RunError("exists and is no sweep of ours", where=str(out), next_step=step)
        return []
    where = str(out / FILE)
    try:
        content = json_files.load(out / FILE)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ConfigError("has another kind", where=where)
        version = content.get("schema_version")
        if type(version) is int and version > SCHEMA_VERSION:
            raise written_by_a_newer_version(where, version, SCHEMA_VERSION)
        return read(content, where)
    except ConfigError as error:
        step = "choose another directory with `out`"
        raise RunError(f"{error.problem}, so it is no sweep of ours", where=where, next_step=step) from None


def extended(there: Iterable[Row], rows: Iterable[Row], out: Path) -> list[Row]:
    """The rows of a directory with those that are asked for: new rows, and new seeds of a row, are added.

    Raises:
        RunError: a row has the name of one that is there, and other settings.
    """
    found = {row.name: row for row in there}
    for row in rows:
        before = found.get(row.name, row)
        seeds = tuple(dict.fromkeys([*before.seeds, *row.seeds]))
        if table := differences(_settings(before), _settings(row)):
            allowed = "the same settings; new rows and new seeds are added"
            step = "choose another directory with `out`, or give the row another name"
            raise RunError(f"has another row {row.name}{table}", where=str(out / FILE), allowed=allowed, next_step=step)
        found[row.name] = replace(row, seeds=seeds)
    return list(found.values())


def write(out: Path, rows: Iterable[Row]) -> None:
    """Writes the rows of a sweep, as a file that can be given to `sharpkeras sweep` again."""
    content = {"schema_version": SCHEMA_VERSION, "rows": [row.as_dict() for row in rows]}
    atomic_writes.write(out / FILE, atomic_writes.dump_file(kinds.of_kind(KIND, content), str(out / FILE)))


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Context in which no other process carries out the sweep; where it was not begun, nothing of it is left.

    Raises:
        RunError: another process does.
    """
    is_new = not os.path.exists(out)
    with atomic_writes.disk_errors(out, by=" with `out`"):
        out.mkdir(parents=True, exist_ok=True)
        file = lock_directory(out)
    try:
        yield
    finally:
        file.truncate(0)  # a lock file with text in it tells of a process that died
        if os.listdir(out) == [LOCK]:
            (out / LOCK).unlink()
            if is_new:
                out.rmdir()
        file.close()


def _settings(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.as_dict().items() if name not in ("name", "seeds")}
