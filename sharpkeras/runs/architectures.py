"""What a search finds, whatever its space: a Genotype of cells or a Path of a HyperCuboid, and their files."""

import os
from pathlib import Path as FilePath

from sharpkeras.errors import ConfigError, RunError
from sharpkeras.io import json_files, kinds
from sharpkeras.paper import published
from sharpkeras.runs import RunDirectory, files
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.hypercuboid import path as paths

KINDS = {"genotype": genotypes, "path": paths}  # also the names of their files in a run


def from_dict(fields, where="architecture", ops=None):
    """The Genotype or Path of a JSON object; raises ConfigError with the JSON path and the rule that was broken."""
    if isinstance(fields, dict) and "routes" in fields:
        return paths.from_dict(fields, where)
    return genotypes.from_dict(fields, where, ops)


def in_run(run):
    """The architecture that a search has found or a training was given; None while there is none."""
    for kind in KINDS:
        if run.has(files.architecture(kind)):
            return from_dict(run.read_json(files.architecture(kind)), str(run.path / files.architecture(kind)))
    return None


def write(run, architecture):
    """Write the architecture's file of a run."""
    run.write_json(files.architecture(architecture.kind), kinds.of_kind(architecture.kind, architecture.as_dict()))


def of_recipe(run):
    """The architecture that a training run was given; None where its recipe has none."""
    for kind in KINDS:
        if kind in run.recipe:
            return from_dict(run.recipe[kind], f"{run.path / files.RECIPE}: {kind}")
    return None


def architecture(source):
    """The architecture of a run directory, a JSON file or a published name.

    Raises:
        ConfigError: for an unknown name or a broken file.
        RunError: for a directory that is no run, or a search that has not ended.
    """
    path = FilePath(source)
    if os.path.isdir(path):  # unlike those of a Path, these know no name that is too long to ask for
        found = in_run(RunDirectory.read(path))
        if found is None:
            step = "let it end: the command that began it goes on"
            raise RunError("has found no architecture yet", where=str(path), next_step=step)
        return found
    if path.suffix == ".json" or os.path.isfile(path):
        try:
            return from_dict(json_files.load(path), str(path))
        except ConfigError as error:
            error.next_step = error.next_step or f"a genotype file looks like {genotypes.EXPECTED}"
            raise
    return published.architecture(source)
