"""Parameters and AddMults of any Keras 3 model made of core layers (the columns of tables 2, 3 and 4).

The paper counts one multiply-add of a convolution or a dense layer as 1, and adds for one image: BatchNorm 2 per input
element (1 without scale and offset), ReLU 1 per output element, pooling 1 per input element, a bias of a convolution 1
per output element. Sums of nodes, concatenation and padding count 0. Plain convolution + dense MACs stand beside it.
"""

import math
from typing import NamedTuple

import keras

from sharpkeras.errors import ConfigError

RELUS = (keras.activations.relu, keras.activations.relu6)


class Cost(NamedTuple):
    """Exact integers, for one image.

    parameters: trainable weights. addmults_paper: the paper's convention. addmults_conv_dense: convolutions and dense
    layers alone, without bias.
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
    output_shape: tuple
    parameters: int
    addmults_paper: int
    addmults_conv_dense: int


def count(model):
    """The Cost of a built model, along the paths from its inputs to its outputs (so without an auxiliary head's).

    Raises:
        ConfigError: for a layer with weights that is none of those in `RULES`, nor made of them, or a size of images
            that is not known.
    """
    rows = per_layer(model)
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    return Cost(parameters, sum(row.addmults_paper for row in rows), sum(row.addmults_conv_dense for row in rows))


def of_layer(layer, input_shape):
    """The Cost of a layer that is not built, reading (H, W, C)."""
    inputs = keras.Input(input_shape)
    return count(keras.Model(inputs, layer(inputs)))


def per_layer(model):
    """A LayerCost for each call of a core layer, in the order of computation.

    Composite layers and models are opened until core layers are reached, by calling them on symbolic tensors.
    """
    return _function_costs(model if isinstance(model, keras.Function) else _open(model, model.input_shape), set())


def _function_costs(function, counted):
    return [row for node in _nodes(function) for row in _node_costs(node, counted)]


def _nodes(function):
    by_depth = function._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _node_costs(node, counted):
    """The rows of a call; `counted` are the ids of the weights that have been counted, and grows."""
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer):
        return []
    inputs, outputs = _elements_and_shape(node.input_tensors[0]), _elements_and_shape(node.output_tensors[0])
    for kinds, rule in RULES:
        if isinstance(layer, kinds):
            paper, conv_dense = rule(layer, inputs, outputs)
            shape = tuple(node.output_tensors[0].shape[1:])
            fresh = [weight for weight in layer.trainable_variables if id(weight) not in counted]
            counted.update(map(id, fresh))
            parameters = sum(math.prod(weight.shape) for weight in fresh)
            return [LayerCost(layer.name, type(layer).__name__, shape, parameters, paper, conv_dense)]
    if isinstance(layer, keras.Function):
        return _function_costs(layer, counted)
    rows = []  # a leaf without a rule (padding, concatenation, drop path, …) counts 0
    if list(layer._flatten_layers(include_self=False)):
        opened = _open(layer, *(tensor.shape for tensor in node.input_tensors))
        rows = [row._replace(name=f"{layer.name}/{row.name}") for row in _function_costs(opened, counted)]
    missed = [weight.path for weight in layer.trainable_variables if weight.ndim > 1 and id(weight) not in counted]
    if missed:  # a kernel, of which nobody has said how often it is used
        raise _uncountable(layer, missed[0])
    return rows


def _open(layer, *shapes):
    """The graph inside a composite layer, from its own `call` on symbolic inputs of these shapes."""
    inputs = [keras.KerasTensor(shape) for shape in shapes]
    try:
        return keras.Function(inputs, layer.call(*inputs))
    except Exception as error:  # such as that of a loop over steps, which has no symbolic form
        raise _uncountable(layer, str(error)) from error


def _uncountable(layer, seen):
    allowed = "convolutions, dense layers, what is made of them"
    return ConfigError(f"{type(layer).__name__} can not be counted", where=layer.name, seen=seen, allowed=allowed)


def _elements_and_shape(tensor):
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise ConfigError("AddMults need a static shape behind the batch", seen=tuple(tensor.shape))
    return math.prod(shape), shape


def _channels(layer, tensor):
    return tensor[1][-1 if layer.data_format == "channels_last" else 0]


def _convolution(layer, inputs, outputs):
    multiply_adds = outputs[0] * math.prod(layer.kernel_size) * _channels(layer, inputs) // layer.groups
    return multiply_adds + _bias(layer, outputs) + _activation(layer, outputs), multiply_adds


def _transposed(layer, inputs, outputs):
    multiply_adds = inputs[0] * math.prod(layer.kernel_size) * layer.filters
    return multiply_adds + _bias(layer, outputs) + _activation(layer, outputs), multiply_adds


def _depthwise(layer, inputs, outputs):
    multiply_adds = outputs[0] * math.prod(layer.kernel_size)
    return multiply_adds + _bias(layer, outputs) + _activation(layer, outputs), multiply_adds


def _separable(layer, inputs, outputs):
    middle = _channels(layer, inputs) * layer.depth_multiplier
    positions = outputs[0] // layer.filters
    multiply_adds = positions * middle * (math.prod(layer.kernel_size) + layer.filters)
    return multiply_adds + _bias(layer, outputs) + _activation(layer, outputs), multiply_adds


def _dense(layer, inputs, outputs):
    multiply_adds = inputs[0] * layer.units
    return multiply_adds + _activation(layer, outputs), multiply_adds


def _batch_norm(layer, inputs, outputs):
    return inputs[0] * (2 if layer.scale or layer.center else 1), 0


def _relu(layer, inputs, outputs):
    return outputs[0], 0


def _pool(layer, inputs, outputs):
    return inputs[0], 0


def _activation(layer, outputs):
    return outputs[0] if layer.activation in RELUS else 0


def _nothing(layer, inputs, outputs):
    return 0, 0


def _activation_layer(layer, inputs, outputs):
    return _activation(layer, outputs), 0


def _bias(layer, outputs):
    return outputs[0] if layer.use_bias else 0


RULES = (
    ((keras.layers.SeparableConv1D, keras.layers.SeparableConv2D), _separable),
    ((keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D), _depthwise),
    ((keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose), _transposed),
    ((keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D), _convolution),
    (keras.layers.Dense, _dense),
    (keras.layers.BatchNormalization, _batch_norm),
    (keras.layers.ReLU, _relu),
    (keras.layers.PReLU, _nothing),
    (keras.layers.Activation, _activation_layer),
    ((keras.layers.MaxPooling2D, keras.layers.AveragePooling2D), _pool),
    ((keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D), _pool),
)
