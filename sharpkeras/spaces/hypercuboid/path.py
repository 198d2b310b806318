"""A path: what the search of a HyperCuboid finds, as a value and as a JSON file (§4.1, the arrows of Fig. 6).

A route is a choice of the stem and one choice at each position, and a choice is a label on each axis. A path has one
route, a multi-path sub-graph several, which share what they have in common.
"""

import json
import math
import os
from dataclasses import dataclass
from typing import Any, Self

from sharpkeras.errors import ConfigError, printable
from sharpkeras.io import json_files, kinds
from sharpkeras.spaces.architecture import SCHEMA_VERSION, Architecture, check_fields, check_name

MAX_ROUTES, MAX_STEPS, MAX_AXES = 64, 256, 16
FIELDS = ("space", "routes")
EXPECTED = '{"space": "multichannel", "routes": [[{"filters": 32}, {"filters": 64, "primitive": "ResizablePool"}, …]]}'


@dataclass(frozen=True)
class Path(Architecture):
    """One route through a HyperCuboid, or several.

    Args:
        space: name of the HyperCuboid.
        routes: tuples of choices: that of the stem, then one per position. A choice is a tuple of (axis, label) pairs.
        name: optional; a file name in itself.
    """

    space: str
    routes: tuple
    name: str | None = None

    kind = "path"
    words = "a path of a HyperCuboid"
    expected = EXPECTED

    @classmethod
    def from_dict(cls, fields: Any, where: str = "path", ops: str | None = None) -> Self:
        """A validated Path from a JSON object; whether its labels exist, the HyperCuboid says that it is built by.

        See `Architecture.from_dict`; a path names no primitive of an op table.
        """
        check_fields(fields, where, FIELDS, EXPECTED)
        listed = _list(fields["routes"], f"{where}: routes", 1, MAX_ROUTES, "routes")
        routes = tuple(_route(route, f"{where}: routes[{index}]") for index, route in enumerate(listed))
        if len({len(route) for route in routes}) > 1:
            seen, where = [len(route) for route in routes], f"{where}: routes"
            raise ConfigError("routes of different lengths", where=where, seen=seen, allowed="equal lengths")
        space, name = (check_name(fields.get(key), f"{where}: {key}") for key in ("space", "name"))
        if space is None:
            raise ConfigError("expected the name of a space", where=f"{where}: space", seen=None, allowed=EXPECTED)
        return cls(space, routes, name)

    def as_dict(self) -> dict[str, Any]:
        named = {"name": self.name} if self.name else {}
        routes = [[dict(choice) for choice in route] for route in self.routes]
        return {"schema_version": SCHEMA_VERSION, **named, "space": self.space, "routes": routes}

    def as_json(self) -> str:
        """One line per choice, so that a difference between two files can be read."""
        fields = kinds.of_kind(self.kind, self.as_dict())
        routes = [",\n".join(f"      {json.dumps(choice)}" for choice in route) for route in fields.pop("routes")]
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
        lines.append('  "routes": [\n' + ",\n".join(f"    [\n{route}\n    ]" for route in routes) + "\n  ]")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def facts(self) -> dict[str, Any]:
        choices = len([*filter(None, self.routes[0])])
        return {"name": self.name, "space": self.space, "routes": len(self.routes), "choices": choices}


def load(path: str | os.PathLike[str]) -> Path:
    """A Path from a JSON file of at most 1 MiB; raises ConfigError as `Path.from_dict` does."""
    return Path.from_dict(json_files.load(path), where=str(path))


def _route(value: Any, where: str) -> tuple[Any, ...]:
    steps = _list(value, where, 2, MAX_STEPS, "choices: that of the stem, and one per position")
    return tuple(_choice(choice, f"{where}[{index}]") for index, choice in enumerate(steps))


def _choice(value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, dict) or len(value) > MAX_AXES:
        rule = f"an object of at most {MAX_AXES} axes, such as " + '{"filters": 32}'
        raise ConfigError("expected a choice", where=where, seen=value, allowed=rule)
    for axis, label in value.items():
        if not is_label(label):
            place = f"{where}.{printable(axis, 80)}"
            raise ConfigError("expected a label", where=place, seen=label, allowed="a string or a number")
    return tuple(value.items())


def is_label(value: Any) -> bool:
    """Whether JSON has a word for a value: text, a finite number, true, false, null."""
    return isinstance(value, (str, int, type(None))) or isinstance(value, float) and math.isfinite(value)


def _list(value: Any, where: str, low: int, high: int, what: str) -> list[Any]:
    if not isinstance(value, list) or not low <= len(value) <= high:
        raise ConfigError(f"expected {what}", where=where, seen=value, allowed=f"a list of {low} to {high}")
    return value
