"""Building blocks of cells (§3.1, Fig. 1 and 3, Table 1) as Keras layers: NHWC, with PyTorch's padding and BatchNorm.

Every composite is a `LayerSequence` of plain Keras layers in the order of the PyTorch `nn.Sequential` that defines it,
so that Fig. 3 can be read off `SharpSepConv`, cost can be counted layer by layer, and an official state dict finds its
place by position.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras.backend import fused_ops

EPSILON = 1e-5  # PyTorch's BatchNorm2d
POOL_EPSILON = 1e-3  # ResizablePool's BatchNorm
MOMENTUM = 0.9  # PyTorch's momentum of 0.1
CHANNELS_LAST = "channels_last"  # said to Keras each time: its own default is what stands in the user's keras.json


def convolve(
    operation: Callable[..., Any], inputs: Any, kernel: Any, strides: Sequence[int], dilation_rate: Sequence[int]
) -> Any:
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
    if max(strides) > 1 and max(dilation_rate) > 1 and tuple(dilation_rate) != tuple(strides):
        raise ValueError(f"expected a dilation rate of 1 or equal to the strides {strides}, received {dilation_rate}")
    if operation is ops.depthwise_conv and fused_ops.shifts_images(inputs):
        return fused_ops.depthwise_conv(inputs, kernel, strides, dilation_rate)
    if operation is ops.conv and max(kernel.shape[:2]) == 1:
        # TensorFlow 2.21 with oneDNN crashes in the kernel gradient of some strided 1×1 convolutions (16 → 4 channels).
        return fused_ops.pointwise_conv(inputs if max(strides) == 1 else fused_ops.subsample(inputs, strides), kernel)
    operation = functools.partial(operation, data_format=CHANNELS_LAST)
    if max(strides) == 1:
        return operation(inputs, kernel, strides=1, padding="same", dilation_rate=dilation_rate)
    if max(dilation_rate) == 1:
        return operation(pad(inputs, kernel.shape[:2]), kernel, strides=strides, padding="valid")
    # Output i reads x[s·(i + t - (k-1)/2)]: every s-th pixel alone, so an ordinary convolution over those pixels.
    # TensorFlow's own kernel is wrong here, and Keras computes all positions and drops three quarters of them.
    return operation(fused_ops.subsample(inputs, strides), kernel, strides=1, padding="same")


def pad(inputs: Any, kernel_size: Sequence[int], value: float = 0.0) -> Any:
    """Pad images (B, H, W, C) with `value` by (k - 1) // 2 pixels on each side."""
    height, width = ((k - 1) // 2 for k in kernel_size)
    return ops.pad(inputs, ((0, 0), (height, height), (width, width), (0, 0)), constant_values=value)


def strided_shape(
    input_shape: tuple[int | None, ...], strides: Sequence[int], filters: int | None
) -> tuple[int | None, ...]:
    """Output shape (B, ceil(H / s_h), ceil(W / s_w), filters) of a strided layer; an unknown side stays None."""
    batch, height, width, _ = input_shape
    sides = ((height, strides[0]), (width, strides[1]))
    return (batch, *(side and math.ceil(side / stride) for side, stride in sides), filters)


def fan_in_uniform(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's default for convolutions and dense layers: uniform within ±1/√fan_in."""
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


class AsPyTorch:
    """Common part of Keras layers that compute as PyTorch's do: some options of Keras are fixed.

    One that would be ignored is refused; one that says what is done anyway is taken. How they pad has no name in Keras.
    """

    FIXED: dict[str, tuple] = {
        "padding": (),
        "data_format": (CHANNELS_LAST, None),
    }  # option → what may be said, the first to Keras

    def __init__(self, *arguments: Any, **options: Any) -> None:
        for name, accepted in self.FIXED.items():
            if name in options and options[name] not in accepted:
                kinds = type(self).__mro__
                theirs = kinds[kinds.index(AsPyTorch) + 1].__name__
                expected = " or ".join(map(repr, accepted)) or "no such argument"
                raise ValueError(
                    f"{kinds[0].__name__} computes as PyTorch's and leaves no choice of {name}: expected {expected}, "
                    f"received {options[name]!r}; keras.layers.{theirs} takes it"
                )
            options |= {name: accepted[0]} if accepted else {}
        super().__init__(*arguments, **options)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        # Keras writes the name of a padding into every config.
        layer: Any = super()  # of Keras
        return layer.from_config({name: value for name, value in config.items() if name != "padding"})


CONVOLUTION: dict[str, tuple] = {
    **AsPyTorch.FIXED,
    "activation": ("linear", None, keras.activations.linear),
    "use_bias": (False,),
}


@keras.saving.register_keras_serializable("sharpkeras")
class Conv2D(AsPyTorch, keras.layers.Conv2D):
    """`nn.Conv2d(bias=False)` with symmetric padding."""

    FIXED = {**CONVOLUTION, "groups": (1,)}

    def __init__(
        self, filters: int, kernel_size: int | tuple[int, int] = 1, strides: int | tuple[int, int] = 1, **kwargs: Any
    ) -> None:
        # VarianceScaling(1/3) is ±1/√fan_in, PyTorch's default.
        initializer = keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
        super().__init__(filters, kernel_size, strides, **{"kernel_initializer": initializer, **kwargs})

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (*self.kernel_size, channels, self.filters)

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        return convolve(ops.conv, inputs, kernel, self.strides, self.dilation_rate)

    def call(self, inputs: Any) -> Any:
        return self.convolve(inputs, self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, self.strides, self.filters)


@keras.saving.register_keras_serializable("sharpkeras")
class DepthwiseConv2D(AsPyTorch, keras.layers.DepthwiseConv2D):
    """`nn.Conv2d(C, C, groups=C, bias=False)` with symmetric padding."""

    FIXED = {**CONVOLUTION, "depth_multiplier": (1,)}

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        dilation_rate: int | tuple[int, int] = 1,
        **kwargs: Any,
    ) -> None:
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        defaults = {"depthwise_initializer": fan_in_uniform(height * width)}
        # The base class refuses strides and dilation together; `convolve` can do both.
        super().__init__(kernel_size, strides=strides, **{**defaults, **kwargs})
        self.dilation_rate = (dilation_rate,) * 2 if isinstance(dilation_rate, int) else tuple(dilation_rate)

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (*self.kernel_size, channels, 1)

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        return convolve(ops.depthwise_conv, inputs, kernel, self.strides, self.dilation_rate)

    def call(self, inputs: Any) -> Any:
        return self.convolve(inputs, self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, self.strides, input_shape[-1])


@keras.saving.register_keras_serializable("sharpkeras")
class BatchNormalization(AsPyTorch, keras.layers.BatchNormalization):
    """`nn.BatchNorm2d`: epsilon 1e-5, momentum 0.1 (0.9 in Keras' terms), moving variance unbiased.

    Computes in float32 under any precision below it. A call takes a `weight`, a scalar by which the output is
    multiplied: in training it costs nothing, as a part of scale and offset.
    """

    FIXED = {"axis": (-1, 3), "synchronized": (False,)}

    def __init__(self, epsilon: float = EPSILON, momentum: float = MOMENTUM, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, momentum=momentum, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 4:
            raise ValueError(f"expected images of shape (B, H, W, C), received {tuple(input_shape)}")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, weight: Any = None) -> Any:
        if not (training and self.trainable):
            outputs = super().call(inputs, training=False)
            return outputs if weight is None else outputs * ops.cast(weight, outputs.dtype)
        channels, dtype = inputs.shape[-1], fused_ops.at_least_float32(inputs.dtype)
        scale = ops.cast(self.gamma, dtype) if self.scale else ops.ones(channels, dtype)
        offset = ops.cast(self.beta, dtype) if self.center else ops.zeros(channels, dtype)
        if weight is not None:
            scale, offset = (part * ops.cast(weight, dtype) for part in (scale, offset))
        outputs, mean, variance = fused_ops.batch_normalization(inputs, scale, offset, self.epsilon)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("sharpkeras")
class MaxPool(AsPyTorch, keras.layers.MaxPooling2D):
    """`nn.MaxPool2d(padding=(k - 1) // 2)`: pads with -inf, since the cells pool before they rectify."""

    def __init__(self, pool_size: int | tuple[int, int] = 3, strides: int | tuple[int, int] = 1, **kwargs: Any) -> None:
        super().__init__(pool_size, strides, **kwargs)

    def call(self, inputs: Any) -> Any:
        if fused_ops.shifts_images(inputs) and all(k % 2 for k in self.pool_size):
            return fused_ops.max_pool(inputs, self.pool_size, self.strides)
        if max(self.strides) == 1:
            return ops.max_pool(inputs, self.pool_size, strides=1, padding="same", data_format=CHANNELS_LAST)
        padded = pad(inputs, self.pool_size, -math.inf)
        return ops.max_pool(padded, self.pool_size, self.strides, padding="valid", data_format=CHANNELS_LAST)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, self.strides, input_shape[-1])


