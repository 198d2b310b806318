"""Building blocks of cells (§3.1, Fig. 1 and 3, Table 1) as Keras layers: NHWC, with PyTorch's padding and BatchNorm.

Every composite is a `Sequence` of plain Keras layers in the order of the PyTorch `nn.Sequential` that defines it, so
that Fig. 3 can be read off `SharpSepConv`, cost can be counted layer by layer, and an official state dict finds its
place by position.
"""

import math

import keras
from keras import ops

from sharpkeras import kernels

EPSILON = 1e-5  # PyTorch's BatchNorm2d
POOL_EPSILON = 1e-3  # ResizablePool's BatchNorm
MOMENTUM = 0.9  # PyTorch's momentum of 0.1


def convolve(operation, inputs, kernel, strides, dilation_rate):
    """A convolution of odd kernel with the padding of PyTorch: dilation·(k - 1)/2 on both sides, at every stride.

    Args:
        operation: `ops.conv` or `ops.depthwise_conv`.
        inputs: (B, H, W, C).
        kernel: (k_h, k_w, C, ...).
        strides, dilation_rate: pairs.

    Returns:
        (B, ceil(H / s_h), ceil(W / s_w), ...).

    Raises:
        ValueError: at a dilation that is neither 1 nor the stride where the stride is not 1.
    """
    if max(strides) == 1:
        return operation(inputs, kernel, strides=1, padding="same", dilation_rate=dilation_rate)
    if max(kernel.shape[:2]) == 1:
        # TensorFlow 2.21 with oneDNN crashes in the kernel gradient of some strided 1×1 convolutions (16 → 4 channels).
        return operation(inputs[:, :: strides[0], :: strides[1]], kernel, strides=1, padding="valid")
    if max(dilation_rate) == 1:
        return operation(pad(inputs, kernel.shape[:2]), kernel, strides=strides, padding="valid")
    if tuple(dilation_rate) != tuple(strides):
        raise ValueError(f"expected a dilation rate of 1 or equal to the strides {strides}, received {dilation_rate}")
    # Output i reads x[s·(i + t - (k-1)/2)]: every s-th pixel alone, so an ordinary convolution over those pixels.
    # TensorFlow's own kernel is wrong here, and Keras computes all positions and drops three quarters of them.
    return operation(inputs[:, :: strides[0], :: strides[1]], kernel, strides=1, padding="same")


def pad(inputs, kernel_size, value=0.0):
    """(B, H, W, C) padded with `value` by (k - 1) // 2 on each side."""
    height, width = ((k - 1) // 2 for k in kernel_size)
    return ops.pad(inputs, ((0, 0), (height, height), (width, width), (0, 0)), constant_values=value)


def strided_shape(input_shape, strides, filters):
    """(B, ceil(H / s_h), ceil(W / s_w), filters)."""
    batch, height, width, _ = input_shape
    return (batch, math.ceil(height / strides[0]), math.ceil(width / strides[1]), filters)


def fan_in_uniform(fan_in):
    """PyTorch's default for convolutions and dense layers: uniform within ±1/√fan_in."""
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


@keras.saving.register_keras_serializable("sharpkeras")
class Conv2D(keras.layers.Conv2D):
    """`nn.Conv2d(bias=False)` with symmetric padding."""

    def __init__(self, filters, kernel_size=1, strides=1, **kwargs):
        # VarianceScaling(1/3) is ±1/√fan_in, PyTorch's default.
        initializer = keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
        super().__init__(
            filters, kernel_size, strides, **{"use_bias": False, "kernel_initializer": initializer, **kwargs}
        )

    def kernel_shape(self, channels):
        return (*self.kernel_size, channels, self.filters)

    def convolve(self, inputs, kernel):
        return convolve(ops.conv, inputs, kernel, self.strides, self.dilation_rate)

    def call(self, inputs):
        return self.convolve(inputs, self.kernel)

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, self.filters)


