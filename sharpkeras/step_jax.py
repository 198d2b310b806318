"""The training step on JAX: a pure function from state to state."""

import jax
import keras

JIT_COMPILE = True


def gradient(function, argument):
    """(value, what comes along, gradient) of `function` at a list of arrays."""
    (value, along), slope = jax.value_and_grad(function, has_aux=True)(argument)
    return value, along, slope


def train_step(model, state, data):
    """Keras' hook on JAX: (state, data) → (logs, state)."""
    groups = model.step_variables()
    mapping = [pair for variables, values in zip(groups, state) for pair in zip(variables, values)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        logs = model.guarded_update(gradient, data)
    return logs, tuple([scope.get_current_value(variable) for variable in variables] for variables in groups)


class CompiledStep:
    """A callable (data) → logs that updates a state on the device; `sync` writes it into the model's variables."""

    def __init__(self, model):
        self._groups, self._state = model.step_variables(), None
        self._step = jax.jit(lambda state, data: train_step(model, state, data), donate_argnums=0)

    def __call__(self, data):
        if self._state is None:
            self._state = tuple([jax.numpy.copy(v.value) for v in variables] for variables in self._groups)
        logs, self._state = self._step(self._state, data)
        return logs

    def sync(self):
        """Writes the state into the model's variables."""
        if self._state is not None:
            for variables, values in zip(self._groups, self._state):
                for variable, value in zip(variables, values):
                    variable.assign(value)
            self._state = None
