"""Kinds of the JSON files that sharpkeras writes, each in a file's `"kind"`; files of before have none and are read.

An architecture's file has the `kind` of its class. A checkpoint's files have none: their folder says what they are.
"""

from typing import Any

RECIPE = "recipe"
DATA = "data"
EPOCH = "epoch"
DIVERGENCE = "divergence"
EVALUATION = "evaluation"
EXPORT = "export"
LATENCY_TABLE = "latency_table"
SWEEP = "sweep"
SWEEP_REPORT = "sweep_report"


def of_kind(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its kind in front."""
    return {"kind": kind, **content}


def without_kind(content: Any) -> Any:
    """A JSON object without its kind, as it is compared and used; anything else as it is."""
    return {name: value for name, value in content.items() if name != "kind"} if isinstance(content, dict) else content
