"""HDF5 files, such as Keras' `.weights.h5`: walked without following anything that leads out of them.

h5py comes with Keras and needs nothing of it. The HDF5 library itself reads the file: see SECURITY.md.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from sharpkeras.errors import ConfigError, RunError, SafetyError, printable
from sharpkeras.inspection.report import (
    LARGEST_MEMBERS,
    Report,
    array_facts,
    damaged,
    finite_findings,
    refuse_bomb,
)

LARGEST_ARRAYS = 8 * 2**30  # bytes, in all
KINDS = "biuf"  # of plain numbers
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}  # others would load a plug-in, or are never used for weights
BROKEN = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError)


def inspect_hdf5(path: str | os.PathLike[str]) -> Report:
    """The Report on an HDF5 file; raises as `read_h5`, but other members than arrays of numbers are a finding."""
    with _open(path) as file, _damage(path):
        arrays, others = _members(file, path)
        is_model = "model_config" in file.attrs
        bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array[()]).all()]
        facts = array_facts({name: (str(array.dtype), array.shape) for name, array in arrays.items()})
    findings = finite_findings(bad, len(arrays))
    findings += [f"no plain numbers: {name}" for name in others]
    if is_model:
        findings.append("has the configuration of a model too, which sharpkeras never reads")
    return Report(str(path), "a whole Keras model (HDF5)" if is_model else "arrays (HDF5)", facts, findings)


def read_h5(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an HDF5 file by the path of each in it, such as "layers/dense/vars/0".

    Raises:
        ConfigError: h5py is missing.
        RunError: no HDF5 file, a damaged one, or one with other members than arrays of plain numbers.
        SafetyError: a member leads out of the file, or would fill the memory; see `refuse_unsafe`.
    """
    with _open(path) as file, _damage(path):
        arrays, others = _members(file, path)
        if others:
            raise RunError("has members that are no plain numbers", where=str(path), seen=others[0])
        return {name: array[()] for name, array in arrays.items()}


def refuse_unsafe(path: str | os.PathLike[str]) -> None:
    """Raise SafetyError for an HDF5 file with links, with data in other files, or that would fill the memory."""
    with _open(path) as file, _damage(path):
        _members(file, path)


def _open(path: str | os.PathLike[str]) -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError("the package h5py is missing", next_step="pip install h5py") from None
    with _damage(path):
        return h5py.File(path, "r", locking=False)


@contextlib.contextmanager
def _damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what h5py raises on a broken file into a RunError."""
    try:
        yield
    except BROKEN as error:
        raise damaged(path, error) from None


def _members(file: Any, path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Name → h5py.Dataset for all arrays of plain numbers, and the names of what is something else.

    Raises:
        SafetyError: see `refuse_unsafe`.
    """
    import h5py

    arrays, others, groups, seen, total = {}, [], [("", file.id)], set(), 0
    while groups:
        prefix, group = groups.pop()
        for key in list(group):
            name = printable(prefix + key.decode("utf-8", "replace"), 200)
            _refuse_link(group, key, path, name)
            member = h5py.h5o.open(group, key)
            if isinstance(member, h5py.h5g.GroupID):
                place = h5py.h5o.get_info(member).addr  # a group may hold itself
                if place not in seen:
                    seen.add(place)
                    groups.append((f"{name}/", member))
            elif isinstance(member, h5py.h5d.DatasetID) and _is_plain(member, path, name):
                arrays[name] = h5py.Dataset(member)
                total += math.prod(member.shape) * member.dtype.itemsize
                refuse_bomb(path, name, total, os.path.getsize(path))  # all so far: one array can have many names
            else:
                others.append(name)
            if len(arrays) + len(others) + len(seen) > LARGEST_MEMBERS:
                raise SafetyError("has too many members", where=str(path), allowed=LARGEST_MEMBERS)
    if total > LARGEST_ARRAYS:
        raise SafetyError("is too large", where=str(path), seen=f"{total:,} bytes", allowed=f"{LARGEST_ARRAYS:,}")
    return dict(sorted(arrays.items())), others


def _refuse_link(group: Any, key: bytes, path: str | os.PathLike[str], name: str) -> None:
    """Raise SafetyError unless `key` stands for a member itself."""
    import h5py

    kind = group.links.get_info(key).type
    if kind != h5py.h5l.TYPE_HARD:
        words = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
        raise _unsafe(path, name, words.get(kind, "a link of an unknown kind"))


def _is_plain(dataset: Any, path: str | os.PathLike[str], name: str) -> bool:
    """Whether a dataset holds plain numbers; raises SafetyError for one whose data lies elsewhere.

    Its shape is asked for last: that of a virtual dataset would open the files that it is made of.
    """
    import h5py

    settings = dataset.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL:
        raise _unsafe(path, name, "a virtual dataset, made of other files")
    if settings.get_external_count():
        raise _unsafe(path, name, "an array whose numbers lie in another file")
    filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
    if not set(filters) <= FILTERS.keys():
        raise _unsafe(path, name, f"an array that needs a plug-in to be read (filter {max(filters)})")
    return dataset.shape is not None and dataset.dtype.kind in KINDS


def _unsafe(path: str | os.PathLike[str], name: str, words: str) -> SafetyError:
    step = "write its weights anew with model.save_weights, where the file comes from"
    return SafetyError(
        f"{name} is {words}", where=str(path), allowed="plain numbers in the file itself", next_step=step
    )
