"""The steps of PyTorch as `turns` measures them."""

from typing import Any

import numpy as np
import torch

from peers.ours import ARCH_LEARNING_RATE, DROP_PATH
from peers.torch_steps import Search, Training, device


class Peer:
    """What both have.

    Args:
        step: Search or Training.
        data: a batch as arrays, (images, labels).
        imported: when the modules were there, by `time.perf_counter`.
        threads: of PyTorch.
    """

    def __init__(self, step: Search | Training, data: tuple, imported: float, threads: int) -> None:
        torch.set_num_threads(threads)
        self.imported = imported
        self.steps, self.data = step, step.form.batch(*data)

    def state(self) -> Any:
        raise NotImplementedError("the state comes from ours")

    def gradients(self) -> dict[str, np.ndarray]:
        return self.steps.gradients()

    def finished(self, loss: torch.Tensor) -> float:
        if device() == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    def device_memory_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**30 if device() == "cuda" else None


class PeerSearch(Peer):
    """Bilevel search; one batch is both training and validation batch."""

    steps: Search

    def load(self, start: tuple) -> None:
        self.steps.load(*start)
        self.set_arch_learning_rate(0.0)  # as ours, until the gradients of the weights have been compared

    def step(self) -> float:
        return self.finished(self.steps.step(self.data, self.data))

    def begin_timing(self) -> None:
        self.set_arch_learning_rate(ARCH_LEARNING_RATE)

    def set_arch_learning_rate(self, value: float) -> None:
        for group in self.steps.arch_optimizer.param_groups:
            group["lr"] = value


class PeerTraining(Peer):
    """Final training."""

    steps: Training

    def load(self, start: tuple) -> None:
        self.steps.load_weights(*start)

    def step(self) -> float:
        return self.finished(self.steps.step(*self.data))

    def begin_timing(self) -> None:
        """Drop path is random, so that it is on only once the first steps have been compared."""
        self.steps.model.drop_path = DROP_PATH
