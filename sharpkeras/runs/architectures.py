"""What a search has found, in its run directory, in a file or by a published name; whatever its kind."""

import os
from pathlib import Path
from typing import Any

from sharpkeras.errors import ConfigError, RunError
from sharpkeras.io import json_files
from sharpkeras.paper import published
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces import ARCHITECTURES, Architecture


def from_dict(fields: Any, where: str = "architecture", ops: str | None = None) -> Architecture:
    """The architecture of a JSON object; raises ConfigError with the JSON path and the rule that was broken."""
    return _class_of(fields).from_dict(fields, where, ops)


def _class_of(fields):
    """The class whose file has one of these fields; that of the first row where none has."""
    first, *others = ARCHITECTURES.values()
    names = fields if isinstance(fields, dict) else ()
    return next((row for row in reversed(others) if any(name in names for name in row.fields)), first).load()


def file_name(kind: str) -> str:
    """The name of an architecture's file in a run directory."""
    return f"{kind}.json"


def in_run(run: RunDirectory) -> Architecture | None:
    """The architecture that a search has found or a training was given; None while there is none."""
    for kind in ARCHITECTURES:
        if run.has(file_name(kind)):
            return from_dict(run.read_json(file_name(kind)), str(run.path / file_name(kind)))
    return None


def of_recipe(run: RunDirectory) -> Architecture | None:
    """The architecture that a training run was given; None where its recipe has none."""
    for kind in ARCHITECTURES:
        if kind in run.recipe:
            return from_dict(run.recipe[kind], f"{run.path}/recipe.json: {kind}")
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
