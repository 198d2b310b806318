"""Weighted outputs, as every supernet adds them up."""

from typing import Any

from keras import ops


def weigh(outputs: Any, weight: Any) -> Any:
    """weight · outputs. The product is as precise as the weight, and so is the weight's gradient, a sum over it."""
    return ops.cast(ops.cast(outputs, weight.dtype) * weight, outputs.dtype)
