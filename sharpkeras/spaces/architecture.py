"""What a search finds: the protocol of architectures, and the checks that the readers of their files share."""

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from sharpkeras.errors import ConfigError, printable
from sharpkeras.io import kinds

SCHEMA_VERSION = 1  # of the file of an architecture
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Place = Callable[[str], Path]  # name of a picture → its file in a run directory


class Architecture(Protocol):
    """An architecture as a frozen value that can be hashed, and as a JSON file, `KIND.json` in a run directory.

    A class of architectures derives from this one: it has to define what is abstract here, and can redefine the rest.
    `ARCHITECTURES` has a row for each.

    Attributes:
        kind: the key of its row in `ARCHITECTURES`.
        words: what `inspect` calls such a file, such as "a genotype".
        expected: an example of such a file, for messages.
        space: the name of the space that builds its network, a key of `SPACES`.
        name: optional; a file name in itself.
    """

    kind: ClassVar[str]
    words: ClassVar[str]
    expected: ClassVar[str]
    space: str
    name: str | None

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: Any, where: str = "architecture", ops: str | None = None) -> Self:
        """A validated architecture from a JSON object, which a stranger may have written.

        Args:
            fields: the object.
            where: the file's name, for messages.
            ops: op table that must hold every primitive; None accepts the names of any table.

        Raises:
            ConfigError: with the JSON path and the rule that was broken.
        """

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""

    def as_json(self) -> str:
        """The text of its file."""
        return json.dumps(kinds.of_kind(self.kind, self.as_dict()), indent=2) + "\n"

    def facts(self) -> dict[str, Any]:
        """What `inspect` says of it, heading → value."""
        return {"name": self.name}

    def findings(self) -> list[str]:
        """What makes it degenerate, sentences: it can be built, but part of it does nothing or learns nothing."""
        return []

    def draw(self, place: Place, title: str | None = None) -> None:
        """Writes pictures of it, as far as it has some of its own; see `sharpkeras.view`."""
        return None


def check_fields(fields: Any, where: str, names: Sequence[str], expected: str) -> None:
    """Raises ConfigError unless `fields`, from an architecture's file, has these names and a version that is known.

    Args:
        fields: what stands in the file; without `schema_version` it is read as version 1, a `name` may be there.
        where: the file's name.
        names: of all other fields.
        expected: what such a file looks like, for messages.
    """
    if not isinstance(fields, dict):
        raise ConfigError("expected a JSON object", where=where, seen=type(fields).__name__, allowed=expected)
    version = fields.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ConfigError("unknown version", where=f"{where}: schema_version", seen=version, allowed=SCHEMA_VERSION)
    missing = [name for name in names if name not in fields]
    unknown = sorted(set(fields) - {*names, "kind", "schema_version", "name"})
    if missing or unknown:
        problem = f"missing {', '.join(missing)}" if missing else f"unknown key {printable(repr(unknown[0]), 80)}"
        raise ConfigError(problem, where=where, allowed=expected)


def check_name(value: Any, where: str) -> str | None:
    """The name of an architecture, or None; raises ConfigError for what is no plain file name."""
    if value is None:
        return None
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise ConfigError("a name must be a plain file name", where=where, seen=value, allowed=NAME_PATTERN.pattern)
    return value


def first_of(found: Sequence[Any], limit: int = 5) -> str:
    """The first of many names, and how many more there are."""
    listed = ", ".join(map(str, found[:limit]))
    return f"{listed} and {len(found) - limit} more" if len(found) > limit else listed
