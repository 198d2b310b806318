"""Arrays in files: safetensors, npy, and the npy files that an npz is made of. Objects in them are never unpickled."""

import math
import tokenize
from pathlib import Path
from typing import IO

import numpy as np

from sharpkeras.errors import SafetyError
from sharpkeras.inspection.report import ANOTHER_COPY, Report, array_facts, damaged, finite_findings, names
from sharpkeras.io import atomic_writes, regular_files

FLOATS = ("F64", "F32", "F16")  # the types of numbers in safetensors that can be infinite, and that NumPy knows
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
BROKEN = (  # what NumPy raises on a header, and what Python's own parser does, which it uses
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
)


def inspect_safetensors(path: Path) -> Report:
    """The Report on a safetensors file; raises RunError for a damaged one."""
    with (
        atomic_writes.disk_errors(path),
        atomic_writes.array_errors(path, ANOTHER_COPY),
        regular_files.opened(path) as file,
    ):
        declared, metadata = atomic_writes.header(file)
        floats = [name for name, array in declared.items() if array.dtype in FLOATS]
        bad = [name for name in floats if not np.isfinite(atomic_writes.array_of(file, declared[name])).all()]
    found = {name: (array.dtype, array.shape) for name, array in declared.items()}
    unread = [name for name, (dtype, _) in found.items() if dtype not in atomic_writes.DTYPES]
    facts = {**array_facts(found), "not looked at for NaN": names(unread)}
    if atomic_writes.ENTRY in metadata:
        loaded = atomic_writes.load_arrays(path)  # None only where it has just been removed
        facts |= {"checksums": f"{len(found)} right", "metadata": loaded[1] if loaded else {}}
    else:
        facts |= {"checksums": "none in the file", "metadata": sorted(metadata)}
    return Report(str(path), "arrays (safetensors)", facts, finite_findings(bad, len(found)))


def inspect_npy(path: Path) -> Report:
    """The Report on a single array; raises as `npy_header`."""
    with regular_files.opened(path) as file:
        dtype, shape = npy_header(file, path.stat().st_size, path, path.name)
    return Report(str(path), "an array (npy)", array_facts({path.stem: (dtype, shape)}))


def npy_header(file: IO[bytes], size: int, path: Path, member: str) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) that an npy file declares; the array is not read.

    Args:
        file: open for reading bytes, at its start.
        size: of it, in bytes.
        path, member: what messages call the file, and it.

    Raises:
        RunError: it is damaged.
        SafetyError: it holds objects, which NumPy would unpickle, or declares more bytes than it has.
    """
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = READERS[version](file)
        declared, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    except BROKEN as error:
        raise damaged(f"{path}: {member}", error) from None
    if dtype.hasobject:
        raise SafetyError(
            f"{member} holds Python objects, which only a pickle can",
            where=str(path),
            seen=str(dtype),
            allowed="arrays of plain numbers",
            next_step="save its numbers alone, best as safetensors",
        )
    if declared > there:
        seen = f"{declared:,} bytes declared, {max(there, 0):,} there"
        raise SafetyError(f"{member} declares more than it holds", where=str(path), seen=seen)
    return str(dtype), shape
