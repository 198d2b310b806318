"""Fused operations of the backends, each beside the equal form in `keras.ops`.

Only this module of the building blocks may import a framework, and only the one Keras runs on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def batch_normalization(inputs: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalise by the statistics of the batch, as PyTorch's BatchNorm2d does in training.

    Args:
        inputs: (B, H, W, C), any float type.
        scale, offset: (C,) in `at_least_float32`, in which the statistics are taken too.
        epsilon: added to the biased variance.

    Returns:
        The output (B, H, W, C), the mean (C,) and the unbiased variance (C,), which is what PyTorch averages.
    """
    fused = _BATCH_NORMALIZATION.get(keras.backend.backend(), batch_normalization_clear)
    normalize = fused if at_least_float32(inputs.dtype) == "float32" else batch_normalization_clear
    return normalize(inputs, scale, offset, epsilon)


def at_least_float32(dtype: Any) -> str:
    """The precision of statistics and logits: float32 for what is narrower, float64 for float64."""
    # Not `result_type`: on JAX it may know no float64, by what was set when Keras was imported.
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def batch_normalization_clear(inputs: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """The same from `keras.ops`; on TensorFlow it runs as some twenty kernels, forward and backward."""
    values = ops.cast(inputs, at_least_float32(inputs.dtype))
    mean, variance = ops.moments(values, axes=(0, 1, 2))  # (C,)
    outputs = (values - mean) * (ops.rsqrt(variance + epsilon) * scale) + offset
    return ops.cast(outputs, inputs.dtype), mean, variance * _bessel(inputs)


def _batch_normalization_tensorflow(inputs, scale, offset, epsilon):
    # One kernel forward and one backward. Its variance is already the unbiased one.
    import tensorflow as tf

    unused = tf.constant([], tf.float32)
    outputs, mean, variance, _, _, _ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=scale, offset=offset, mean=unused, variance=unused, epsilon=epsilon, is_training=True
    )
    return outputs, mean, variance


def recorded_functions() -> Any:
    """What lets equal parts of one network share their traced functions; None where that is of no use.

    JAX compiles a step as a whole, whatever is called in it.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    from sharpkeras.backend.recorded_function import RecordedFunctions

    return RecordedFunctions()


def _bessel(inputs):
    """n / (n - 1) for the n = B·H·W values behind a statistic of `inputs` (1 when there is a single value)."""
    count = ops.cast(ops.prod(ops.shape(inputs)[:3]), at_least_float32(inputs.dtype))
    return count / ops.maximum(count - 1.0, 1.0)


def depthwise_conv(
    inputs: Any, kernel: Any, strides: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1
) -> Any:
    """Depthwise convolution with dilation·(k - 1)/2 zeros on each side, as PyTorch pads.

    Args:
        inputs: (B, H, W, C).
        kernel: (k_h, k_w, C, 1), odd sides.
        strides, dilation: numbers or pairs; on TensorFlow 1.

    Returns:
        (B, ceil(H / s_h), ceil(W / s_w), C).
    """
    if keras.backend.backend() == "jax":
        from sharpkeras.backend import jax_ops

        return jax_ops.depthwise_conv(
            ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel), _pair(strides), _pair(dilation)
        )
    return _depthwise_conv_tensorflow(inputs, kernel)


def _depthwise_conv_tensorflow(inputs, kernel):
    # The op alone: what `tf.nn.depthwise_conv2d` builds around it makes a supernet's graph twice as large.
    import tensorflow as tf

    return tf.raw_ops.DepthwiseConv2dNative(input=inputs, filter=kernel, strides=[1, 1, 1, 1], padding="SAME")


def pointwise_conv(inputs: Any, kernel: Any) -> Any:
    """1×1 convolution at stride 1: (B, H, W, C) and (1, 1, C, F) → (B, H, W, F)."""
    if shifts_images(inputs):
        from sharpkeras.backend import jax_ops

        return jax_ops.pointwise_conv(ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel))
    height, width, channels = inputs.shape[1:]
    if None in (height, width) or not _is_differentiated_by_tensorflow(inputs):
        return ops.conv(inputs, kernel, padding="same", data_format="channels_last")
    # As a matrix product: TensorFlow is faster at it, and at its two gradients, than at a convolution.
    filters = kernel.shape[-1]
    outputs = ops.matmul(ops.reshape(inputs, (-1, channels)), ops.reshape(kernel, (channels, filters)))
    return ops.reshape(outputs, (-1, height, width, filters))


def subsample(images: Any, strides: Sequence[int]) -> Any:
    """images[:, ::s_h, ::s_w]: (B, H, W, C) → (B, ceil(H / s_h), ceil(W / s_w), C)."""
    if _is_differentiated_by_tensorflow(images):
        # As a pool of one pixel: TensorFlow's strided slice takes thirty times as long, its gradient fifteen times.
        return ops.average_pool(images, 1, strides=tuple(strides), padding="valid", data_format="channels_last")
    return images[:, :: strides[0], :: strides[1]]


def without_first(images: Any) -> Any:
    """images[:, 1:, 1:]: (B, H, W, C) → (B, H - 1, W - 1, C)."""
    if _is_differentiated_by_tensorflow(images):
        import tensorflow as tf

        return tf.slice(images, [0, 1, 1, 0], [-1] * 4)  # its gradient pads, which an index's does in a slow way
    return images[:, 1:, 1:]


def _is_differentiated_by_tensorflow(tensor):
    """Whether TensorFlow records a tensor for its gradient: forms for that alone leave exported graphs as they are."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow.python.eager import record

    return record.should_record_backprop([tensor])


