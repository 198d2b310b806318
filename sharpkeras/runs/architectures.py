"""What a search has found, in its run directory, in a file or by a published name; whatever its kind."""

import os
from pathlib import Path
from typing import Any

from sharpkeras.errors import ConfigError, RunError
from sharpkeras.io import json_files, kinds
from sharpkeras.paper import published
from sharpkeras.runs import RunDirectory, files
from sharpkeras.spaces import ARCHITECTURES, Architecture


def from_dict(fields: Any, where: str = "architecture", ops: str | None = None) -> Architecture:
    """The architecture of a JSON object; raises ConfigError with the JSON path and the rule that was broken."""
    return _class_of(fields).from_dict(fields, where, ops)


def _class_of(fields: Any) -> type[Architecture]:
    """The class whose file has one of these fields; that of the first row where none has."""
    first, *others = ARCHITECTURES.values()
    names = fields if isinstance(fields, dict) else ()
    return next((row for row in reversed(others) if any(name in names for name in row.fields)), first).load()


def in_run(run: RunDirectory) -> Architecture | None:
    """The architecture that a search has found or a training was given; None while there is none."""
    for kind in ARCHITECTURES:
        if run.has(files.architecture(kind)):
            return from_dict(run.read_json(files.architecture(kind)), str(run.path / files.architecture(kind)))
    return None


def write(run: RunDirectory, architecture: Architecture) -> None:
    """Write the architecture's file of a run."""
    run.write_json(files.architecture(architecture.kind), kinds.of_kind(architecture.kind, architecture.as_dict()))


def of_recipe(run: RunDirectory) -> Architecture | None:
    """The architecture that a training run was given; None where its recipe has none."""
    for kind in ARCHITECTURES:
        if kind in run.recipe:
            return from_dict(run.recipe[kind], f"{run.path / files.RECIPE}: {kind}")
    return None


def architecture(source: str | os.PathLike[str]) -> Architecture:
    """The architecture of a run directory, a JSON file or a published name.

    Raises:
        ConfigError: for an unknown name or a broken file.
        RunError: for a directory that is no run, or a search that has not ended.
    """
    path = Path(source)
    if os.path.isdir(path):  # unlike those of a Path, these know no name that is too long to ask for
        found = in_run(RunDirectory.read(path))
        if found is None:
            step = "let it end: the command that began it goes on"
            raise RunError("has found no architecture yet", where=str(path), next_step=step)
        return found
    if path.suffix == ".json" or os.path.isfile(path):
        fields = None
        try:
            fields = json_files.load(path)
            return from_dict(fields, str(path))
        except ConfigError as error:
            kind = _class_of(fields)
            error.next_step = error.next_step or f"a {kind.kind} file looks like {kind.expected}"
            raise
    return published.architecture(str(source))
