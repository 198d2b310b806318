"""Gradients that a recording has of its own equal TensorFlow's."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("recordings are for TensorFlow", allow_module_level=True)
import tensorflow as tf

from sharpkeras.backend import recorded_function


@pytest.mark.parametrize("size", ((3, 3), (5, 5), (7, 7), (9, 9), (1, 7), (7, 1), (3, 5)), ids=str)
def test_kernel_gradients_in_strips_are_those_of_the_whole_kernel(size):
    kernel_shape = (*size, 4, 1)
    inputs, gradient = tf.random.normal((2, 2, 10, 11, 4))
    expected = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=inputs, filter_sizes=kernel_shape, out_backprop=gradient, strides=[1, 1, 1, 1], padding="SAME"
    )
    ours = recorded_function._depthwise_kernel_gradient(inputs, gradient, kernel_shape)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