def weigh(outputs: Any, weight: Any) -> Any:
    """weight · outputs. The product is as precise as the weight, and so is the weight's gradient, a sum over it."""
    return ops.cast(ops.cast(outputs, weight.dtype) * weight, outputs.dtype)


def add(*terms: Any) -> Any:
    """The sum of tensors of one shape."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def shifts_images(inputs: Any) -> bool:
    """Whether depthwise convolutions and pools of a tensor are sums of shifted images, at every stride and dilation.

    So it is on JAX; what is symbolic or of unknown size goes through `keras.ops`, whose operations are counted.
    """
    is_symbolic = isinstance(inputs, keras.KerasTensor)
    return loops() and not is_symbolic and all(isinstance(side, int) for side in inputs.shape)


def max_pool(inputs: Any, size: Sequence[int], strides: Sequence[int]) -> Any:
    """Max-pooling with (k - 1)/2 pixels of -inf on each side; for a backend that `shifts_images`."""
    from sharpkeras.backend import jax_ops

    return jax_ops.max_pool(ops.convert_to_tensor(inputs), _pair(size), _pair(strides))


def average_pool(inputs: Any, size: Sequence[int], strides: Sequence[int], counted_padding: bool) -> Any:
    """Average-pooling with (k - 1)/2 zeros on each side, which count or not; for a backend that `shifts_images`."""
    from sharpkeras.backend import jax_ops

    return jax_ops.average_pool(ops.convert_to_tensor(inputs), _pair(size), _pair(strides), counted_padding)


def loop_over_edges(
    body: Callable, edges: Sequence[tuple[int, int]], sources: Any, nodes: Any, rows: Any
) -> tuple[Any, Any]:
    """See `jax_ops.loop_over_edges`; for a backend that `loops`."""
    from sharpkeras.backend import jax_ops

    return jax_ops.loop_over_edges(body, tuple(edges), sources, nodes, rows)


def normalize_again(*arguments: Any) -> Any:
    """See `jax_ops.normalize_again`; for a backend that `loops`."""
    from sharpkeras.backend import jax_ops

    return jax_ops.normalize_again(*arguments)


def loops() -> bool:
    """Whether to compute equal parts of a network in a loop: on JAX, which compiles each that is written out.

    Not where several processes compute on CPUs: there the sums over processes of JAX 0.10 (by gloo) were mixed up.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.process_count() == 1 or jax.default_backend() != "cpu"


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _batch_normalization_jax(inputs, scale, offset, epsilon):
    if not shifts_images(inputs):
        return batch_normalization_clear(inputs, scale, offset, epsilon)
    from sharpkeras.backend import jax_ops

    return jax_ops.batch_normalization(*map(ops.convert_to_tensor, (inputs, scale, offset)), epsilon)


_BATCH_NORMALIZATION = {"tensorflow": _batch_normalization_tensorflow, "jax": _batch_normalization_jax}