@keras.saving.register_keras_serializable("sharpkeras")
class AveragePool(AsPyTorch, keras.layers.AveragePooling2D):
    """`nn.AvgPool2d(padding=(k - 1) // 2)`.

    Args:
        counted_padding: True divides by k² everywhere (PyTorch's default; the `sharp` op table), False by the number of
            pixels inside the image (the `darts` op table).
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 3,
        strides: int | tuple[int, int] = 1,
        counted_padding: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, **kwargs)
        self.counted_padding = counted_padding

    def call(self, inputs: Any) -> Any:
        if fused_ops.shifts_images(inputs) and all(k % 2 for k in self.pool_size):
            return fused_ops.average_pool(inputs, self.pool_size, self.strides, self.counted_padding)
        if self.counted_padding:
            return self._padded_mean(inputs)
        if max(self.strides) == 1:
            return ops.average_pool(inputs, self.pool_size, strides=1, padding="same", data_format=CHANNELS_LAST)
        inside = ops.ones((1, *ops.shape(inputs)[1:3], 1), dtype=inputs.dtype)
        return self._padded_mean(inputs) / self._padded_mean(inside)

    def _padded_mean(self, inputs: Any) -> Any:
        padded = pad(inputs, self.pool_size)
        return ops.average_pool(padded, self.pool_size, self.strides, padding="valid", data_format=CHANNELS_LAST)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, self.strides, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "counted_padding": self.counted_padding}


@keras.saving.register_keras_serializable("sharpkeras")
class Zero(keras.layers.Layer):
    """The primitive `none`: zeros of the strided shape."""

    def __init__(self, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides = strides

    def call(self, inputs: Any) -> Any:
        return ops.zeros_like(inputs[:, :: self.strides, :: self.strides])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, (self.strides,) * 2, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}


@keras.saving.register_keras_serializable("sharpkeras")
class Identity(keras.layers.Identity):
    """The primitive `skip_connect` at stride 1; drop path leaves it alone."""


def adopt(layer: keras.layers.Layer, parts: list[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Make `parts` compute in the precision of `layer` and, where it is frozen, freeze them; return them.

    Keras hands on neither of what it was told in its constructor, nor `trainable` to a part that is made afterwards.
    """
    for part in parts:
        part.dtype_policy = layer.dtype_policy
        if not layer.trainable:
            part.trainable = False
    return parts


