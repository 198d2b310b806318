"""Checkpoints of a run: directories that are either complete or not there.

    <epoch>-<step>/arrays.safetensors   all arrays
                   progress.json        all else
                   metrics.jsonl        the run's rows of metrics at that time
                   manifest.json        size and SHA-256 of the others
    .<epoch>-<step>.part/               is being written or removed
    <epoch>-<step>.damaged/             was whole once

A directory is written aside, flushed and renamed, and the one before stays until the next is whole: whatever kills the
process, the newest whole directory is the state before or the state after.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharpkeras.errors import RunError, SharpKerasError, written_by_a_newer_version
from sharpkeras.io import atomic_writes, json_files, regular_files
from sharpkeras.io.hashes import sha256
from sharpkeras.runs.files import ARRAYS, MANIFEST, METRICS, PROGRESS

SCHEMA_VERSION = 1
KEPT = 2
LARGEST = {  # bytes
    ARRAYS: atomic_writes.LARGEST_ARRAYS,
    PROGRESS: json_files.MAX_BYTES,
    METRICS: json_files.MAX_BYTES_OF_LINES,
}
NAME = re.compile(r"\d{6,}-\d{6,}")  # epochs done, and steps of the next one

logger = logging.getLogger("sharpkeras")


class Checkpoints:
    """The checkpoints in the directory `path`.

    Args:
        path: the directory; the first checkpoint makes it.
        writable: whether damaged ones and leftovers may be put out of the way.
        check: () → None, called before anything is written; what it raises keeps that from being done.
    """

    def __init__(self, path: Path, writable: bool = True, check: Callable[[], None] = lambda: None) -> None:
        self.path, self._writable, self._check = Path(path), writable, check

    def names(self) -> list[str]:
        """The names of those that were written to their end, oldest first; a link is none."""
        if self.path.is_symlink() or not self.path.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return sorted(e.name for e in entries if NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False))

    def save(
        self, epoch: int, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Write a checkpoint, unless a whole one of that name is there, and remove all but the newest KEPT.

        What was left half written is removed too; a damaged one of that name is put aside and written anew.

        Args:
            epoch, step: epochs done and steps done of the next one, which are its name.
            arrays: NumPy arrays of plain numbers by name.
            facts: JSON values by name.
            rows: the rows of metrics.

        Raises:
            ResourceError: the disk is full.
            RunError: the place cannot be written.
            NumericalError: a number in `facts` or `rows` is not finite.
        """
        name = f"{epoch:06d}-{step:06d}"
        self._check()
        refuse_links(self.path)
        with atomic_writes.disk_errors(self.path / name):
            if not self._holds(name):
                self._write(name, _files(arrays, facts, rows))
            for old in self.names()[:-KEPT]:
                os.replace(self.path / old, self._part(old))  # out of sight before its files go
            self._remove_parts()

    def _holds(self, name: str) -> bool:
        """Whether the checkpoint `name` is there and whole; a damaged one is put aside."""
        if not (self.path / name).exists():
            return False
        try:
            read(self.path / name)
        except DamagedError:
            self._put_aside(name)
            return False
        return True

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        if not self.path.is_dir():
            self.path.mkdir(parents=True)
            atomic_writes.flush_directory(self.path.parent)
        self._remove_parts()
        part = self._part(name)
        try:
            part.mkdir()
            for file, content in files.items():
                atomic_writes.write_through(part / file, content)
            atomic_writes.flush_directory(part)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)  # gives a full disk its space back
            raise
        os.replace(part, self.path / name)
        atomic_writes.flush_directory(self.path)

    def load(self) -> tuple[dict[str, np.ndarray], Any, list[dict[str, Any]]] | None:
        """(arrays, facts, rows) of the newest checkpoint that is whole; None where none was written.

        Raises:
            RunError: all that are there are damaged, or one was written by a newer version.
        """
        problems = []
        refuse_links(self.path)
        for name in reversed(self.names()):
            try:
                found = read(self.path / name)
            except DamagedError as damage:
                problems.append(str(damage))
                if self._writable:
                    self._put_aside(name)
                continue
            for problem in problems:
                logger.warning("%s: going on from checkpoint %s", problem, name)
            return found
        if problems or self._damaged():
            next_step = "start afresh with `overwrite`, or in another directory with `out`"
            seen = "; ".join(problems) or ", ".join(self._damaged())
            raise RunError("every checkpoint is damaged", where=str(self.path), seen=seen, next_step=next_step)
        return None

    def _part(self, name: str) -> Path:
        return self.path / f".{name}.part"

    def _remove_parts(self) -> None:
        for entry in self.path.glob(".*.part"):
            atomic_writes.remove(entry)

    def _damaged(self) -> list[str]:
        return sorted(entry.name for entry in self.path.glob("*.damaged"))

    def _put_aside(self, name: str) -> None:
        place = self.path / f"{name}.damaged"
        atomic_writes.remove(place)
        os.replace(self.path / name, place)


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


