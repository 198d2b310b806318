"""Atomic writes: files are written aside, flushed to the disk, then renamed.

A kill or a full disk in the middle leaves the file that was there before.
"""

import contextlib
import errno
import io
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from sharpkeras.errors import NumericalError, ResourceError, RunError, printable
from sharpkeras.io import regular_files
from sharpkeras.io.hashes import sha256

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may have of it


def write(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write the bytes `content` as the file `path`, with its folders.

    Raises:
        ResourceError: the disk is full.
        RunError: the place cannot be written.
    """
    put_in_place(write_aside(path, content), path)


def write_aside(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write `content` beside `path` and return where; the first half of `write`, which says what it raises."""
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


def put_in_place(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename what `write_aside` wrote; a rename is on the disk only when its directory is."""
    with disk_errors(path):
        os.replace(temporary, path)
        flush_directory(Path(path).parent)


def write_through(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write the bytes `content` as `path` and wait until they are on the disk; a kill can leave a part of them."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # what a kill left, or what a stranger put there: a link to any file, a pipe that nobody reads
    with open(path, "wb", opener=_anew) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _anew(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove what stands at `path`, a directory with all in it; of a link the link, never what it leads to."""
    if os.path.lexists(path):
        (shutil.rmtree if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink)(path)


def flush_directory(path: str | os.PathLike[str]) -> None:
    """Wait until the names in the directory `path` are on the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str] | None, by: str = "") -> Iterator[None]:
    """Turn an OSError into a message that its reader can act on.

    Args:
        path: what is read or written.
        by: how another place is named, where the command that was typed has a flag for it, such as " with `out`".
    """
    try:
        yield
    except regular_files.RefusedError as error:
        allowed, next_step = "a regular file; in a run, no link", "take another copy of it, or name another place"
        raise RunError(error.strerror, where=error.filename, allowed=allowed, next_step=next_step) from None
    except OSError as error:
        raise disk_error(error, path, by) from None


def disk_error(error: OSError, path: str | os.PathLike[str] | None, by: str = "") -> ResourceError | RunError:
    """The error to raise for an OSError: ResourceError where the disk is full, else RunError; as `disk_errors`."""
    where, seen = None if path is None else str(path), error.strerror or str(error)
    if error.errno in FULL:
        next_step = f"free some space, or name a place on another disk{by}"
        return ResourceError("the disk is full", where=where, seen=seen, next_step=next_step)
    next_step = f"name a place that can be written{by}"
    return RunError("cannot be read or written", where=where, seen=seen, next_step=next_step)


def dumps(value: Any, where: str, indent: int | None = None) -> str:
    """`value` as JSON text; NumPy scalars and arrays become numbers and lists.

    Raises:
        NumericalError: a number in it is NaN or infinite, which JSON does not know.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
        # A path that is no UTF-8 has half characters in Python; JSON has an escape for them, which is also Python's.
        return text.encode(errors="backslashreplace").decode()
    except ValueError as error:
        problem = "a value to be recorded is not finite"
        raise NumericalError(problem, where=where, seen=str(error), allowed="finite numbers") from None


def dump_file(value: Any, where: str) -> bytes:
    """`value` as the content of a JSON file that people read; raises as `dumps`."""
    return (dumps(value, where, indent=1) + "\n").encode()


def dump_lines(rows: Iterable[Any], where: str) -> bytes:
    """JSON values as the bytes of a JSON Lines file, one value a line; raises as `dumps`."""
    return "".join(f"{dumps(row, where)}\n" for row in rows).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected a JSON value, received {type(value).__name__}")


# --- arrays: safetensors files, which hold plain numbers and nothing that could run ---
#
# They are read here and not by the format's own library, which maps the file, panics in Rust at a size that memory
# lacks (no Exception in Python), and hands on types of numbers that NumPy has not.


ENTRY = "sharpkeras"  # the one entry of a file's metadata: more would stand in any order, and equal files differ
LARGEST_ARRAYS = 8 * 2**30  # bytes of a file
LARGEST_HEADER = 16 * 2**20  # bytes; that of a hundred thousand arrays is smaller
DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}  # others, such as BF16 and F8_E4M3, NumPy does not know
MOST_AXES = 32
AGAIN = "make it anew with the command that wrote it, with `overwrite` or in another place with `out`"


class Declared(NamedTuple):
    """Header entry of an array in a safetensors file: its dtype, its shape, and where its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write the safetensors file `path`.

    Args:
        path: the file.
        arrays: arrays of plain numbers by name; their SHA-256 checksums are written with them.
        meta: JSON values by name.
    """
    write(path, pack_with_checksums(arrays, meta))


def pack_with_checksums(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `save_arrays` writes."""
    entry = {"meta": meta, "sha256": {name: checksum(arrays[name]) for name in sorted(arrays)}}
    return pack(arrays, {ENTRY: dumps(entry, "meta")})


def load_arrays(
    path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Read what `save_arrays` wrote: (arrays, meta), or None where there is no file.

    Args:
        path, within: as of `regular_files.opened`.

    Raises:
        RunError: the file is damaged, or none that is read.
    """
    where = path if within is None else os.path.join(within, path)
    if not os.path.lexists(where):
        return None
    with disk_errors(where), array_errors(where), regular_files.opened(path, within) as file:
        arrays, metadata = unpack(file)
        entry = _json(metadata.get(ENTRY, "{}"))
        if not (isinstance(entry, dict) and all(isinstance(entry.get(key), dict) for key in ("meta", "sha256"))):
            raise ValueError("it has no checksums")
        meta, checksums = entry["meta"], entry["sha256"]
        if arrays.keys() != checksums.keys():
            raise ValueError(f"the checksum of {min(arrays.keys() ^ checksums.keys())} has no array, or the reverse")
        wrong = [name for name, array in arrays.items() if checksum(array) != checksums[name]]
        if wrong:
            raise ValueError(f"the checksum of {wrong[0]} differs")
    return arrays, meta


@contextlib.contextmanager
def array_errors(path: str | os.PathLike[str], next_step: str = AGAIN) -> Iterator[None]:
    """Turn the errors of reading a damaged or malicious safetensors file into a RunError."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        seen = printable(str(error)) or type(error).__name__
        raise RunError("is damaged", where=str(path), seen=seen, next_step=next_step) from None


def unpack(file: io.BufferedIOBase | bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays in a safetensors file by name, and its metadata.

    Args:
        file: open for reading bytes, or the bytes themselves.

    Raises:
        ValueError: it is no such file, is not as long as it says, or holds other numbers than NumPy's.
    """
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    declared, metadata = header(file)
    other = next((name for name, array in declared.items() if array.dtype not in DTYPES), None)
    if other is not None:
        raise ValueError(f"{other} has numbers of the type {declared[other].dtype}; save them as F32")
    return {name: array_of(file, array) for name, array in declared.items()}, metadata


def header(file: io.BufferedIOBase) -> tuple[dict[str, Declared], dict[str, str]]:
    """Header of a safetensors file: name → Declared, and the metadata, name → text.

    All of it is checked before memory is taken for an array: types, shapes and sizes belong together, and the arrays
    fill the file, one behind the other.

    Args:
        file: open for reading bytes.

    Raises:
        ValueError: as `unpack`.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if size < 8 or start > size:
        raise ValueError(f"the file has {size:,} bytes, and its header alone is to have {length:,}")
    if length > LARGEST_HEADER or size > LARGEST_ARRAYS:
        allowed = f"{LARGEST_HEADER:,} and {LARGEST_ARRAYS:,}"
        raise ValueError(f"its header has {length:,} bytes and the file {size:,}, more than {allowed}")
    content = _json(file.read(length).decode())
    metadata = content.pop("__metadata__", {}) if isinstance(content, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its header is no object, or its metadata are not text by name")
    declared = {name: _declared(name, fields, start) for name, fields in content.items()}
    place = start
    for name, array in sorted(declared.items(), key=lambda item: (item[1].begin, item[1].end)):
        if array.begin != place:
            raise ValueError(f"{name} begins at byte {array.begin:,}, where the array before ends at {place:,}")
        place = array.end
    if place != size:
        raise ValueError(f"its arrays end at byte {place:,}, the file at {size:,}")
    return declared, metadata


def _declared(name: str, fields: Any, start: int) -> Declared:
    """An entry of a header as Declared; raises ValueError for one that says nothing, or nothing possible."""
    name.encode()  # no half of a character, which could not be written or printed
    match fields:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            numbers = [*shape, begin, end]
        case _:
            numbers = [None]
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError(f"{name} is declared as {fields}")
    expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else end - begin
    if end < begin or end - begin != expected or len(shape) > MOST_AXES:
        raise ValueError(f"{name} has {end - begin:,} bytes, and as {dtype} {shape} would have {expected:,}")
    return Declared(dtype, tuple(shape), start + begin, start + end)


def array_of(file: io.BufferedIOBase, declared: Declared) -> np.ndarray:
    """The array that a file has where its header says so; raises ValueError where the file has become shorter."""
    array = np.empty(declared.shape, DTYPES[declared.dtype])
    file.seek(declared.begin)
    content: Any = array.reshape(-1).view("u1")
    if file.readinto(content) != array.nbytes:
        raise ValueError("the file has become shorter while it was read")
    return array


def _json(text: str) -> Any:
    """The value of a JSON text in which each key stands once and each number is one; raises ValueError for others."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    return json.loads(text, object_pairs_hook=_each_once, parse_constant=refuse)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return content


def pack(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file.

    Raises:
        TypeError: an array is of anything but plain numbers.
        ResourceError: it would be larger than what is read again.
    """
    contiguous = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":  # no objects and no text; bfloat16, of another kind, has no NumPy of its own
            raise TypeError(f"expected an array of plain numbers for {name}, received {array.dtype}")
        contiguous[name] = np.require(array, requirements="C")
    size = sum(array.nbytes for array in contiguous.values()) + LARGEST_HEADER
    if size > LARGEST_ARRAYS:
        allowed = f"{LARGEST_ARRAYS:,} bytes in a file"
        raise ResourceError("the arrays are too many to be read again", seen=f"{size:,} bytes", allowed=allowed)
    return safetensors.numpy.save(contiguous, metadata)


def refuse_to_replace(path: Path, overwrite: bool, next_step: str | tuple[str, ...]) -> None:
    """Raise RunError where a file is to be written over one that is there, unless `overwrite` allows it.

    Args:
        path: the file to be written.
        overwrite: whether a file may be replaced.
        next_step: what is told.
    """
    if path.exists() and not overwrite:
        raise RunError("exists already", where=str(path), next_step=next_step)


def checksum(array: np.ndarray) -> str:
    """The SHA-256 of an array's type, shape and numbers, in hexadecimal digits."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return sha256(head + np.ascontiguousarray(array).tobytes())
