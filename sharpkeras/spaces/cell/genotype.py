"""A genotype: what a cell search finds, as a value and as a JSON file.

A node of a cell adds two (primitive, source) pairs; sources 0 and 1 are the outputs of the two cells before, source
2 + i is node i. A file is read strictly and never executed (the official code runs `eval` on its command line).
"""

import json
from dataclasses import dataclass

from sharpkeras import primitives
from sharpkeras.errors import ConfigError
from sharpkeras.io import json_files
from sharpkeras.spaces import SCHEMA_VERSION, check_fields, check_name

MAX_NODES = 32
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
EXPECTED = '{"normal": [["sep_conv_3x3", 0], ["skip_connect", 1], …], "normal_concat": [2, 3, 4, 5], "reduce": […], …}'


@dataclass(frozen=True)
class Genotype:
    """An architecture of cells (Fig. 2).

    Args:
        normal: (primitive, source) pairs, two per node, the stronger edge of a node first.
        normal_concat: states whose concatenation is the cell's output.
        reduce, reduce_concat: the same for the reduction cell.
        name: optional; a file name in itself.
    """

    normal: tuple
    normal_concat: tuple
    reduce: tuple
    reduce_concat: tuple
    name: str | None = None

    kind = "genotype"

    def cell(self, reduction):
        """The pairs of one kind of cell grouped by node, ((pair, pair), …), and its concatenated states."""
        pairs, concat = (self.reduce, self.reduce_concat) if reduction else (self.normal, self.normal_concat)
        return tuple(zip(pairs[::2], pairs[1::2])), concat

    def as_dict(self):
        named = {"name": self.name} if self.name else {}
        pairs = {"normal": [list(pair) for pair in self.normal], "reduce": [list(pair) for pair in self.reduce]}
        concat = {"normal_concat": list(self.normal_concat), "reduce_concat": list(self.reduce_concat)}
        fields = {**pairs, **concat}
        return {"schema_version": SCHEMA_VERSION, **named, **{name: fields[name] for name in FIELDS}}

    def as_json(self):
        """One line per cell, so that a difference between two files can be read."""
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self.as_dict().items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def from_dict(fields, where="genotype", ops=None):
    """A validated Genotype from a JSON object; without `schema_version` it is read as version 1.

    Args:
        fields: the object.
        where: the file's name, for messages.
        ops: op table that must hold every primitive; None accepts the names of any table.

    Raises:
        ConfigError: with the JSON path and the rule that was broken.
    """
    check_fields(fields, where, FIELDS, EXPECTED)
    return Genotype(
        normal=_pairs(fields["normal"], f"{where}: normal", ops),
        normal_concat=_concat(fields["normal_concat"], fields["normal"], f"{where}: normal_concat"),
        reduce=_pairs(fields["reduce"], f"{where}: reduce", ops),
        reduce_concat=_concat(fields["reduce_concat"], fields["reduce"], f"{where}: reduce_concat"),
        name=check_name(fields.get("name"), f"{where}: name"),
    )


def load(path, ops=None):
    """A Genotype from a JSON file of at most 1 MiB; raises ConfigError as `from_dict` does."""
    return from_dict(json_files.load(path), where=str(path), ops=ops)


def _pairs(value, where, ops):
    if not isinstance(value, list) or not value or len(value) % 2 or len(value) > 2 * MAX_NODES:
        rule = f"a list of 2 pairs per node, for 1 to {MAX_NODES} nodes"
        raise ConfigError("wrong number of pairs", where=where, seen=value, allowed=rule)
    return tuple(_pair(pair, index, f"{where}[{index}]", ops) for index, pair in enumerate(value))


def _pair(pair, index, where, ops):
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int):
        raise ConfigError("expected [primitive, source]", where=where, seen=pair, allowed='["sep_conv_3x3", 0]')
    name, source = pair
    tables = [ops] if ops else [table for table in primitives.OPS if name in primitives.OPS[table]] or ["sharp"]
    primitives.lookup(name, tables[0], where=f"{where}[0]")
    node = index // 2
    if not 0 <= source < 2 + node:
        rule = f"0 to {1 + node}: node {node} comes after the two inputs and {node} nodes"
        raise ConfigError("a node can only read what comes before it", where=f"{where}[1]", seen=source, allowed=rule)
    return name, source


def _concat(value, pairs, where):
    states = 2 + len(pairs) // 2
    good = isinstance(value, list) and value and all(type(state) is int and 0 <= state < states for state in value)
    if not good or len(set(value)) != len(value):
        rule = f"a non-empty list of different states, each 0 to {states - 1}"
        raise ConfigError("wrong concatenation", where=where, seen=value, allowed=rule)
    return tuple(value)