def refuse_links(path: Path) -> None:
    """Raise RunError where a directory, what is in it, or in that, is no directory and no regular file.

    A run makes no others. What a link leads to is not ours to rename or to remove, and what a pipe holds never ends.
    """
    folders = [path] if os.path.lexists(path) else []
    with atomic_writes.disk_errors(path):
        for folder in folders:
            if os.path.islink(folder) or not os.path.isdir(folder):
                regular_files.refuse_other(folder)  # a regular file in its place fails by itself
            elif folder == path or folder.parent == path:
                folders += sorted(folder.iterdir())


def _files(arrays: dict[str, np.ndarray], facts: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """The contents of a checkpoint's files by name."""
    files = {ARRAYS: atomic_writes.pack(arrays), PROGRESS: atomic_writes.dump_file(facts, PROGRESS)}
    files[METRICS] = atomic_writes.dump_lines(rows, METRICS)
    hashes = {file: {"bytes": len(content), "sha256": sha256(content)} for file, content in files.items()}
    manifest = {"schema_version": SCHEMA_VERSION, "files": hashes}
    return {**files, MANIFEST: atomic_writes.dump_file(manifest, MANIFEST)}


def read(path: Path) -> tuple[dict[str, np.ndarray], Any, list[dict[str, Any]]]:
    """(arrays, facts, rows) of the checkpoint in the directory `path`.

    Raises:
        DamagedError: a file of it is missing or is not what was written.
        RunError: it was written by a newer version of sharpkeras.
    """
    try:
        manifest = json_files.decoded(
            regular_files.read(MANIFEST, json_files.MAX_BYTES, within=path), str(path / MANIFEST)
        )
        version, files = manifest["schema_version"], manifest["files"]
        if version > SCHEMA_VERSION:
            raise written_by_a_newer_version(str(path), version, SCHEMA_VERSION)
        contents = {name: _checked(path, name, largest, files[name]) for name, largest in LARGEST.items()}
        facts = json_files.decoded(contents[PROGRESS], str(path / PROGRESS))
        rows = json_files.decoded_lines(contents[METRICS], str(path / METRICS))
        return atomic_writes.unpack(contents[ARRAYS])[0], facts, rows
    except RunError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SharpKerasError) as error:
        raise DamagedError(f"checkpoint {path.name} is damaged ({_in_words(error)})") from None


def _checked(path: Path, name: str, largest: int, expected: Mapping[str, Any]) -> bytes:
    # No more than was written is read: a file of a stranger can be as large as it likes, for nothing.
    content = regular_files.read(name, min(largest, expected["bytes"]), within=path)
    if len(content) != expected["bytes"]:
        raise ValueError(f"{name} has {len(content)} bytes, {expected['bytes']} were written")
    if sha256(content) != expected["sha256"]:
        raise ValueError(f"{name} has another hash than when it was written")
    return content


def _in_words(error: BaseException) -> str:
    return error.problem if isinstance(error, SharpKerasError) else str(error) or type(error).__name__
