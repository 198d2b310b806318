"""Steps of search and final training in PyTorch, by its own optimizers, with the settings of the paper."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ARCH_SETTINGS: dict[str, Any] = {"lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}
L2, MOMENTUM, CLIP, AUXILIARY_WEIGHT = 3e-4, 0.9, 5.0, 0.4


@dataclass(frozen=True)
class Form:
    """How a network of PyTorch is run.

    Args:
        channels_last: the order of memory; False is the order of the official code.
        bfloat16: autocast.
        float64: weights and images in float64, to compare what is computed.
    """

    channels_last: bool = False
    bfloat16: bool = False
    float64: bool = False

    @property
    def order(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, model: nn.Module) -> nn.Module:
        return model.to(device(), self.dtype, memory_format=self.order)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.float64 else torch.float32

    def batch(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) and labels (B,) as tensors (B, 3, H, W) and (B,)."""
        placed = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=self.order)
        return placed.to(device(), self.dtype), torch.from_numpy(labels).long().to(device())

    def precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(device(), torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()


FORMS = {
    "torch": Form(),  # as the official code
    "torch_channels_last": Form(channels_last=True),
    "torch_autocast": Form(channels_last=True, bfloat16=True),
}


def form_of(name: str, precision: str) -> Form:
    """The form of a name, beside one of ours of a precision."""
    return replace(FORMS[name], float64=precision == "float64")


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Step:
    """What the steps share: SGD with momentum on the weights, clipped by the global norm.

    Args:
        model: a module.
        learning_rate: of the weights.
        form: Form.
    """

    def __init__(self, model: nn.Module, learning_rate: float, form: Form) -> None:
        torch.backends.cudnn.benchmark = True  # as in the official code
        self.model, self.form = form.place(model), form
        self.optimizer = torch.optim.SGD(self.model.parameters(), learning_rate, momentum=MOMENTUM, weight_decay=L2)

    def load_weights(self, state: Mapping[str, np.ndarray]) -> None:
        """Weights by their official names, without the counters of BatchNorm.

        Raises:
            ValueError: if the names are not those of the model.
        """
        own = {name for name in self.model.state_dict() if not name.endswith("num_batches_tracked")}
        if own != set(state):
            raise ValueError(f"the networks differ: {sorted(own ^ set(state))[:8]} are in one of them alone")
        arrays = {name: torch.from_numpy(array) for name, array in state.items()}
        self.model.load_state_dict(self.model.state_dict() | arrays)

    def update_weights(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()

    def gradients(self) -> dict[str, np.ndarray]:
        """What the first step found, clipped, the L2 term with it, by official names: the buffers of the momentum."""
        buffers = self.optimizer.state
        return {name: array(buffers[p]["momentum_buffer"]) for name, p in self.model.named_parameters()}


class Search(Step):
    """First-order bilevel search.

    Args:
        model: a module of (images, alphas) with `alphas_shape`.
        learning_rate: of the weights.
        form: Form.
    """

    def __init__(self, model: nn.Module, learning_rate: float, form: Form) -> None:
        super().__init__(model, learning_rate, form)
        self.alphas = nn.Parameter(1e-3 * torch.randn(model.alphas_shape, device=device(), dtype=form.dtype))
        self.arch_optimizer = torch.optim.Adam([self.alphas], **ARCH_SETTINGS)

    def load(self, state: Mapping[str, np.ndarray], alphas: np.ndarray) -> None:
        self.load_weights(state)
        self.alphas.data.copy_(torch.from_numpy(alphas))

    def step(self, training: tuple, validation: tuple) -> Tensor:
        """Alphas on the validation batch, then weights on the training batch, both (images, labels); the latter's loss.

        `loss.backward()` computes the gradients of all weights for the alphas too, and throws them away: so does the
        official code, and so does everyone who writes no more than that.
        """
        self.backward(validation)
        self.arch_optimizer.step()
        loss = self.backward(training)
        self.update_weights()
        return loss

    def backward(self, batch: tuple) -> Tensor:
        """The loss of a batch, whose gradients take the place of those before."""
        images, labels = batch
        self.arch_optimizer.zero_grad()
        self.optimizer.zero_grad()
        with self.form.precision():
            loss = nn.functional.cross_entropy(self.model(images, self.alphas), labels)
        loss.backward()
        return loss.detach()

    def gradients(self) -> dict[str, np.ndarray]:
        """With the first moment of the alphas."""
        return {**super().gradients(), "alphas": array(self.arch_optimizer.state[self.alphas]["exp_avg"])}


class Training(Step):
    """Final training of a module of images → (logits, logits of the auxiliary head)."""

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss before the update."""
        self.optimizer.zero_grad()
        with self.form.precision():
            logits, auxiliary = self.model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            loss = loss + AUXILIARY_WEIGHT * nn.functional.cross_entropy(auxiliary, labels)
        loss.backward()
        self.update_weights()
        return loss.detach()


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
