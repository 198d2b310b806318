"""What a step of eager PyTorch asks of its device: operations, bytes that they read and write, multiply-adds."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

VIEWS = ("view", "t.", "transpose", "permute", "slice", "select", "expand", "unsqueeze", "squeeze", "detach", "alias")


class Counter(TorchDispatchMode):
    """Counts the operations that compute, views left out, and the bytes of the tensors that go in and out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        if not name.startswith(VIEWS):
            self.operations += 1
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, outputs))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, torch.Tensor))
        return outputs


def counts_of(step: Callable[[], Any]) -> dict[str, int]:
    """Of one call of `step`."""
    with Counter() as counter:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    return {"flops": flops.get_total_flops(), "bytes_accessed": counter.bytes, "kernels": counter.operations}
