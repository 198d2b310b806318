"""Mixed precision: loss scaling for float16, and float32 for computations that half precision is too coarse for.

A policy that is set by `keras.config.set_dtype_policy` while a network is built makes its convolutions run in half
precision. Weights, optimizers, alphas, mixing weights, BatchNorm statistics, logits and losses stay float32.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops
from keras.initializers import Constant

INITIAL_SCALE = 2.0**15
SMALLEST_SCALE = 1.0
GROWTH_STEPS = 2000  # good steps in a row after which the scale doubles


class LossScale:
    """Dynamic loss scaling for float16, whose smallest positive number is 6e-8.

    A loss is multiplied by the scale before it is differentiated and its gradients divided by it afterwards, so that
    all algebra behind it, of any number of optimizers, sees true float32 gradients. The scale is a power of 2: neither
    rounds. It halves, down to 1, at each step that is skipped for a gradient that is not finite, and doubles after
    GROWTH_STEPS steps without such.

    Args:
        model: the keras.Model whose non-trainable variables hold the state.
    """

    def __init__(self, model: keras.Model) -> None:
        def scalar(value, dtype, name):
            return model.add_weight((), initializer=Constant(value), dtype=dtype, trainable=False, name=name)

        self.scale = scalar(INITIAL_SCALE, "float32", "loss_scale")
        self.good_steps = scalar(0, "int32", "good_steps")
        self.skipped_in_a_row = scalar(0, "int32", "skipped_in_a_row")

    def scaled(self, gradient: Callable, finite: list) -> Callable:
        """`gradient` of the scaled loss, with the gradients scaled back.

        Args:
            gradient: (function, argument) → (value, aux, gradients); see `StepModel`.
            finite: a list; each call appends whether its value and all of its gradients are finite.
        """
        scale = ops.convert_to_tensor(self.scale)

        def scaled_gradient(function, argument):
            def scaled_function(values):
                value, aux = function(values)
                return value * scale, (value, aux)

            _, (value, aux), gradients = gradient(scaled_function, argument)
            gradients = [part / scale for part in gradients]
            finite.append(ops.all(ops.stack([ops.all(ops.isfinite(part)) for part in (value, *gradients)])))
            return value, aux, gradients

        return scaled_gradient

    def adapt(self, finite: list) -> dict[str, Any]:
        """Update the scale, by whether the gradients of this step were `finite`.

        Returns:
            The logs: this step's `loss_scale`, whether it was `skipped` (0 or 1), and `skipped_in_a_row` with it.
        """
        scale = ops.copy(self.scale.value)  # on TensorFlow, all but a copy would be the variable itself
        good_steps = ops.where(finite, self.good_steps + 1, 0)
        skipped_in_a_row = ops.where(finite, 0, self.skipped_in_a_row + 1)
        grows = good_steps >= GROWTH_STEPS
        smaller = ops.maximum(scale / 2.0, SMALLEST_SCALE)
        self.scale.assign(ops.where(finite, ops.where(grows, scale * 2.0, scale), smaller))
        self.good_steps.assign(ops.where(grows, 0, good_steps))
        self.skipped_in_a_row.assign(skipped_in_a_row)
        skipped = 1.0 - ops.cast(finite, "float32")
        return {"loss_scale": scale, "skipped": skipped, "skipped_in_a_row": skipped_in_a_row}


@contextlib.contextmanager
def full_precision(model: keras.Model) -> Iterator[None]:
    """Context in which what is traced of `model` computes in the precision of its variables, whatever its policy.

    Nothing changes where that is the policy anyway.
    """
    layers = [layer for layer in model._flatten_layers() if layer.compute_dtype != layer.variable_dtype]
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = layer.variable_dtype
        yield
    finally:
        for layer, policy in zip(layers, policies):
            layer.dtype_policy = policy
