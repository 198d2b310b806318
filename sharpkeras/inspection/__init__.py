"""Inspection of files and run directories: what they are and whether they are sound; nothing in them is run.

signatures       what a file's first bytes say that it is
report           what an inspection tells, and the limits that all of it keeps
text_files       JSON, TOML and lines of JSON: architectures, recipes, metrics, reports
arrays           safetensors and npy, and the npy files in an npz
archives         zip files: npz, and Keras' own model files
hdf5             HDF5 files, the other form of Keras' weights
media            images, and ONNX files
run_directories  run directories, and their repair
"""

import os
from pathlib import Path

from sharpkeras.errors import ConfigError, SafetyError, UsageError
from sharpkeras.inspection import archives, arrays, hdf5, media, run_directories, signatures, text_files
from sharpkeras.inspection.report import Report

__all__ = ["inspect", "read_h5", "refuse_foreign_model"]

# The kinds of `signatures` that are looked into → by what.
OPENERS = {
    "json": text_files.inspect_json,
    "toml": text_files.inspect_toml,
    "jsonl": text_files.inspect_lines,
    "safetensors": arrays.inspect_safetensors,
    "npy": arrays.inspect_npy,
    "zip": archives.inspect_zip,
    "hdf5": hdf5.inspect_hdf5,
    "onnx": media.inspect_onnx,
    "image": media.inspect_image,
}
KNOWN = "a run directory, JSON, TOML, metrics.jsonl, safetensors, npz, .keras, HDF5, ONNX, JPEG, PNG, BMP"
PLAIN_WEIGHTS = (
    "save its weights alone, spaces.state_dict.state_dict(network), as .safetensors, and its genotype as JSON"
)

read_h5 = hdf5.read_h5


def inspect(path: str | os.PathLike[str], repair: bool = False) -> Report:
    """The Report on a file or a run directory.

    Args:
        path: the file or directory; a stranger may have made it.
        repair: whether the repair that a run directory needs is done, where nobody uses it.

    Raises:
        UsageError: there is no such file, or it is of no kind that has a repair.
        ConfigError: a text is not what it should be, or the file is none that sharpkeras opens; what it is, is named.
        DataError: a broken image.
        RunError: no run directory, arrays that are damaged, or a directory in use that was to be repaired.
        SafetyError: it would run code, read other files, or fill the memory.
    """
    path = Path(path)
    if path.is_dir():
        return run_directories.repair(path) if repair else run_directories.inspect_directory(path)
    if repair:
        raise UsageError("only run directories can be repaired", where="`repair`", seen=str(path))
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "there is no such file"
        raise UsageError(problem, where=str(path), allowed=KNOWN)
    kind, words = signatures.detect(path)
    if kind not in OPENERS:
        raise ConfigError(f"is {words}, which sharpkeras does not open", where=str(path), allowed=KNOWN)
    return OPENERS[kind](path)


def refuse_foreign_model(path: str | os.PathLike[str]) -> None:
    """Raise SafetyError for a model file that can run code or reach beyond itself when it is opened.

    Every `.keras` file is one, since a model would be made from a configuration in it; a pickle is one, and so is a
    file of PyTorch. An HDF5 file is one if a member of it is not plain numbers of its own. Other paths pass.

    Args:
        path: a file, which may be missing, or a directory.
    """
    path = Path(path)
    if not path.is_file():
        return
    kind, words = signatures.detect(path)
    if kind == "hdf5":
        hdf5.refuse_unsafe(path)
    elif kind == "zip":
        archives.refuse_model(path, PLAIN_WEIGHTS)
    elif kind == "pickle" or path.suffix == ".keras":
        raise SafetyError(
            f"is {words}: opening it could run code",
            where=str(path),
            allowed="a run directory that train wrote",
            next_step=PLAIN_WEIGHTS,
        )
