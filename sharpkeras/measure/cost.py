"""Parameters and AddMults of any Keras 3 model (the columns of tables 2, 3 and 4).

The paper counts one multiply-add of a convolution or a dense layer as 1, and adds for one image: BatchNorm 2 per input
element (1 without scale and offset), ReLU 1 per output element, pooling 1 per input element, a bias of a convolution 1
per output element. Plain convolution + dense MACs stand beside it.

A function counts the same in whatever form it is written: as a layer, as an activation of a layer, or by `keras.ops`.
So layers are opened, down to Keras' operations, and the rules are about those. Here

- a convolution is also one of groups, depthwise, separable or transposed; a dense layer is any product of matrices and
  any sum of products, the two of an attention included (its softmax counts 0);
- ReLU is also that with a slope, a threshold or a ceiling: LeakyReLU, PReLU, ReLU6, the maximum with 0;
- a pool has one, two or three dimensions, is adaptive, or global, as is a mean or maximum over all pixels.

All else counts 0: sums of nodes, concatenation, padding, resizing, other activations and other normalizations.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from sharpkeras.errors import ConfigError


class Cost(NamedTuple):
    """Parameters and AddMults of a model for one image, exact integers.

    parameters: the weights that are trained, those of frozen layers included: a network keeps its size when it is
    frozen. The averages of a normalization are none, frozen or not. addmults_paper: the paper's convention.
    addmults_conv_dense: convolutions and dense layers alone, without bias.
    """

    parameters: int
    addmults_paper: int
    addmults_conv_dense: int


class LayerCost(NamedTuple):
    """The cost of one call of one layer, with its output shape (without the batch).

    The parameters of a layer that is called twice stand at its first call.
    """

    name: str
    layer: str
    output_shape: tuple[int, ...]
    parameters: int
    addmults_paper: int
    addmults_conv_dense: int


ADDMULTS = ("addmults_paper", "addmults_conv_dense")  # of a LayerCost, what each call adds


def count(model: keras.Model) -> Cost:
    """The Cost of a built model, along the paths from its inputs to its outputs (so without an auxiliary head's).

    Raises:
        ConfigError: for a layer whose work is not seen (it is not written with Keras' layers and `keras.ops`, or loops
            over steps), an operation for which there is no rule, or a size of images that is not known.
    """
    rows = per_layer(model)
    parameters = sum(math.prod(weight.shape) for weight in _weights(model, set()))
    return Cost(parameters, sum(row.addmults_paper for row in rows), sum(row.addmults_conv_dense for row in rows))


def of_layer(layer: keras.layers.Layer, input_shape: Sequence[int]) -> Cost:
    """The Cost of a layer that is not built, reading (H, W, C)."""
    inputs = keras.Input(input_shape)
    return count(keras.Model(inputs, layer(inputs)))


def per_layer(model: keras.Model) -> list[LayerCost]:
    """A LayerCost for each call of a layer that costs anything, in the order of computation.

    Composite layers and models are opened until nothing is inside, by calling them on symbolic tensors as they are
    called in the model, on a batch of one image: what a layer folds into the batch counts too.
    """
    inputs = _inputs(model)
    images = keras.tree.flatten(inputs)[0].shape[0]  # one, unless the model has a batch of its own
    rows, _ = _opened(model, model.call, [inputs], {}, set())
    per_image = ({field: getattr(row, field) // images for field in ADDMULTS} for row in rows)
    return [row._replace(**numbers) for row, numbers in zip(rows, per_image)]


def _inputs(model: keras.Model) -> Any:
    """What a model is called with, as symbolic tensors of one image."""
    if getattr(model, "inputs", None):
        # A Sequential that nobody has called has one input too, but no `input`.
        given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda tensor: _one_image(tensor.shape, tensor.dtype), given)
    shape = (model.get_build_config() or {}).get("input_shape")  # all that a subclassed model knows
    if not shape:
        next_step = "count keras.Model(inputs, model(inputs)) of a keras.Input for each of them"
        raise ConfigError("the model does not say what it is called with", where=model.name, next_step=next_step)
    return keras.tree.map_shape_structure(lambda shape: _one_image(shape, "float32"), shape)


def _one_image(shape: tuple, dtype: str) -> keras.KerasTensor:
    return keras.KerasTensor((shape[0] or 1, *shape[1:]), dtype)


# ---- what is inside ----


class _Call(NamedTuple):
    """A call of a layer or an operation: its arguments, the symbolic tensors in them, and the first that it makes."""

    part: Any
    args: tuple
    tensors: list[Any]
    output: Any


def _called(part: Any, args: Any, kwargs: dict[str, Any], counted: set[int]) -> tuple[list[LayerCost], Any]:
    """The rows of a call and its outputs; `counted` are the ids of the weights that have been counted, and grows."""
    if getattr(part, "quantization_mode", None):  # its weights are none that are trained
        raise _uncountable(part, f"quantization to {part.quantization_mode}", "count the model before it is quantized")
    rule = _rule(part)
    if rule is None:
        inside, outputs = _opened(part, part.call, args, kwargs, counted)
        costs: Sequence[int] = (0, 0)
        if isinstance(part, keras.layers.Layer) and not any(part._flatten_layers(include_self=False)):
            costs = [sum(getattr(row, field) for row in inside) for field in ADDMULTS]
            inside = []  # operations, which are no layers
    else:
        inside, is_layer = [], isinstance(part, keras.layers.Layer)
        outputs = (part.compute_output_spec if is_layer else part.symbolic_call)(*args, **kwargs)
        costs = rule(_Call(part, args, _symbolic((args, kwargs)), _symbolic(outputs)[0]))
    parameters = sum(math.prod(weight.shape) for weight in _weights(part, counted))
    rows = [row._replace(name=f"{part.name}/{row.name}") for row in inside]
    if parameters or any(costs):
        shapes = [tuple(tensor.shape[1:]) for tensor in _symbolic(outputs)]
        rows.append(LayerCost(part.name, type(part).__name__, shapes[0] if shapes else (), parameters, *costs))
    return rows, outputs


def _opened(
    part: Any, call: Callable[..., Any], args: Any, kwargs: dict[str, Any], counted: set[int]
) -> tuple[list[LayerCost], Any]:
    """The rows of what a function of a layer calls, its own `call` as a rule, and its outputs.

    Their shapes are those that the operations have: what a layer declares of its output may have unknown sizes.
    """
    given = list({id(tensor): tensor for tensor in _symbolic((args, kwargs))}.values())
    copies = [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in given]  # where the graph inside begins
    args, kwargs = _exchanged((args, kwargs), given, copies)
    rows = []

    def count_call(operation: Any) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found, outputs = _called(operation, args, kwargs, counted)
            rows.extend(found)
            return outputs

        return run

    try:
        # A layer that counts its calls stays as it is.
        with keras.StatelessScope(), _symbolic_activation(part):
            outputs = call(*args, **kwargs)
            made: Any = [tensor for tensor in _symbolic(outputs) if hasattr(tensor, "_keras_history")]
            used = {id(copy): value for copy, value in zip(copies, given) if hasattr(copy, "_keras_history")}
            inside = made and keras.Function([copy for copy in copies if id(copy) in used], made)
            computed = made and inside._run_through_graph(list(used.values()), operation_fn=count_call)
    except ConfigError:
        raise
    except Exception as error:  # such as that of a loop over steps, which has no symbolic form
        raise _uncountable(part, str(error)) from error
    return rows, _exchanged(outputs, [*copies, *made], [*given, *computed])


@contextlib.contextmanager
def _symbolic_activation(part: Any) -> Iterator[None]:
    """Leaves out an activation of a layer that has no symbolic form: none of them counts."""
    activation = getattr(part, "activation", None)
    if activation not in OPAQUE:
        yield
        return
    part.activation = keras.activations.linear
    try:
        yield
    finally:
        part.activation = activation


def _symbolic(structure: Any) -> list[Any]:
    return [value for value in keras.tree.flatten(structure) if isinstance(value, keras.KerasTensor)]


def _exchanged(structure: Any, old: Sequence[Any], new: Sequence[Any]) -> Any:
    """The same structure with other tensors in the places of some."""
    others = dict(zip(map(id, old), new))
    return keras.tree.map_structure(lambda value: others.get(id(value), value), structure)


def _weights(part: Any, counted: set[int]) -> list[Any]:
    """The weights that a layer trains, or would if it were not frozen, without those counted, to which they come."""
    if not isinstance(part, keras.layers.Layer):
        return []
    weights = [weight for layer in part._flatten_layers() for weight in layer._trainable_variables]
    fresh = {id(weight): weight for weight in weights if id(weight) not in counted}
    counted.update(fresh)
    return list(fresh.values())


def _uncountable(part: Any, seen: str, step: str | None = None) -> ConfigError:
    allowed = "layers and operations of Keras, and layers whose `call` is made of them"
    step = step or "write its `call` with keras.ops, without a loop over steps, and images of a known size"
    problem = f"{type(part).__name__} cannot be counted"
    return ConfigError(problem, where=part.name, seen=seen, allowed=allowed, next_step=step)


# ---- the rules: a call → AddMults of the paper's convention, and of convolutions and dense layers alone ----


def _rule(part: Any) -> Callable[[Any], tuple[int, int]] | None:
    """The rule of a layer or an operation; None for what is opened."""
    for kinds, rule in LAYERS:
        if isinstance(part, kinds):
            return rule
    if isinstance(part, GROUPED) and part.groups > 1:  # of which `ops.conv` has no symbolic form
        return _grouped
    if isinstance(part, (keras.layers.Layer, keras.Function)) or not type(part).__module__.startswith("keras."):
        return None
    name, module = type(part).__name__, type(part).__module__.rpartition(".")[2]
    if module in UNCOUNTABLE_MODULES or name in UNCOUNTABLE:
        raise _uncountable(part, f"the operation {name}, for which there is no rule")
    return OPERATIONS.get(name, _nothing)


def _shape(tensor: Any) -> tuple[int, ...]:
    """The whole shape, with the batch of one, of a symbolic tensor or a constant."""
    shape = tuple(tensor.shape)
    if None in shape:
        raise ConfigError("AddMults need a static shape behind the batch", seen=shape)
    return shape


def _size(tensor: Any) -> int:
    return math.prod(_shape(tensor))


def _nothing(call: _Call) -> tuple[int, int]:
    return 0, 0


def _each_input(call: _Call) -> tuple[int, int]:
    return _size(call.tensors[0]), 0


def _each_output(call: _Call) -> tuple[int, int]:
    return _size(call.output), 0


def _multiply_adds(number: int) -> tuple[int, int]:
    return number, number


def _convolution(call: _Call) -> tuple[int, int]:
    _, kernel = call.args  # (…, C / groups, filters)
    return _multiply_adds(_size(call.output) * math.prod(kernel.shape[:-1]))


def _grouped(call: _Call) -> tuple[int, int]:
    layer, size = call.part, _size(call.output)
    number = size * math.prod(layer.kernel.shape[:-1])
    activation, _ = _opened(layer, layer.activation, [call.output], {}, set())
    return number + size * layer.use_bias + sum(row.addmults_paper for row in activation), number


def _depthwise(call: _Call) -> tuple[int, int]:
    _, kernel = call.args  # (…, C, multiplier)
    return _multiply_adds(_size(call.output) * math.prod(kernel.shape[:-2]))


def _separable(call: _Call) -> tuple[int, int]:
    _, depthwise, pointwise = call.args  # (…, C, multiplier), (1, …, C · multiplier, filters)
    *window, channels, multiplier = depthwise.shape
    positions, filters = _size(call.output) // pointwise.shape[-1], pointwise.shape[-1]
    return _multiply_adds(positions * channels * multiplier * (math.prod(window) + filters))


def _transposed(call: _Call) -> tuple[int, int]:
    _, kernel = call.args  # (…, filters, C)
    return _multiply_adds(_size(call.tensors[0]) * math.prod(kernel.shape[:-1]))


def _matmul(call: _Call) -> tuple[int, int]:
    return _multiply_adds(_size(call.output) * _shape(call.args[0])[-1])


def _dot(call: _Call) -> tuple[int, int]:
    """Of axes A and K with axes K and B: A·K · K·B · A·B is the square of A·K·B, whatever these axes are."""
    first, second = call.args
    return _multiply_adds(math.isqrt(_size(first) * _size(second) * _size(call.output)))


def _einsum(call: _Call) -> tuple[int, int]:
    equation = call.part.subscripts
    if len(call.args) > 2:  # in which order they are multiplied decides what it costs
        raise _uncountable(call.part, f"the einsum {equation} of {len(call.args)} tensors")
    return _multiply_adds(einsum(equation, [_shape(operand) for operand in call.args]))


def einsum(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of an einsum of two tensors: the product of all sizes, or 0 where no axis is summed over."""
    given, arrow, output = equation.replace(" ", "").partition("->")
    sizes: dict[str | int, int] = {}
    for letters, shape in zip(given.split(","), shapes):
        before, dots, after = letters.partition("...")
        rest = len(shape) - len(before) - len(after) if dots else 0
        axes = [*before, *range(-rest, 0), *after]  # those of `...` are alike from the last one on
        sizes |= {axis: max(size, sizes.get(axis, 1)) for axis, size in zip(axes, shape)}
    named = [axis for axis in sizes if isinstance(axis, str)]
    summed = [letter for letter in named if (letter not in output if arrow else given.count(letter) > 1)]
    return math.prod(sizes.values()) if len(shapes) == 2 and summed else 0


def _attention(call: _Call) -> tuple[int, int]:
    """Queries (B, T, heads, H) with S keys of that depth, and their weights with S values of a depth of their own."""
    query, key, value = call.args[:3]
    *heads, depth = _shape(query)
    return _multiply_adds(math.prod(heads) * _shape(key)[1] * (depth + _shape(value)[-1]))


def _batch_norm(call: _Call) -> tuple[int, int]:
    *_, offset, scale = call.args
    return _normalized(call, offset is not None or scale is not None)


def _batch_norm_layer(call: _Call) -> tuple[int, int]:
    return _normalized(call, call.part.scale or call.part.center)


def _normalized(call: _Call, affine: bool) -> tuple[int, int]:
    return _size(call.tensors[0]) * (2 if affine else 1), 0


def _bias(call: _Call) -> tuple[int, int]:
    """A constant of each channel that is added to the output of a convolution; any other sum counts 0."""
    source, shape = call.tensors[0]._keras_history.operation, call.output.shape
    constants = [value for value in call.args if not isinstance(value, keras.KerasTensor)]
    of_channels = [value for value in constants if math.prod(getattr(value, "shape", ())) in (shape[1], shape[-1])]
    return _each_output(call) if of_channels and type(source).__name__ in CONVOLUTIONS else _nothing(call)


def _rectifier(call: _Call) -> tuple[int, int]:
    """The maximum with 0, or what is cut off below 0."""
    part = call.part
    bounds = [part.x_min] if hasattr(part, "x_min") else call.args
    return _each_output(call) if any(map(_is_zero, bounds)) else (0, 0)


def _is_zero(bound: Any) -> bool:
    """Whether it is 0 throughout, in whatever form: a number, an array, a tensor, `zeros_like`."""
    if isinstance(bound, keras.KerasTensor):
        return type(bound._keras_history.operation).__name__ == "ZerosLike"
    return bound is not None and not np.any(keras.ops.convert_to_numpy(bound))


def _global_pool(call: _Call) -> tuple[int, int]:
    """A mean or maximum over all pixels, wherever the channels are; one over other axes is none."""
    rank, axes = len(call.tensors[0].shape), call.part.axis
    axes = sorted(axis % rank for axis in axes) if axes is not None else []
    places = ([*range(1, rank - 1)], [*range(2, rank)] if rank > 3 else [])
    return _each_input(call) if axes and axes in places else (0, 0)


OPAQUE = (keras.activations.mish, keras.activations.hard_silu, keras.activations.sparsemax)
GROUPED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
CONVOLUTIONS = {"Conv": _convolution, "DepthwiseConv": _depthwise, "SeparableConv": _separable}
CONVOLUTIONS |= {"ConvTranspose": _transposed}

# Layers that are not opened: what some do besides what counts (a padding before a pool, both sides of PReLU) counts 0.
LAYERS = (
    (keras.layers.BatchNormalization, _batch_norm_layer),
    ((keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D), _each_input),
    ((keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D), _each_input),
    ((keras.layers.AdaptiveMaxPooling1D, keras.layers.AdaptiveAveragePooling1D), _each_input),
    ((keras.layers.AdaptiveMaxPooling2D, keras.layers.AdaptiveAveragePooling2D), _each_input),
    ((keras.layers.AdaptiveMaxPooling3D, keras.layers.AdaptiveAveragePooling3D), _each_input),
    (keras.layers.PReLU, _each_output),
    ((keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout), _nothing),
    ((keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D), _nothing),
    ((keras.layers.GaussianNoise, keras.layers.Normalization, keras.layers.Rescaling, keras.layers.Softmax), _nothing),
    (keras.layers.Resizing.__base__, _nothing),  # all layers that prepare images
)

# Operations of Keras by the name of their class. All others count 0 …
OPERATIONS = {
    **CONVOLUTIONS,
    "Add": _bias,
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu", "ReLU"), _each_output),
    **dict.fromkeys(("Maximum", "Clip"), _rectifier),
    **dict.fromkeys(("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool"), _each_input),
    **dict.fromkeys(("Mean", "Max", "Amax"), _global_pool),
    "BatchNorm": _batch_norm,
    "Matmul": _matmul,
    **dict.fromkeys(("Dot", "Tensordot", "Inner", "Vdot"), _dot),
    "Einsum": _einsum,
    "DotProductAttention": _attention,
}

# … but for those that multiply and add in ways of their own, or hide in a loop or a branch what they do.
UNCOUNTABLE_MODULES = ("linalg",)
UNCOUNTABLE = (
    *("Correlate", "Corrcoef", "Kron", "CDist", "FFT", "FFT2", "IFFT2", "RFFT", "IRFFT", "STFT", "ISTFT", "Logdet"),
    *("GaussianBlur", "SobelEdges", "SSIM", "ScaleAndTranslate"),
    *("AssociativeScan", "Cond", "ForiLoop", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop"),
)