def _parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer is made of, not those that these are made of."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _frozen_parts(layer: keras.layers.Layer) -> list[list[int]]:
    """The places of the frozen parts of a layer that is not frozen itself, as lists of indices."""
    found = []
    for index, part in enumerate(_parts(layer)):
        inside = _frozen_parts(part) if part.trainable and isinstance(part, Composite) else []
        found += [[index, *place] for place in inside] if part.trainable else [[index]]
    return found


class Composite(keras.layers.Layer):
    """Layer made of other layers, which it has to `adopt`; a dtype policy that is set later reaches them too.

    Which of its parts alone are frozen is kept in its config.
    """

    _to_freeze: tuple[tuple[int, ...], ...] = ()

    def followers(self) -> list[keras.layers.Layer]:
        """The parts that take over the dtype policy of this layer."""
        return _parts(self)

    def get_config(self) -> dict[str, Any]:
        frozen = _frozen_parts(self) if self.trainable else []  # else all are, which Keras keeps
        return {**super().get_config(), **({"frozen_parts": frozen} if frozen else {})}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        config = dict(config)
        frozen = config.pop("frozen_parts", [])
        layer = super().from_config(config)
        layer.freeze(frozen)
        return layer

    def freeze(self, places: Iterable[Sequence[int]]) -> None:
        """Freeze parts, each named by its place among the parts, and by places within those."""
        self._to_freeze = tuple(map(tuple, places))  # some may be made in `build`
        for index, part in enumerate(_parts(self)):
            within = [place[1:] for place in self._to_freeze if place[0] == index]
            if () in within:
                part.trainable = False
            elif within:
                part.freeze(within)

    @property
    def dtype_policy(self) -> keras.DTypePolicy:
        return super().dtype_policy

    @dtype_policy.setter
    def dtype_policy(self, policy: Any) -> None:
        keras.layers.Layer.dtype_policy.fset(self, policy)
        for part in self.followers():
            part.dtype_policy = self.dtype_policy