@keras.saving.register_keras_serializable("sharpkeras")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`nn.Conv2d(C, C, groups=C, bias=False)` with symmetric padding."""

    def __init__(self, kernel_size, strides=1, dilation_rate=1, **kwargs):
        size = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
        defaults = {"use_bias": False, "depthwise_initializer": fan_in_uniform(size * size)}
        # The base class refuses strides and dilation together; `convolve` can do both.
        super().__init__(kernel_size, strides=strides, **{**defaults, **kwargs})
        self.dilation_rate = (dilation_rate,) * 2 if isinstance(dilation_rate, int) else tuple(dilation_rate)

    def kernel_shape(self, channels):
        return (*self.kernel_size, channels, 1)

    def convolve(self, inputs, kernel):
        return convolve(ops.depthwise_conv, inputs, kernel, self.strides, self.dilation_rate)

    def call(self, inputs):
        return self.convolve(inputs, self.kernel)

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, input_shape[-1])


@keras.saving.register_keras_serializable("sharpkeras")
class BatchNormalization(keras.layers.BatchNormalization):
    """`nn.BatchNorm2d`: epsilon 1e-5, momentum 0.1 (0.9 in Keras' terms), moving variance unbiased.

    Computes in float32 under any precision below it. A call takes a `weight`, a scalar by which the output is
    multiplied: in training it costs nothing, as a part of scale and offset.
    """

    def __init__(self, epsilon=EPSILON, momentum=MOMENTUM, **kwargs):
        super().__init__(epsilon=epsilon, momentum=momentum, **kwargs)

    def call(self, inputs, training=None, weight=None):
        if not (training and self.trainable):
            outputs = super().call(inputs, training=False)
            return outputs if weight is None else outputs * ops.cast(weight, outputs.dtype)
        channels, dtype = inputs.shape[-1], kernels.at_least_float32(inputs.dtype)
        scale = ops.cast(self.gamma, dtype) if self.scale else ops.ones(channels, dtype)
        offset = ops.cast(self.beta, dtype) if self.center else ops.zeros(channels, dtype)
        if weight is not None:
            scale, offset = (part * ops.cast(weight, dtype) for part in (scale, offset))
        outputs, mean, variance = kernels.batch_normalization(inputs, scale, offset, self.epsilon)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("sharpkeras")
class MaxPool(keras.layers.MaxPooling2D):
    """`nn.MaxPool2d(padding=(k - 1) // 2)`: pads with -inf, since the cells pool before they rectify."""

    def __init__(self, pool_size=3, strides=1, **kwargs):
        super().__init__(pool_size, strides, **kwargs)

    def call(self, inputs):
        if max(self.strides) == 1:
            return ops.max_pool(inputs, self.pool_size, strides=1, padding="same")
        return ops.max_pool(pad(inputs, self.pool_size, -math.inf), self.pool_size, self.strides, padding="valid")

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, input_shape[-1])


@keras.saving.register_keras_serializable("sharpkeras")
class AveragePool(keras.layers.AveragePooling2D):
    """`nn.AvgPool2d(padding=(k - 1) // 2)`.

    Args:
        counted_padding: True divides by k² everywhere (PyTorch's default; the `sharp` op table), False by the number of
            pixels inside the image (the `darts` op table).
    """

    def __init__(self, pool_size=3, strides=1, counted_padding=True, **kwargs):
        super().__init__(pool_size, strides, **kwargs)
        self.counted_padding = counted_padding

    def call(self, inputs):
        if self.counted_padding:
            return self._padded_mean(inputs)
        if max(self.strides) == 1:
            return ops.average_pool(inputs, self.pool_size, strides=1, padding="same")
        inside = ops.ones((1, *inputs.shape[1:3], 1), dtype=inputs.dtype)
        return self._padded_mean(inputs) / self._padded_mean(inside)

    def _padded_mean(self, inputs):
        return ops.average_pool(pad(inputs, self.pool_size), self.pool_size, self.strides, padding="valid")

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "counted_padding": self.counted_padding}


@keras.saving.register_keras_serializable("sharpkeras")
class Zero(keras.layers.Layer):
    """The primitive `none`: zeros of the strided shape."""

    def __init__(self, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.strides = strides

    def call(self, inputs):
        return ops.zeros_like(inputs[:, :: self.strides, :: self.strides])

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, (self.strides,) * 2, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "strides": self.strides}


@keras.saving.register_keras_serializable("sharpkeras")
class Identity(keras.layers.Identity):
    """The primitive `skip_connect` at stride 1; drop path leaves it alone."""


class Sequence(keras.layers.Layer):
    """Layers one after the other. Subclasses fill `steps` in the order of PyTorch's `nn.Sequential`.

    Args:
        steps: list of layers.
        arguments: the constructor's arguments, for `get_config`.
    """

    def __init__(self, steps, arguments, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps
        self._arguments = dict(arguments)

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)
            input_shape = step.compute_output_shape(input_shape)

    def call(self, inputs, training=None):
        for step in self.steps:
            inputs = step(inputs, training=training) if isinstance(step, BatchNormalization) else step(inputs)
        return inputs

    def compute_output_shape(self, input_shape):
        for step in self.steps:
            input_shape = step.compute_output_shape(input_shape)
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._arguments}


def _norm(affine, epsilon=EPSILON):
    return BatchNormalization(epsilon, center=affine, scale=affine)


@keras.saving.register_keras_serializable("sharpkeras")
class SharpSepConv(Sequence):
    """Two separable convolutions around a middle of adaptable width (Fig. 1; the lines of Fig. 3, one to one).

    Args:
        filters: output channels, c_out.
        kernel_size: odd; of both depthwise convolutions.
        strides: of the first depthwise convolution.
        dilation_rate: of the first depthwise convolution.
        mid_filters: middle channels, c_mid; if None, `filters * mid_multiplier`.
        mid_multiplier: c_mid_mult.
        affine: True gives the BatchNorms scale and offset.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        dilation_rate=1,
        mid_filters=None,
        mid_multiplier=1,
        affine=True,
        **kwargs,
    ):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, dilation_rate=dilation_rate)
        arguments |= dict(mid_filters=mid_filters, mid_multiplier=mid_multiplier, affine=affine)
        middle = mid_filters or int(filters * mid_multiplier)
        steps = [
            keras.layers.ReLU(),
            DepthwiseConv2D(kernel_size, strides, dilation_rate),
            Conv2D(middle),
            _norm(affine),
            keras.layers.ReLU(),
            DepthwiseConv2D(kernel_size),
            Conv2D(filters),
            _norm(affine),
        ]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class DilConv(Sequence):
    """The dilated convolution of DARTS: ReLU, dilated depthwise, pointwise, BatchNorm. Two convolutions, not four.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters, kernel_size=3, strides=1, dilation_rate=2, affine=True, **kwargs):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides)
        arguments |= dict(dilation_rate=dilation_rate, affine=affine)
        steps = [
            keras.layers.ReLU(),
            DepthwiseConv2D(kernel_size, strides, dilation_rate),
            Conv2D(filters),
            _norm(affine),
        ]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class SplitConv(Sequence):
    """`conv_7x1_1x7` of NASNet and AmoebaNet: ReLU, a 1×k and a k×1 convolution, BatchNorm."""

    def __init__(self, filters, kernel_size=7, strides=1, affine=True, epsilon=EPSILON, **kwargs):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine, epsilon=epsilon)
        steps = [
            keras.layers.ReLU(),
            Conv2D(filters, (1, kernel_size), (1, strides)),
            Conv2D(filters, (kernel_size, 1), (strides, 1)),
            _norm(affine, epsilon),
        ]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ConvBNReLU(Sequence):
    """`nor_conv_*` of the darts op table: a dense k×k convolution, BatchNorm, ReLU."""

    def __init__(self, filters, kernel_size=3, strides=1, affine=True, **kwargs):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        steps = [Conv2D(filters, kernel_size, strides), _norm(affine), keras.layers.ReLU()]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ConvBN(Sequence):
    """A dense k×k convolution and BatchNorm: a stem."""

    def __init__(self, filters, kernel_size=3, strides=1, affine=True, **kwargs):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        super().__init__([Conv2D(filters, kernel_size, strides), _norm(affine)], arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ReLUConvBN(Sequence):
    """ReLU, 1×1 convolution, BatchNorm: what brings a cell's inputs to its own width."""

    def __init__(self, filters, kernel_size=1, strides=1, affine=True, **kwargs):
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        steps = [keras.layers.ReLU(), Conv2D(filters, kernel_size, strides), _norm(affine)]
        super().__init__(steps, arguments, **kwargs)


