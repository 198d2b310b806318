"""What can go wrong, and the exit code the command line gives it.

A message has both halves: what is wrong and what would be right. `where` is a file with a JSON path, or a setting.

A message names a setting, and a value for it, in backticks: `batch_size`, `selection=last`. The command line writes its
flags instead (`SharpKerasError.render`).
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "bad_alloc", "bad allocation", "Failed to allocate memory")
LONGEST = 1000  # characters of a line of a message
SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")  # its name and its value


class SharpKerasError(Exception):
    """An error with an exit code and the parts of a helpful message.

    Args:
        problem: what is wrong, one sentence without the final full stop.
        where: file and JSON path, directory, or setting.
        seen: the value found there.
        allowed: what would have been accepted.
        next_step: the command or action to try; a tuple of several where some are settings that not every command has.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: Any = None,
        seen: Any = None,
        allowed: Any = None,
        next_step: str | tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.seen = seen
        self.allowed = allowed
        self._steps = next_step if isinstance(next_step, tuple) else (next_step,)
        self.next_step = next_step if len(self._steps) == 1 else ", or ".join(self._steps)

    def keep_to(self, settings: Iterable[str]) -> None:
        """Leaves out of several next steps those with another setting than these: nobody could change it there."""
        if len(self._steps) > 1:
            known = set(settings)
            self.next_step = ", or ".join(step for step in self._steps if known.issuperset(settings_in(step)))

    def render(self, text_of: Callable[[str], str]) -> None:
        """Writes all parts of the message anew, such as with flags in place of settings."""
        for part in ("problem", "where", "seen", "allowed", "next_step"):
            value = getattr(self, part)
            if isinstance(value, str):
                setattr(self, part, text_of(value))

    def as_dict(self) -> dict[str, Any]:
        """The same parts, for `--json`."""
        parts = {
            "error": self.problem,
            "exit_code": self.exit_code,
            "where": self.where and bare(str(self.where)),
            "seen": _as_json(self.seen),
            "allowed": self.allowed,
            "next": self.next_step,
        }
        return {key: value for key, value in parts.items() if value is not None}

    def __str__(self) -> str:
        where = printable(bare(str(self.where)), LONGEST) if self.where else None
        lines = [f"{where}: {self.problem}" if where else self.problem]
        if self.seen is not None:
            lines.append(f"  seen:    {printable(self.seen)}")
        if self.allowed is not None:
            lines.append(f"  allowed: {printable(self.allowed)}")
        if self.next_step is not None:
            lines.append(f"  next:    {self.next_step}")
        return in_lines("\n".join(lines))


class UsageError(SharpKerasError):
    """A wrong flag or argument."""

    exit_code = 2


class ConfigError(SharpKerasError):
    """A wrong configuration, genotype or recipe."""

    exit_code = 3


class DataError(SharpKerasError):
    """Missing, broken or unfitting data."""

    exit_code = 4


class RunError(SharpKerasError):
    """A wrong checkpoint, run directory or output path."""

    exit_code = 5


def settings_in(text: str) -> set[str]:
    """The names of the settings in a text."""
    return {name for name, _ in SETTING.findall(text)}


def bare(text: str) -> str:
    """A text without the backticks around its settings.

    >>> bare("`strategy`, `routes`")
    'strategy, routes'
    >>> bare("`init=runs/train`")
    'init runs/train'
    """
    return SETTING.sub(lambda found: " ".join(filter(None, found.groups())), text)


def written_by_a_newer_version(where: Any, version: Any, newest: int) -> RunError:
    """The RunError for a file of a schema version above the `newest` that is known."""
    return RunError(
        "was written by a newer version of sharpkeras",
        where=where,
        seen=f"schema_version {version}",
        allowed=f"at most {newest}",
        next_step=f"install a version of sharpkeras that reads schema_version {version}",
    )


class NumericalError(SharpKerasError):
    """NaN or infinity where a number was needed."""

    exit_code = 6


class ResourceError(SharpKerasError):
    """Memory, disk or device."""

    exit_code = 7


class VerificationError(SharpKerasError):
    """A gate that guards a result did not pass."""

    exit_code = 8


class SafetyError(SharpKerasError):
    """Refused, since opening it could run code or read other files."""

    exit_code = 9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a framework raised `error` for want of memory; each has its own class, or its own words alone."""
    return (
        isinstance(error, MemoryError)
        or says_out_of_memory(str(error))
        or (type(error).__name__ == "ResourceExhaustedError")
    )


def says_out_of_memory(text: str) -> bool:
    """Whether words of a framework or of C++ mean want of memory."""
    return any(words in text for words in OUT_OF_MEMORY)


def in_lines(text: str) -> str:
    """A text of several lines, each of them `printable`."""
    return "\n".join(printable(line, LONGEST) for line in text.split("\n"))


def _as_json(value: Any) -> Any:
    """`value` where JSON has it and it is short, else as text."""
    try:
        return value if len(json.dumps(value, allow_nan=False)) <= LONGEST else printable(value)
    except (TypeError, ValueError, RecursionError):
        return printable(value)


def printable(value: Any, limit: int = 300) -> str:
    """`value` as one line without control characters, cut at `limit` characters.

    >>> printable("two\\nlines"), printable("a long word", limit=6)
    ('two\\\\nlines', 'a long…')
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        text = f"a {type(value).__name__} that is too long to be written out"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[:limit] + "…"
