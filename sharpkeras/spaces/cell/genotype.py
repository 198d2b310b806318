"""A genotype: what a cell search finds, as a value and as a JSON file.

A node of a cell adds two (primitive, source) pairs; sources 0 and 1 are the outputs of the two cells before, source
2 + i is node i. A file is read strictly and never executed (the official code runs `eval` on its command line).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sharpkeras import primitives
from sharpkeras.errors import ConfigError
from sharpkeras.io import json_files, kinds
from sharpkeras.spaces import CELL
from sharpkeras.spaces.architecture import SCHEMA_VERSION, Architecture, Place, check_fields, check_name, first_of

MAX_NODES = 32
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
EXPECTED = '{"normal": [["sep_conv_3x3", 0], ["skip_connect", 1], …], "normal_concat": [2, 3, 4, 5], "reduce": […], …}'


@dataclass(frozen=True)
class Genotype(Architecture):
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
    words = "a genotype"
    expected = EXPECTED
    space = CELL

    @classmethod
    def from_dict(cls, fields: Any, where: str = "genotype", ops: str | None = None) -> Self:
        """A validated Genotype from a JSON object; see `Architecture.from_dict`."""
        check_fields(fields, where, FIELDS, EXPECTED)
        return cls(
            normal=_pairs(fields["normal"], f"{where}: normal", ops),
            normal_concat=_concat(fields["normal_concat"], fields["normal"], f"{where}: normal_concat"),
            reduce=_pairs(fields["reduce"], f"{where}: reduce", ops),
            reduce_concat=_concat(fields["reduce_concat"], fields["reduce"], f"{where}: reduce_concat"),
            name=check_name(fields.get("name"), f"{where}: name"),
        )

    def cell(self, reduction: bool) -> tuple[tuple, tuple]:
        """The pairs of one kind of cell grouped by node, ((pair, pair), …), and its concatenated states."""
        pairs, concat = (self.reduce, self.reduce_concat) if reduction else (self.normal, self.normal_concat)
        return tuple(zip(pairs[::2], pairs[1::2])), concat

    def as_dict(self) -> dict[str, Any]:
        named = {"name": self.name} if self.name else {}
        pairs = {"normal": [list(pair) for pair in self.normal], "reduce": [list(pair) for pair in self.reduce]}
        concat = {"normal_concat": list(self.normal_concat), "reduce_concat": list(self.reduce_concat)}
        fields = {**pairs, **concat}
        return {"schema_version": SCHEMA_VERSION, **named, **{name: fields[name] for name in FIELDS}}

    def as_json(self) -> str:
        """One line per cell, so that a difference between two files can be read."""
        fields = kinds.of_kind(self.kind, self.as_dict())
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def facts(self) -> dict[str, Any]:
        cells = {"normal": self.cell(reduction=False), "reduce": self.cell(reduction=True)}
        return {"name": self.name} | {f"{name} cell": _cell_words(*cell) for name, cell in cells.items()}

    def findings(self) -> list[str]:
        cells = {"normal": self.cell(reduction=False), "reduce": self.cell(reduction=True)}
        return [finding for name, cell in cells.items() for finding in _cell_findings(name, *cell)]

    def draw(self, place: Place, title: str | None = None) -> None:
        from sharpkeras.view import cells  # a file is read without matplotlib

        cells.draw_genotype(self, place("cells.png"), title=title)


def load(path: str | os.PathLike[str], ops: str | None = None) -> Genotype:
    """A Genotype from a JSON file of at most 1 MiB; raises ConfigError as `Genotype.from_dict` does."""
    return Genotype.from_dict(json_files.load(path), where=str(path), ops=ops)


def _pairs(value: Any, where: str, ops: str | None) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list) or not value or len(value) % 2 or len(value) > 2 * MAX_NODES:
        rule = f"a list of 2 pairs per node, for 1 to {MAX_NODES} nodes"
        raise ConfigError("wrong number of pairs", where=where, seen=value, allowed=rule)
    return tuple(_pair(pair, index, f"{where}[{index}]", ops) for index, pair in enumerate(value))


def _pair(pair: Any, index: int, where: str, ops: str | None) -> tuple[str, int]:
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


def _concat(value: Any, pairs: Sequence[Any], where: str) -> tuple[int, ...]:
    states = 2 + len(pairs) // 2
    good = isinstance(value, list) and value and all(type(state) is int and 0 <= state < states for state in value)
    if not good or len(set(value)) != len(value):
        rule = f"a non-empty list of different states, each 0 to {states - 1}"
        raise ConfigError("wrong concatenation", where=where, seen=value, allowed=rule)
    return tuple(value)


# --- what a genotype says of itself ---


def _cell_words(nodes: Sequence[Any], concat: Sequence[int]) -> str:
    used = sorted({name for node in nodes for name, _ in node})
    return f"{len(nodes)} nodes, states {', '.join(map(str, concat))} together: {', '.join(used)}"


def _cell_findings(name: str, nodes: Sequence[Any], concat: Sequence[int]) -> list[str]:
    """What makes a cell degenerate: it can be built, but part of it does nothing or learns nothing."""
    kinds = {primitive: row.kind for table in primitives.OPS.values() for primitive, row in table.items()}
    pairs = [pair for node in nodes for pair in node]
    used = {kinds[primitive] for primitive, _ in pairs}
    findings = []
    if "conv" not in used:
        findings.append(f"degenerate: the {name} cell has no convolution, only {', '.join(sorted(used))}")
    nothing = [index for index, (primitive, _) in enumerate(pairs) if kinds[primitive] == "none"]
    if nothing:
        findings.append(f"degenerate: {name}[{first_of(nothing)}] is `none`, which adds zeros")
    read = {*concat, *(source for _, source in pairs)}
    unread = [state for state in range(2, 2 + len(nodes)) if state not in read]
    if unread:
        findings.append(f"degenerate: nothing reads state {first_of(unread)} of the {name} cell")
    if not set(concat) & set(range(2, 2 + len(nodes))):
        findings.append(f"degenerate: the {name} cell hands on its inputs alone")
    return findings
