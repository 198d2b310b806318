"""The kinds of files that users and strangers hand in, and how each is read and written; for `fuzz.py`."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sharpkeras.io import atomic_writes, json_files
from sharpkeras.measure.latency import primitive_table
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import RunDirectory, architectures
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.hypercuboid import path as paths
from sharpkeras_cli import options
from support.hostile import CONFIG, CONFIG_TOML, FACTS, GENOTYPE, ROUTE, ROWS, RUNS, SEARCH, TABLE, written


class Parser(NamedTuple):
    """A kind of file: its name, path → value, value → bytes that say the same, and good contents."""

    name: str
    read: Callable
    write: Callable
    seeds: tuple


def toml(recipe):
    """A recipe as TOML, whose strings are those of JSON but for the delete character; it has no null."""
    settings = {name: value for name, value in recipe.as_dict().items() if value is not None}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.items()]
    return "".join(lines).replace("\x7f", "\\u007f").encode()


def in_run(name, read):
    """Parser of a file of a run: `read` gets its RunDirectory."""

    def read_beside_good_files(path):
        (path.parent / "run.json").touch()
        if name != "run.json":
            (path.parent / "run.json").write_bytes(written(RUNS["search"]["run.json"]))
        return read(RunDirectory.read(path.parent))

    return read_beside_good_files


def config(recipe_class):
    return lambda path: recipe_class.from_dict(options.read_config(path), str(path))


def table(path):
    primitive_table.load_table(path)
    return json_files.load(path)


def arrays(path):
    found, meta = atomic_writes.load_arrays(path)
    return [{name: array.tolist() for name, array in found.items()}, meta]


def packed(value):
    """The bytes of a file of arrays, from what `arrays` returns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.safetensors")
        atomic_writes.save_arrays(path, {name: np.array(values) for name, values in value[0].items()}, value[1])
        return path.read_bytes()


def facts(run):
    return {**FACTS, "kind": run.kind, "finished": "then" if run.finished else None}


ANY = {"a": [1, -2.5e3, "é\n", None, True], "b": {"c": {}, "d": [[]]}}
PARSERS = {
    "json": Parser("value.json", json_files.load, written, (ANY, [], 0)),
    "genotype": Parser("g.json", genotypes.load, lambda found: found.as_json().encode(), (GENOTYPE.as_dict(),)),
    "path": Parser("p.json", paths.load, lambda found: found.as_json().encode(), (ROUTE.as_dict(),)),
    "architecture": Parser(
        "a.json",
        architectures.architecture,
        lambda found: found.as_json().encode(),
        (GENOTYPE.as_dict(), ROUTE.as_dict()),
    ),
    "search config": Parser(
        "c.json", config(SearchRecipe), lambda recipe: written(recipe.as_dict()), (CONFIG, SEARCH.as_dict())
    ),
    "training config": Parser(
        "c.json", config(TrainRecipe), lambda recipe: written(recipe.as_dict()), (RUNS["train"]["recipe.json"],)
    ),
    "TOML": Parser("c.toml", config(TrainRecipe), toml, (CONFIG_TOML, toml(TrainRecipe()).decode())),
    "run": Parser("run.json", in_run("run.json", facts), written, (RUNS["search"]["run.json"],)),
    "recipe": Parser(
        "recipe.json", in_run("recipe.json", lambda run: run.recipe), written, (RUNS["search"]["recipe.json"],)
    ),
    "metrics": Parser(
        "metrics.jsonl",
        in_run("metrics.jsonl", RunDirectory.read_metrics),
        lambda rows: written(tuple(rows)),
        (ROWS,),
    ),
    "arrays": Parser("w.safetensors", arrays, packed, (packed([{"a": [[1.0, 2.0]], "b": []}, {"epoch": 3}]),)),
    "latencies": Parser("l.json", table, written, (TABLE,)),
}
