"""The weights of a network as arrays by their official names: those of a training run, and those it begins with."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkeras.errors import RunError, UsageError
from sharpkeras.inspection import read_h5, refuse_foreign_model
from sharpkeras.io import atomic_writes, json_files, regular_files
from sharpkeras.io.hashes import sha256
from sharpkeras.runs import RunDirectory, files
from sharpkeras.spaces import state_dict

if TYPE_CHECKING:
    from sharpkeras.spaces.final_network import FinalNetwork

INITIAL = "a run of sharpkeras train, or a .safetensors or .h5 file whose arrays have the official names"


def of_run(run: RunDirectory) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights of a training run, and what was written with them.

    Raises:
        RunError: there are none, or they are damaged or not finite.
    """
    loaded = run.load_arrays(files.WEIGHTS)
    if loaded is None:
        step = "let its training end: the command that began it goes on"
        raise RunError("has no trained weights", where=str(run.path), next_step=step)
    where = run.path / files.WEIGHTS
    _refuse_not_finite(loaded[0], where)
    selection = loaded[1].get("selection", {"by": "last"})
    json_files.require(selection, {"by": str}, f"{where}: selection")
    counted = {"epoch": int, "epochs": int} if "epoch" in selection else {}
    counted |= {"images": int} if selection["by"] == "held_out" else {}
    json_files.require(selection, counted, f"{where}: selection")
    return loaded


def initial(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The weights in a training run or a file, for a training to begin with.

    Raises:
        UsageError: it is nothing of this kind.
        RunError: the arrays are damaged or not finite.
        SafetyError: the file could run code or lead to others.
    """
    path = Path(path)
    if path.is_dir():
        return of_run(RunDirectory.read(path, "train"))[0]
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "there is no such file or run"
        raise UsageError(problem, where=f"`init={path}`", allowed=INITIAL)
    refuse_foreign_model(path)
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in (".h5", ".hdf5"):
        weights = read_h5(path)
    else:
        raise UsageError("is no file of weights", where=f"`init={path}`", allowed=INITIAL)
    _refuse_not_finite(weights, path)
    return weights


def put_into(network: "FinalNetwork", weights: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Set every weight of a network; raise RunError, which names the arrays, where they are not its own."""
    try:
        state_dict.load_state(network, weights)
    except RunError as error:
        error.where = f"{path}: {error.where}" if error.where else str(path)
        raise


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """A hash of all arrays and their names."""
    lines = "".join(f"{name} {atomic_writes.checksum(weights[name])}\n" for name in sorted(weights))
    return sha256(lines.encode())


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with (
        atomic_writes.disk_errors(path),
        atomic_writes.array_errors(path, "take another copy"),
        regular_files.opened(path) as file,
    ):
        return atomic_writes.unpack(file)[0]


def _refuse_not_finite(weights: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    bad = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if bad:
        raise RunError(f"non-finite in {len(bad)} arrays", where=str(path), seen=bad[0])
