"""Gradients and precision for tests, on either backend."""

import contextlib

import keras
import numpy as np

from sharpkeras.engine.step_model import backend_step


def gradient(function, argument):
    """(value, what comes along, gradient) of `function` at a list of arrays, as NumPy arrays."""
    argument = [keras.ops.convert_to_tensor(array) for array in argument]
    return to_numpy(compiled(lambda values: backend_step().gradient(function, values))(argument))


def compiled(function):
    """`function` in the form that is quickest to run once: op by op on TensorFlow, as one program on JAX."""
    if keras.backend.backend() == "tensorflow":
        return function
    import jax

    return jax.jit(function)


def to_numpy(structure):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, structure)


@contextlib.contextmanager
def float64():
    """Layers made here compute in float64."""
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        policy = keras.config.dtype_policy()
        stack.callback(keras.config.set_dtype_policy, policy)
        stack.callback(keras.config.set_floatx, keras.config.floatx())
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield


def global_norm(arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype="float64")) for array in arrays))


def cross_entropy(labels, logits):
    """The mean over the batch, in the precision of the logits."""
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
