"""A state of a supernet with what its readers have in common, each part computed once."""

from collections.abc import Callable, Hashable
from typing import Any


class CachedState:
    """A tensor (B, H, W, C) that many layers read, and what they share of it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._shared: dict[Hashable, Any] = {}

    def shared(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, which is called for a key when it is first asked for."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]
