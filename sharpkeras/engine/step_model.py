"""Training step, written once for all backends.

The order in which a step happens, by file and function:

1. `backend/tensorflow.py` or `backend/jax.py`: `CompiledStep.__call__` → `train_step`, compiled with the `gradient` of
   the backend.
2. `engine/step_model.py`: `StepModel.guarded_update`, which under float16 scales the losses; `prepared`, which augments
   a batch.
3. `searching/search_model.py`: `SearchModel.update`, the alphas first, then the weights, each by a gradient of
   `supernet_loss` and by `apply` of an optimizer (or `training/training_model.py`: `TrainingModel.update`).
4. `searching/bilevel.py`: `first_order` or `second_order`, the gradient of the alphas.

What these call are formulas that call nothing of theirs back: `optimizers.py`, `backend/precision.py`, `weighting.py`.
`engine/epochs.py`: `run_epochs` calls a step for each batch.

A model's `update` reads and assigns variables. On TensorFlow that is what happens; on JAX the same code runs with the
variables standing for entries of a state.
"""

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

from sharpkeras.backend.fused_ops import at_least_float32
from sharpkeras.backend.precision import LossScale
from sharpkeras.errors import ConfigError

BACKENDS = ("tensorflow", "jax")


class StepModel(keras.Model):
    """Base class of models with a custom training step.

    Subclasses set `optimizers`, a list of built optimizers, and define `update(gradient, data)` → logs, where
    `gradient(function, argument)` returns (value, aux, gradients) of a function: list of tensors → (value, aux).

    Where the network computes in float16 the losses are scaled, and a step with a gradient that is not finite changes
    nothing but the scale (see `precision.LossScale`, whose logs come with those of `update`).

    Args:
        network: the keras.Model that is trained, under the policy it was built with.
        augment: (images uint8, uniforms) → images as the network takes them, run on the device; None takes images as
            they are.
        normalize: images uint8 → images as the network takes them, for evaluation.

    Raises:
        ConfigError: when Keras keeps learning rates and statistics in less than float32.
    """

    def __init__(
        self, network: keras.Model, augment: Callable | None = None, normalize: Callable | None = None, **kwargs: Any
    ) -> None:
        if keras.config.floatx() not in ("float32", "float64"):
            raise ConfigError(
                "Keras would keep learning rates and metrics in half precision",
                where="floatx, of keras.json or keras.config.set_floatx",
                seen=keras.config.floatx(),
                allowed="float32, float64",
                next_step="keras.config.set_floatx('float32'), and for the network "
                "keras.config.set_dtype_policy('mixed_float16') or 'mixed_bfloat16'",
            )
        # What a step reads and keeps has the precision of the weights, also where the network computes in half of it.
        super().__init__(dtype=network.variable_dtype, **kwargs)
        self.loss_scale = LossScale(self) if network.compute_dtype == "float16" else None
        self._augment = augment or (lambda images, uniforms: images)
        self._normalize = normalize or (lambda images: images)
        self._step = backend_step()
        self.tell = lambda stage: None  # called with what begins while a step is made ready, in a word

    def prepared(self, batch: tuple) -> tuple:
        """(images, labels) of a batch (images, labels) or (images, labels, uniforms)."""
        images, labels, *uniforms = batch
        return self._augment(images, uniforms[0] if uniforms else None), labels

    def get_config(self) -> dict:
        """Raise NotImplementedError: what is trained is saved, and what trains it is made anew from a recipe."""
        name = type(self).__name__
        raise NotImplementedError(f"a {name} has no config; save its network or supernet, or its weights alone")

    @property
    def non_trainable_variables(self) -> list:
        # Keras' trainer knows of one optimizer alone; what the others hold is state of the step all the same.
        extra = [variable for optimizer in self.optimizers[1:] for variable in optimizer.variables]
        return super().non_trainable_variables + extra

    def step_variables(self) -> tuple:
        """All variables that a step reads and writes, in Keras' four groups: the contents of a checkpoint."""
        groups = (self.trainable_variables, self.non_trainable_variables, self.optimizers[0].variables)
        return (*groups, self.metrics_variables)

    def compile(self, **kwargs: Any) -> None:
        """Prepare the model for `fit`; the optimizers are those of the constructor."""
        settings = {"jit_compile": self._step.JIT_COMPILE, "auto_scale_loss": False}
        super().compile(optimizer=self.optimizers[0], **settings, **kwargs)

    def train_step(self, *arguments: Any) -> Any:
        """Keras' hook: (data) → logs on TensorFlow, (state, data) → (logs, state) on JAX."""
        return self._step.train_step(self, *arguments)

    def guarded_update(self, gradient: Callable, data: Any) -> dict[str, Any]:
        """`update`; under float16 its assignments take effect only if all gradients are finite."""
        if self.loss_scale is None:
            return self.update(gradient, data)
        variables = [variable for group in self.step_variables() for variable in group]
        before = [ops.copy(variable.value) for variable in variables]
        each_finite: list[Any] = []
        logs = self.update(self.loss_scale.scaled(gradient, each_finite), data)
        finite = ops.all(ops.stack(each_finite))
        for variable, old in zip(variables, before):
            variable.assign(ops.where(finite, variable.value, old))
        return logs | self.loss_scale.adapt(finite)

    def compiled_step(self) -> Any:
        """A callable (data) → logs that updates the model, for a loop of one's own; call its `sync` before reading."""
        return self._step.CompiledStep(self)

    def logits(self, batches: Iterable) -> np.ndarray:
        """Logits of all examples in inference mode, (N, classes) float32.

        Args:
            batches: (images, labels, how many of them count) as `data.batches.evaluation_batches` yields them.
        """
        self.jit_compile = self._step.JIT_COMPILE
        return np.concatenate([np.asarray(self.predict_on_batch(images))[:valid] for images, _, valid in batches])


def backend_step() -> ModuleType:
    """The module of the present backend; raises ConfigError for one that is not supported."""
    name = keras.backend.backend()
    if name not in BACKENDS:
        raise ConfigError("unsupported Keras backend", where="KERAS_BACKEND", seen=name, allowed=", ".join(BACKENDS))
    return importlib.import_module(f"sharpkeras.backend.{name}")


def values(variables: Iterable[keras.Variable]) -> list:
    """The present values of variables as a list of tensors."""
    return [ops.convert_to_tensor(variable.value) for variable in variables]


def global_norm(tensors: Iterable[Any]) -> Any:
    """Global Euclidean norm of a list of tensors, a scalar; not finite if one of their numbers is not."""
    return ops.sqrt(sum(ops.sum(ops.square(_at_least_float32(tensor))) for tensor in tensors))


def root_mean_square(images: Any) -> Any:
    """Root mean square of a batch of images, a scalar: the metric `image_rms`, about 1 if normalised."""
    return ops.sqrt(ops.mean(ops.square(_at_least_float32(images))))


def cross_entropy(labels: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
    """Mean softmax cross-entropy, in float32 at least; labels (B,), logits (B, classes)."""
    logits = _at_least_float32(logits)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if label_smoothing:
        # (1 - ε)·CE(label) + ε·the mean over all classes
        uniform = -ops.mean(ops.log_softmax(logits, axis=-1), axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
    return ops.mean(losses)


def accuracy(labels: Any, logits: Any) -> Any:
    """Accuracy, a scalar; labels (B,), logits (B, classes)."""
    right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return ops.mean(ops.cast(right, "float32"))


def _at_least_float32(tensor: Any) -> Any:
    """`tensor` in the precision of losses and norms."""
    return ops.cast(tensor, at_least_float32(tensor.dtype))
