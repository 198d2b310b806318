"""Files that are either whole or not there: written aside, flushed to the disk, then renamed.

A kill or a full disk in the middle leaves the file that was there before.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sharpkeras.errors import NumericalError, ResourceError, RunError

logger = logging.getLogger(__name__)


def write(path, content):
    """Writes the bytes `content` as the file `path`, with its folders.

    Raises:
        ResourceError: the disk is full.
        RunError: the place can not be written.
    """
    put_in_place(write_aside(path, content), path)


def write_aside(path, content):
    """Writes `content` beside `path` and returns where; the first half of `write`, which says what it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                flush(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    return temporary


def put_in_place(temporary, path):
    """Renames what `write_aside` wrote; a rename is on the disk only when its directory is."""
    with disk_errors(path):
        os.replace(temporary, path)
        directory = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def flush(file):
    """Waits until what was written to `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def disk_errors(path):
    """Turns an OSError into a message that its reader can act on."""
    try:
        yield
    except OSError as error:
        seen = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            next_step = "free some space, or name a place on another disk with --out"
            raise ResourceError("the disk is full", where=str(path), seen=seen, next_step=next_step) from None
        next_step = "name a place that can be written with --out"
        raise RunError("can not be read or written", where=str(path), seen=seen, next_step=next_step) from None


def dumps(value, where, indent=None):
    """`value` as JSON text; NumPy scalars and arrays become numbers and lists.

    Raises:
        NumericalError: a number in it is NaN or infinite, which JSON does not know.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    except ValueError as error:
        problem = "a value to be recorded is not finite"
        raise NumericalError(problem, where=where, seen=str(error), allowed="finite numbers") from None


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected a JSON value, received {type(value).__name__}")


def save_arrays(path, arrays, meta):
    """Writes the npz file `path`, and keeps the one before as `<name>.previous.npz`.

    Args:
        path: the file.
        arrays: arrays of plain numbers by name; their SHA-256 checksums are written with them.
        meta: JSON values by name.
    """
    temporary = write_aside(path, _pack(arrays, meta))
    with disk_errors(path):
        if path.exists():
            os.replace(path, _previous(path))
    put_in_place(temporary, path)


def load_arrays(path, repair):
    """What `save_arrays` wrote last and is whole, as (arrays, meta); None when it never wrote.

    Args:
        path: the file.
        repair: whether a damaged file is renamed; the next save would keep it as the previous one.

    Raises:
        RunError: all that is there is damaged.
    """
    problems = []
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            arrays, meta = _unpack(candidate)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            problems.append(f"{candidate.name}: {error}")
            if repair:
                os.replace(candidate, f"{candidate}.damaged")
            continue
        if candidate != path:
            logger.warning("%s is missing or damaged; going on from %s", path, candidate.name)
        return arrays, meta
    if not problems:
        return None
    next_step = "start afresh with --overwrite, or in another directory with --out"
    raise RunError("is damaged", where=str(path), seen="; ".join(problems), next_step=next_step)


def _previous(path):
    return path.with_name(f"{path.stem}.previous.npz")


def _pack(arrays, meta):
    checksums, members = {}, {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in "biufcSU":  # objects would be pickled, bfloat16 would come back as raw bytes
            raise TypeError(f"expected an array of plain numbers for {name}, received {array.dtype}")
        checksums[name] = _checksum(array)
        members[f"array/{name}"] = array  # prefixed, since savez takes `file` and others for its own arguments
    entry = dumps({"meta": meta, "sha256": checksums}, "meta").encode()
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(entry, np.uint8), **members)
    return buffer.getbuffer()


def _unpack(path):
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:  # np.load leaves a broken file open
        entry = json.loads(file["meta"].tobytes())
        arrays = {name: file[f"array/{name}"] for name in entry["sha256"]}
    for name, array in arrays.items():
        if _checksum(array) != entry["sha256"][name]:
            raise ValueError(f"the checksum of {name} differs")
    return arrays, entry["meta"]


def _checksum(array):
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
