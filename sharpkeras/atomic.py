"""Files that are either whole or not there: written aside, flushed to the disk, then renamed.

A kill or a full disk in the middle leaves the file that was there before.
"""

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from sharpkeras.errors import NumericalError, ResourceError, RunError


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
            write_through(temporary, content)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    return temporary


def put_in_place(temporary, path):
    """Renames what `write_aside` wrote; a rename is on the disk only when its directory is."""
    with disk_errors(path):
        os.replace(temporary, path)
        flush_directory(Path(path).parent)


def write_through(path, content):
    """Writes the bytes `content` as `path` and waits until they are on the disk; a kill can leave a part of them."""
    with open(path, "wb", opener=_not_through_links) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _not_through_links(path, flags):
    """A link in a directory that a stranger made could lead to any file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def flush_directory(path):
    """Waits until the names in the directory `path` are on the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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


def dump_file(value, where):
    """`value` as the content of a JSON file that people read; raises as `dumps`."""
    return (dumps(value, where, indent=1) + "\n").encode()


def dump_lines(rows, where):
    """JSON values as text with one a line, encoded; raises as `dumps`."""
    return "".join(f"{dumps(row, where)}\n" for row in rows).encode()


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected a JSON value, received {type(value).__name__}")


# --- arrays: safetensors files, which hold plain numbers and nothing that could run ---


ENTRY = "sharpkeras"  # the one entry of a file's metadata: more would stand in any order, and equal files differ


def save_arrays(path, arrays, meta):
    """Writes the safetensors file `path`.

    Args:
        path: the file.
        arrays: arrays of plain numbers by name; their SHA-256 checksums are written with them.
        meta: JSON values by name.
    """
    entry = {"meta": meta, "sha256": {name: checksum(arrays[name]) for name in sorted(arrays)}}
    write(path, pack(arrays, {ENTRY: dumps(entry, "meta")}))


def load_arrays(path):
    """What `save_arrays` wrote, as (arrays, meta); None where it never wrote.

    Raises:
        RunError: the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            entry = json.loads(file.metadata()[ENTRY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta, checksums = entry["meta"], entry["sha256"]
        wrong = [name for name in {*arrays, *checksums} if checksum(arrays[name]) != checksums[name]]
        if wrong:
            raise ValueError(f"the checksum of {wrong[0]} differs")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        next_step = "make it anew with the command that wrote it, with --overwrite or in another place with --out"
        raise RunError("is damaged", where=str(path), seen=str(error), next_step=next_step) from None
    return arrays, meta


def pack(arrays, metadata=None):
    """The bytes of a safetensors file; raises TypeError for an array of anything but plain numbers."""
    contiguous = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":  # no objects and no text; bfloat16, of another kind, has no NumPy of its own
            raise TypeError(f"expected an array of plain numbers for {name}, received {array.dtype}")
        contiguous[name] = np.require(array, requirements="C")
    return safetensors.numpy.save(contiguous, metadata)


def checksum(array):
    """The SHA-256 of an array's type, shape and numbers, in hexadecimal digits."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
