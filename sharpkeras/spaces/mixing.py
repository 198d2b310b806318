"""Parts that supernets share: weighted outputs, and states with cached computations."""

from collections.abc import Callable, Hashable
from typing import Any

from keras import ops


def weigh(outputs: Any, weight: Any) -> Any:
    """weight · outputs. The product is as precise as the weight, and so is the weight's gradient, a sum over it."""
    return ops.cast(ops.cast(outputs, weight.dtype) * weight, outputs.dtype)


class CachedState:
    """A state of a supernet; what several of its readers compute from it is computed once, when it is first asked for.

    Args:
        tensor: (B, H, W, C).
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._shared: dict[Hashable, Any] = {}

    def shared(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result of `compute`, which is called once for each key."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]
