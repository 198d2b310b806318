"""The training step on TensorFlow: variables are updated in place."""

import tensorflow as tf

JIT_COMPILE = False  # on CPU, XLA is an order of magnitude slower at depthwise convolutions than TensorFlow itself


def gradient(function, argument):
    """(value, what comes along, gradient) of `function` at a list of tensors; nothing else is differentiated."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(argument)
        value, along = function(argument)
    return value, along, tape.gradient(value, argument, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def train_step(model, data):
    """Keras' hook on TensorFlow: data → logs."""
    return model.guarded_update(gradient, data)


class CompiledStep:
    """A callable (data) → logs that updates the model."""

    def __init__(self, model):
        # Making the paper's supernet ready takes 18 s less without the graph optimizer, and its steps are as fast.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        self._step = tf.function(lambda data: train_step(model, data), autograph=False, jit_compile=JIT_COMPILE)

    def __call__(self, data):
        return self._step(tf.nest.map_structure(tf.convert_to_tensor, data))

    def sync(self):
        """Nothing to do: the variables are up to date after each step."""
