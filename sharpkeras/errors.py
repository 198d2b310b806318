"""What can go wrong, and the exit code the command line gives it.

A message has both halves: what is wrong and what would be right. `where` is a file with a JSON path, or a flag.
"""

import json
import re

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "bad_alloc", "bad allocation", "Failed to allocate memory")
LONGEST = 1000  # characters of a line of a message
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*(?!\w)")


class SharpKerasError(Exception):
    """An error with an exit code and the parts of a helpful message.

    Args:
        problem: what is wrong, one sentence without the final full stop.
        where: file and JSON path, directory, or flag.
        seen: the value found there.
        allowed: what would have been accepted.
        next_step: the command or action to try; a tuple of several where some are flags that not every command has.
    """

    exit_code = 1

    def __init__(self, problem, *, where=None, seen=None, allowed=None, next_step=None):
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.seen = seen
        self.allowed = allowed
        self._steps = next_step if isinstance(next_step, tuple) else (next_step,)
        self.next_step = next_step if len(self._steps) == 1 else ", or ".join(self._steps)

    def keep_to(self, flags):
        """Leaves out of several next steps those that need another flag than `flags`: nobody could type it there."""
        if len(self._steps) > 1:
            self.next_step = ", or ".join(step for step in self._steps if flags.issuperset(FLAG.findall(step)))

    def as_dict(self):
        """The same parts, for `--json`."""
        parts = {
            "error": self.problem,
            "exit_code": self.exit_code,
            "where": self.where,
            "seen": _as_json(self.seen),
            "allowed": self.allowed,
            "next": self.next_step,
        }
        return {key: value for key, value in parts.items() if value is not None}

    def __str__(self):
        lines = [f"{printable(str(self.where), LONGEST)}: {self.problem}" if self.where else self.problem]
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


def written_by_a_newer_version(where, version, newest):
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


def is_out_of_memory(error):
    """Whether a framework raised `error` for want of memory; each has its own class, or its own words alone."""
    return (
        isinstance(error, MemoryError)
        or says_out_of_memory(str(error))
        or (type(error).__name__ == "ResourceExhaustedError")
    )


def says_out_of_memory(text):
    """Whether words of a framework or of C++ mean want of memory."""
    return any(words in text for words in OUT_OF_MEMORY)


def in_lines(text):
    """A text of several lines, each of them `printable`."""
    return "\n".join(printable(line, LONGEST) for line in text.split("\n"))


def _as_json(value):
    """`value` where JSON has it and it is short, else as text."""
    try:
        return value if len(json.dumps(value, allow_nan=False)) <= LONGEST else printable(value)
    except (TypeError, ValueError, RecursionError):
        return printable(value)


def printable(value, limit=300):
    """`value` as one line without control characters, cut at `limit` characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        text = f"a {type(value).__name__} that is too long to be written out"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[:limit] + "…"