POOLS = {"max": MaxPool, "average": AveragePool}


@keras.saving.register_keras_serializable("sharpkeras")
class ResizablePool(Sequence):
    """A 3×3 pool, and where `filters` is another number than its input has, a 1×1 convolution and BatchNorm."""

    def __init__(self, filters, pool="max", pool_size=3, strides=1, affine=True, **kwargs):
        arguments = dict(filters=filters, pool=pool, pool_size=pool_size, strides=strides, affine=affine)
        super().__init__([POOLS[pool](pool_size, strides)], arguments, **kwargs)
        self.filters, self.affine = filters, affine

    def build(self, input_shape):
        if input_shape[-1] != self.filters and len(self.steps) == 1:
            self.steps += [Conv2D(self.filters), _norm(self.affine, POOL_EPSILON)]
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        return (*self.steps[0].compute_output_shape(input_shape)[:3], self.filters)


@keras.saving.register_keras_serializable("sharpkeras")
class FactorizedReduce(keras.layers.Layer):
    """Halves the image without losing a pixel class: two 1×1 stride-2 convolutions, one on x shifted by one pixel.

    Args:
        filters: even number of output channels.

    Input (B, H, W, C), output (B, ceil(H / 2), ceil(W / 2), filters).

    Raises:
        ValueError: if `filters` is odd.
    """

    def __init__(self, filters, affine=True, **kwargs):
        super().__init__(**kwargs)
        if filters % 2:
            raise ValueError(f"expected an even number of filters, received {filters}")
        self.filters, self.affine = filters, affine
        self.relu = keras.layers.ReLU()
        self.conv_1 = Conv2D(filters // 2, 1, 2)
        self.conv_2 = Conv2D(filters // 2, 1, 2)
        self.norm = _norm(affine)

    @staticmethod
    def shift(inputs):
        """x[:, 1:, 1:], with a row and a column of zeros in place of the ones that left."""
        return ops.pad(inputs[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))

    def build(self, input_shape):
        self.conv_1.build(input_shape)
        self.conv_2.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs, training=None):
        rectified = self.relu(inputs)
        halves = [self.conv_1(rectified), self.conv_2(self.shift(rectified))]
        return self.norm(ops.concatenate(halves, axis=-1), training=training)

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, (2, 2), self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "affine": self.affine}


@keras.saving.register_keras_serializable("sharpkeras")
class DropPath(keras.layers.Layer):
    """Sets whole examples to zero with probability `rate` and scales the rest by 1 / (1 - rate), in training.

    Args:
        rate: a number, or a variable that training raises as it goes (a float would be traced anew at each value).
        seed: an integer or a `keras.random.SeedGenerator`.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = seed if isinstance(seed, keras.random.SeedGenerator) else keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        keep = 1.0 - ops.cast(self.rate, "float32")
        shape = (ops.shape(inputs)[0], 1, 1, 1)
        kept = ops.floor(keep + keras.random.uniform(shape, dtype="float32", seed=self.seed_generator))
        return inputs * ops.cast(kept / keep, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": float(self.rate), "seed": self.seed_generator._initial_seed}
