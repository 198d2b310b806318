"""SGD and Adam as PyTorch computes them, which is how the paper's searches and trainings were run.

Keras' own differ where it shows: SGD folds the learning rate into its velocity, so that the two part as soon as the
rate changes; weight decay is decoupled from the gradient; Adam's epsilon stands elsewhere. Both classes clip by the
global norm of the raw gradient first (`global_clipnorm`) and add the L2 term afterwards.
"""

from typing import Any

import keras
import numpy as np
from keras import ops


class _Optimizer(keras.optimizers.Optimizer):
    """What both have: on one replica, gradients that are summed over replicas are the gradients."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # TensorFlow's sum over one replica is a custom gradient, which keeps the whole traced step in memory for ever:
        # 60 to 90 MB for each small search or training in a process.
        if self._distribution_strategy.num_replicas_in_sync > 1:
            return super()._all_reduce_sum_gradients(grads_and_vars)
        return grads_and_vars


@keras.saving.register_keras_serializable("sharpkeras")
class SGD(_Optimizer):
    """buffer ← momentum · buffer + gradient + l2 · w;  w ← w - learning_rate · buffer.

    Keras' further arguments work too. With `gradient_accumulation_steps` a step is made once in so many calls, of the
    mean of their gradients, clipped after the mean is taken; a schedule and the moving average of the weights
    (`use_ema`, `ema_momentum`) count steps, not calls. The average never takes the place of the weights.

    Args:
        learning_rate: a number or a schedule.
        momentum: 0 for none.
        l2: PyTorch's `weight_decay`; acts on every variable, BatchNorm and bias included.
        global_clipnorm: largest global norm of the gradient, or None.
    """

    def __init__(
        self,
        learning_rate: Any = 0.025,
        momentum: float = 0.9,
        l2: float = 3e-4,
        global_clipnorm: float | None = 5.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, global_clipnorm=global_clipnorm, name=name, **kwargs)
        self.momentum, self.l2 = momentum, l2

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.buffers = [self.add_variable_from_reference(v, name="momentum") for v in variables]

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        buffer = self.buffers[self._get_variable_index(variable)]
        new_buffer = self.momentum * buffer + ops.cast(gradient, buffer.dtype) + self.l2 * variable
        self.assign(buffer, new_buffer)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * new_buffer)

    @property
    def averages(self) -> list:
        """The moving average of each weight: w after the first step, then ema_momentum·average + (1 - ema_momentum)·w.

        Empty without `use_ema`.
        """
        return self._model_variables_moving_average if self.use_ema else []

    def _get_current_learning_rate(self):
        # Keras asks its schedules by calls, under gradient accumulation too.
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _update_model_variables_moving_average(self, trainable_variables):
        # Keras averages after each call, under gradient accumulation too.
        calls = self.gradient_accumulation_steps or 1
        is_step = ops.equal((self._iterations + 1) % calls, 0)
        one, rest, nothing = np.float32([1.0, 1.0 - self.ema_momentum, 0.0])  # plain floats would be of type floatx
        share = ops.where(ops.equal(self.iterations, 0), one, rest)  # of the weights of this step
        share = ops.where(is_step, share, nothing)
        for variable, average in zip(trainable_variables, self.averages):
            average.assign(average + ops.cast(share, average.dtype) * (variable - average))

    def finalize_variable_values(self, var_list: list) -> None:
        """Keras' hook at the end of `fit`, which would put the averages in the place of the weights: nothing."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "l2": self.l2}


@keras.saving.register_keras_serializable("sharpkeras")
class Adam(_Optimizer):
    """Adam with L2 in the gradient and epsilon beside the bias-corrected root, for the alphas.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2: decay of the moments; 0.5 and 0.999 in the search.
        epsilon: 1e-8, added after the bias correction of the root.
        l2: PyTorch's `weight_decay`.
    """

    def __init__(
        self,
        learning_rate: Any = 3e-4,
        beta_1: float = 0.5,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        l2: float = 1e-3,
        name: str = "adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon, self.l2 = beta_1, beta_2, epsilon, l2

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.means = [self.add_variable_from_reference(v, name="mean") for v in variables]
        self.squares = [self.add_variable_from_reference(v, name="square") for v in variables]

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        mean, square, step = self.means[index], self.squares[index], ops.cast(self.iterations + 1, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        new_mean = self.beta_1 * mean + (1 - self.beta_1) * gradient
        new_square = self.beta_2 * square + (1 - self.beta_2) * ops.square(gradient)
        root = ops.sqrt(new_square / (1 - ops.power(self.beta_2, step))) + self.epsilon
        self.assign(mean, new_mean)
        self.assign(square, new_square)
        scaled = new_mean / (1 - ops.power(self.beta_1, step))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * scaled / root)

    def get_config(self) -> dict[str, Any]:
        moments = {"beta_1": self.beta_1, "beta_2": self.beta_2}
        return {**super().get_config(), **moments, "epsilon": self.epsilon, "l2": self.l2}
