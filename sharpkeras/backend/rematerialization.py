"""Rematerialisation (gradient checkpointing): activations are computed again in the backward pass instead of kept."""

import math
from collections.abc import Callable, Iterable

import keras
from keras import ops


def recomputed(function: Callable, variables: Iterable[keras.Variable]) -> Callable:
    """`function` with rematerialisation: for the gradient only its arguments and results are kept, and it is run again.

    Both runs see the same variables, random states included, and what the function writes is written once.

    Args:
        function: (tensors, …) → a structure of tensors, the first one of floats. It reads and writes no other
            variables, and does the same whenever it is called: the second call comes with the gradient, when the layers
            around it are left.
        variables: of the layers in it.
    """
    written = [variable for variable in variables if not variable.trainable]

    def pure(*given):
        mapping = list(zip(variables, given))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = function(*given[len(variables) :])
        return outputs, [ops.stop_gradient(scope.get_current_value(variable)) for variable in written]

    def run(*arguments):
        present = [ops.convert_to_tensor(variable.value) for variable in variables]
        outputs, after = _CHECKPOINTS[keras.backend.backend()](pure)(*present, *arguments)
        for variable, value in zip(written, after):
            variable.assign(value)
        return outputs

    return run


def _checkpoint_tensorflow(function):
    """`tf.recompute_grad`, but in turn: each run begins when all that it reads is there; its gradients come together.

    Otherwise the executor, which takes whatever is ready, runs many calls again at once. What is no float, such as a
    random state, has no gradient.
    """
    import tensorflow as tf
    from tensorflow.python.eager import record  # tf.custom_gradient would keep each graph that it is used in for ever

    def checkpoint(*arguments):
        def backward(*gradients):
            results = tf.nest.flatten(outputs)
            gradients = [g for g, result in zip(gradients, results) if result.dtype.is_floating]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                again = [tf.identity(argument) for argument in arguments]
                floats = [argument for argument in again if argument.dtype.is_floating]
                tape.watch(floats)
                with tf.control_dependencies(gradients):
                    results = [result for result in tf.nest.flatten(function(*again)) if result.dtype.is_floating]
            zero = tf.UnconnectedGradients.ZERO
            of_floats = tape.gradient(results, floats, gradients, unconnected_gradients=zero)
            of_floats = iter(tf.tuple(of_floats))  # all of them or none
            return [next(of_floats) if argument.dtype.is_floating else None for argument in arguments]

        arguments = [tf.convert_to_tensor(argument) for argument in arguments]  # which a variable is not
        with record.stop_recording(), tf.control_dependencies(arguments):
            outputs = tf.nest.map_structure(tf.identity, function(*arguments))
        record.record_operation("SharpkerasCheckpoint", tf.nest.flatten(outputs), arguments, backward)
        return outputs

    return checkpoint


def _checkpoint_jax(function):
    """`jax.checkpoint`, but by data: XLA on CPU drops its barriers, then finds both runs equal and keeps the first one.

    Here the second run reads its arguments plus a zero that only the gradients of the results tell: it is another one.
    """
    import jax

    def backward(arguments, gradients):
        zero = jax.tree.leaves(gradients)[0].ravel()[0] > math.inf  # never, but XLA cannot know
        again = [argument + zero.astype(argument.dtype) for argument in arguments]
        return jax.vjp(function, *again)[1](gradients)

    checkpoint = jax.custom_vjp(function)
    checkpoint.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return checkpoint


_CHECKPOINTS = {"tensorflow": _checkpoint_tensorflow, "jax": _checkpoint_jax}