class LayerSequence(Composite):
    """Layer that calls its `steps` one after the other, in the order of PyTorch's `nn.Sequential`.

    Args:
        steps: list of layers.
        arguments: the constructor's arguments, for `get_config`.
    """

    def __init__(self, steps: list[keras.layers.Layer], arguments: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = adopt(self, steps)
        self._arguments = dict(arguments)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for step in self.steps:
            step.build(input_shape)
            input_shape = step.compute_output_shape(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        for step in self.steps:
            inputs = step(inputs, training=training) if isinstance(step, BatchNormalization) else step(inputs)
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        for step in self.steps:
            input_shape = step.compute_output_shape(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


def _norm(affine: bool, epsilon: float = EPSILON) -> BatchNormalization:
    return BatchNormalization(epsilon, center=affine, scale=affine)


@keras.saving.register_keras_serializable("sharpkeras")
class SharpSepConv(LayerSequence):
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
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        dilation_rate: int = 1,
        mid_filters: int | None = None,
        mid_multiplier: float = 1,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
        arguments: dict[str, Any] = dict(filters=filters, kernel_size=kernel_size, strides=strides)
        arguments |= dict(dilation_rate=dilation_rate, mid_filters=mid_filters)
        arguments |= dict(mid_multiplier=mid_multiplier, affine=affine)
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
class DilConv(LayerSequence):
    """The dilated convolution of DARTS: ReLU, dilated depthwise, pointwise, BatchNorm. Two convolutions, not four.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        dilation_rate: int = 2,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
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
class SplitConv(LayerSequence):
    """`conv_7x1_1x7` of NASNet and AmoebaNet: ReLU, a 1×k and a k×1 convolution, BatchNorm."""

    def __init__(
        self,
        filters: int,
        kernel_size: int = 7,
        strides: int = 1,
        affine: bool = True,
        epsilon: float = EPSILON,
        **kwargs: Any,
    ) -> None:
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine, epsilon=epsilon)
        steps = [
            keras.layers.ReLU(),
            Conv2D(filters, (1, kernel_size), (1, strides)),
            Conv2D(filters, (kernel_size, 1), (strides, 1)),
            _norm(affine, epsilon),
        ]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ConvBNReLU(LayerSequence):
    """`nor_conv_*` of the darts op table: a dense k×k convolution, BatchNorm, ReLU."""

    def __init__(
        self, filters: int, kernel_size: int = 3, strides: int = 1, affine: bool = True, **kwargs: Any
    ) -> None:
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        steps = [Conv2D(filters, kernel_size, strides), _norm(affine), keras.layers.ReLU()]
        super().__init__(steps, arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ConvBN(LayerSequence):
    """A dense k×k convolution and BatchNorm: a stem."""

    def __init__(
        self, filters: int, kernel_size: int = 3, strides: int = 1, affine: bool = True, **kwargs: Any
    ) -> None:
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        super().__init__([Conv2D(filters, kernel_size, strides), _norm(affine)], arguments, **kwargs)


@keras.saving.register_keras_serializable("sharpkeras")
class ReLUConvBN(LayerSequence):
    """ReLU, 1×1 convolution, BatchNorm: what brings a cell's inputs to its own width."""

    def __init__(
        self, filters: int, kernel_size: int = 1, strides: int = 1, affine: bool = True, **kwargs: Any
    ) -> None:
        arguments = dict(filters=filters, kernel_size=kernel_size, strides=strides, affine=affine)
        steps = [keras.layers.ReLU(), Conv2D(filters, kernel_size, strides), _norm(affine)]
        super().__init__(steps, arguments, **kwargs)


POOLS = {"max": MaxPool, "average": AveragePool}


@keras.saving.register_keras_serializable("sharpkeras")
class ResizablePool(LayerSequence):
    """A 3×3 pool, and where `filters` is another number than its input has, a 1×1 convolution and BatchNorm."""

    def __init__(
        self, filters: int, pool: str = "max", pool_size: int = 3, strides: int = 1, affine: bool = True, **kwargs: Any
    ) -> None:
        arguments = dict(filters=filters, pool=pool, pool_size=pool_size, strides=strides, affine=affine)
        super().__init__([POOLS[pool](pool_size, strides)], arguments, **kwargs)
        self.filters, self.affine = filters, affine

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if input_shape[-1] != self.filters and len(self.steps) == 1:
            self.steps += adopt(self, [Conv2D(self.filters), _norm(self.affine, POOL_EPSILON)])
            self.freeze(self._to_freeze)
        super().build(input_shape)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*self.steps[0].compute_output_shape(input_shape)[:3], self.filters)


@keras.saving.register_keras_serializable("sharpkeras")
class FactorizedReduce(Composite):
    """Factorized reduction of DARTS: two 1×1 convolutions of stride 2, one on x shifted by one pixel, concatenated.

    Args:
        filters: even number of output channels.

    Input (B, H, W, C), output (B, ceil(H / 2), ceil(W / 2), filters).

    Raises:
        ValueError: if `filters` is odd.
    """

    def __init__(self, filters: int, affine: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if filters % 2:
            raise ValueError(f"expected an even number of filters, received {filters}")
        self.filters, self.affine = filters, affine
        self.relu = keras.layers.ReLU()
        self.conv_1 = Conv2D(filters // 2, 1, 2)
        self.conv_2 = Conv2D(filters // 2, 1, 2)
        self.norm = _norm(affine)
        adopt(self, self.followers())

    @staticmethod
    def shift(inputs: Any) -> Any:
        """Shift images (B, H, W, C) by one pixel: x[:, 1:, 1:], with a row and a column of zeros at the end."""
        return ops.pad(fused_ops.without_first(inputs), ((0, 0), (0, 1), (0, 1), (0, 0)))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.conv_1.build(input_shape)
        self.conv_2.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        rectified = self.relu(inputs)
        halves = [self.conv_1(rectified), self.conv_2(self.shift(rectified))]
        return self.norm(ops.concatenate(halves, axis=-1), training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return strided_shape(input_shape, (2, 2), self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "affine": self.affine}


@keras.saving.register_keras_serializable("sharpkeras")
class DropPath(keras.layers.Layer):
    """Drop path: in training, whole examples become zero with probability `rate`, the rest times 1 / (1 - rate).

    Args:
        rate: a number from 0 to 1, or a variable that training raises as it goes (a float would be traced anew at each
            value).
        seed: an integer or a `keras.random.SeedGenerator`.
        assignable: True makes a variable of the number, for `rate.assign`.

    Raises:
        ValueError: for a number outside that range.
    """

    def __init__(
        self, rate: Any, seed: int | keras.random.SeedGenerator | None = None, assignable: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(rate, (int, float)) and not 0 <= rate <= 1:
            raise ValueError(f"expected a rate from 0 to 1, received {rate}")
        self.rate = rate
        if assignable:
            self.rate = keras.Variable(rate, trainable=False, autocast=False, dtype="float32", name="drop_path_rate")
        self.seed_generator = seed if isinstance(seed, keras.random.SeedGenerator) else keras.random.SeedGenerator(seed)

    @property
    def assignable(self) -> bool:
        return isinstance(self.rate, keras.Variable)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        keep = 1.0 - ops.cast(self.rate, "float32")
        shape = (ops.shape(inputs)[0], *[1] * (len(inputs.shape) - 1))
        kept = ops.floor(keep + keras.random.uniform(shape, dtype="float32", seed=self.seed_generator))
        scale = kept / ops.maximum(keep, 2.0**-24)  # where nothing is kept, 0 and not 0 / 0
        return inputs * ops.cast(scale, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        arguments = {"rate": float(self.rate), "seed": self.seed_generator._initial_seed, "assignable": self.assignable}
        return {**super().get_config(), **arguments}
