"""Report of an inspection, and limits that all inspections share."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharpkeras.errors import RunError, SafetyError

LARGEST_RATIO = 100  # of what a file unfolds to and its own size; weights hardly shrink
HARMLESS = 16 * 2**20  # bytes that a file of any size may unfold to
LARGEST_MEMBERS = 100_000
ANOTHER_COPY = "take another copy, or make it anew with the command that wrote it"
NAMED = 5  # in a finding about many


@dataclass
class Report:
    """Kind, facts and findings of a file or directory.

    Args:
        path: as it was asked for.
        kind: what it is, in words.
        facts: name → text, number, list, or an object of such.
        findings: what is not as it should be, a line each; none where all is sound.
        plan: what a repair does, a line each.
        repaired: what a repair has done, the same lines.
        next: the arguments of the command to go on with, or a line of text.
    """

    path: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    next: list[str] | str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields, and whether there is no finding (`sound`), for `--json`."""
        return {**vars(self), "sound": not self.findings}


def array_words(dtype: str, shape: Sequence[int]) -> str:
    """Dtype and shape of an array as text: "float32 3×3×16", and "float32" for a single number."""
    return f"{dtype} {'×'.join(map(str, shape))}".strip()


def array_facts(arrays: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, Any]:
    """The facts on arrays, given as name → (dtype, shape)."""
    numbers = sum(math.prod(shape) for _, shape in arrays.values())
    listed = {name: array_words(*array) for name, array in arrays.items()}
    return {"count": len(arrays), "numbers": numbers, "arrays": listed}


def finite_findings(bad: Sequence[str], count: int) -> list[str]:
    """The finding on arrays that are not finite, named in `bad`, of `count`."""
    return [f"not finite in {len(bad)} of {count} arrays: {names(bad)}"] if bad else []


def names(found: Sequence[Any]) -> str:
    """The first of many names."""
    listed = ", ".join(map(str, found[:NAMED]))
    return f"{listed} and {len(found) - NAMED} more" if len(found) > NAMED else listed


def refuse_bomb(path: str | os.PathLike[str], member: str, declared: int, size: int) -> None:
    """Raise SafetyError for `declared` bytes, of a member or of all of them, in a file of `size` bytes."""
    if declared > max(HARMLESS, LARGEST_RATIO * size):
        raise SafetyError(
            f"{member} would fill the memory",
            where=str(path),
            seen=f"{declared:,} bytes declared in a file of {size:,} ({declared / max(size, 1):,.0f} times as many)",
            allowed=f"at most {LARGEST_RATIO} times as many, or {HARMLESS // 2**20} MiB",
        )


def damaged(path: str | os.PathLike[str], error: BaseException) -> RunError:
    """The RunError on a file of arrays that cannot be read."""
    seen = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return RunError("is damaged", where=str(path), seen=seen, next_step=ANOTHER_COPY)
