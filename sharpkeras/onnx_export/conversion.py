"""Keras → ONNX: traced with its weights as constants, converted operator by operator by tf2onnx, channels first."""

import contextlib
import functools
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf
from onnx import helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx import optimizer, tf_loader, tfonnx

from sharpkeras.errors import ConfigError, VerificationError
from sharpkeras.io.onnx_files import first_line, onnx_messages
from sharpkeras.onnx_export.channels_first import channels_first
from sharpkeras.onnx_export.graph_editing import attribute, changed, insert, replace

# Of the optimizer of tf2onnx; its pass over transpositions takes time quadratic in the number of nodes.
PASSES = ("fold_constants", "const_dequantize_optimizer", "remove_identity", "remove_back_to_back")
IMAGES, LOGITS = "images", "logits"
RESULT = "sharpkeras.logits"  # in TensorFlow's graph, where a layer may be called logits


def image_shape(model: keras.Model) -> tuple[int, int, int]:
    """(H, W, C) of the model's one input.

    Raises:
        ConfigError: if there is not one image input of a static size, float32 or uint8, or the model does not compute
            in float32.
    """
    dtypes = sorted({layer.compute_dtype for layer in (model, *model._flatten_layers(include_self=False))})
    if dtypes != ["float32"]:
        next_step = "build it again under keras.config.set_dtype_policy('float32') and copy the weights"
        raise ConfigError("the model does not compute in float32", seen=dtypes, next_step=next_step)
    if getattr(model, "inputs", None):
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
    else:  # a subclassed model only knows the shape it was built with
        shapes = [tuple((model.get_build_config() or {}).get("input_shape") or ())]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        allowed = "one input (None, H, W, C) with H, W and C known"
        raise ConfigError("the model is not built for one image input", seen=shapes, allowed=allowed)
    if input_dtype(model) not in ("float32", "uint8"):
        raise ConfigError("the model takes other images", seen=input_dtype(model), allowed="float32 or uint8")
    return shapes[0][1:]


def convert(model: keras.Model, shape: Sequence[int], opset: int, log: Path | None = None) -> onnx.ModelProto:
    """The model at inference as an `onnx.ModelProto`, with the channels first inside.

    `model.export(format="onnx")` converts by tf2onnx too, and its whole optimizer gives the same nodes, in ten times
    the time. Dilated depthwise convolutions come out as Conv with `dilations`, which `structural_problems` asserts.

    Args:
        model: a built Keras model.
        shape: (H, W, C) of its images.
        opset: ONNX operator set.
        log: where the converter's own words are written if it fails.

    Raises:
        VerificationError: if tf2onnx fails or knows no ONNX operator for one of TensorFlow's.
    """
    layers = {layer.name for layer in model._flatten_layers(include_self=False)}
    with silent_converter() as complaints:
        try:
            graph_def = frozen_graph(model, shape)
            names: dict[str, Any] = {"input_names": [f"{IMAGES}:0"], "output_names": [f"{RESULT}:0"]}
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(graph_def, name="")
                renamed = {f"{IMAGES}:0": IMAGES, f"{RESULT}:0": LOGITS}
                names |= {"tensors_to_rename": renamed, "custom_op_handlers": HANDLERS}
                converted = tfonnx.process_tf_graph(graph, opset=opset, **names)
            chosen = {name: optimizer._optimizers[name] for name in PASSES}
            onnx_model = optimizer.optimize_graph(converted, catch_errors=False, optimizers=chosen).make_model("")
            if not complaints:
                named = functools.partial(named_by_layers, layers=layers)
                return changed(onnx_model, channels_first, output_padding, named)
        except Exception as error:  # whatever the handler of an operator raises
            complaints.append(f"{type(error).__name__}: {first_line(error)}")
            complaints += traceback.format_exc().splitlines()
    # An operator that tf2onnx does not know is only logged, and stays in the file.
    if log is not None:
        log.write_text("\n".join(complaints) + "\n", encoding="utf-8")
    raise VerificationError("the model cannot be converted to ONNX", seen=complaints[0], where=log)


def output_padding(graph: ir.Graph) -> None:
    """A transposed convolution whose pads at the end are below 0 → the same with the `output_padding` that they mean.

    So tf2onnx writes strides that are larger than the kernel; ONNX knows no pads below 0.
    """
    for node in list(graph):
        pads = attribute(node, "pads", []) if node.op_type == "ConvTranspose" else []
        begins, ends = pads[: len(pads) // 2], pads[len(pads) // 2 :]
        if not pads or min(ends) >= 0 or min(begins) < 0 or attribute(node, "output_padding"):
            continue
        attributes = {name: found.value for name, found in node.attributes.items()}
        attributes["pads"] = [*begins, *(max(size, 0) for size in ends)]
        attributes["output_padding"] = [max(-size, 0) for size in ends]
        replace(node.outputs[0], insert(node, "ConvTranspose", node.inputs, attributes, node.outputs[0].shape))


def named_by_layers(graph: ir.Graph, layers: set[str]) -> None:
    """Name each tensor that a layer computes after the layer, behind the names of the layers around it.

    TensorFlow's scopes have them with a number behind each, and operations of its own below: of
    `network_1/cells.3._ops.2_1/batch_normalization_8_1/batchnorm/mul_1:0` is left
    `cells.3._ops.2/batch_normalization_8`. What a layer computes on its way has the operation's name too.

    Args:
        graph: an `ir.Graph`.
        layers: set of the names of the model's layers, at any depth.
    """

    def layer(scope: str) -> list[str]:
        """The layer that opened a scope, in a list; none for any other scope."""
        return [name for name in (scope.rpartition("_")[0], scope) if name in layers][:1]

    taken = {value.name for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    for node in reversed(graph):  # the last that a layer computes is its result
        for value in node.outputs:
            if value.is_graph_output():
                continue
            *scopes, operation = value.name.partition(":")[0].split("/")
            path = "/".join(name for scope in scopes[1:] for name in layer(scope))  # the first is the model itself
            choices = (path, f"{path}/{operation}".strip("/"), value.name)
            value.name = next(name for name in choices if name and name not in taken)
            taken.add(value.name)


def frozen_graph(model: keras.Model, shape: Sequence[int]) -> tf.compat.v1.GraphDef:
    """The model as a TensorFlow GraphDef from `images` to `logits`, its variables replaced by their values."""
    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in model.variables]

    def infer(images):
        with keras.StatelessScope(state_mapping=[(variable, tf.constant(value)) for variable, value in values]):
            return tf.identity(model(images, training=False), name=RESULT)

    signature = tf.TensorSpec((None, *shape), input_dtype(model), name=IMAGES)
    with _functions_opened():
        traced = tf.function(infer, [signature], autograph=False).get_concrete_function()
    if traced.captured_inputs:  # what a layer keeps beside its variables, such as the mean of a Normalization
        traced = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    with tf.Graph().as_default():
        return tf_loader.tf_optimize([f"{IMAGES}:0"], [f"{RESULT}:0"], traced.graph.as_graph_def(add_shapes=True))


@contextlib.contextmanager
def _functions_opened() -> Iterator[None]:
    """Functions that layers call are traced into the graph: Keras has one around a convolution of groups."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def input_dtype(model: keras.Model) -> str:
    """ "float32", or "uint8" of a model with its preprocessing."""
    return model.inputs[0].dtype if getattr(model, "inputs", None) else "float32"


def with_preprocessing(model: keras.Model, mean: Sequence[float], std: Sequence[float]) -> keras.Model:
    """The model with its preprocessing, (x / 255 - mean) / std, in front: it takes images of uint8.

    Args:
        model: a model of one float32 image input.
        mean, std: of each channel, for images in [0, 1].
    """
    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGES)
    scale = [1 / (255 * spread) for spread in std]
    offset = [-center / spread for center, spread in zip(mean, std)]
    return keras.Model(images, model(keras.layers.Rescaling(scale, offset)(images)), name=model.name)


def _beside_one(operation: str, one_first: bool) -> Callable[..., None]:
    """A handler of tf2onnx for 1 − operation, or with `one_first` False for operation − 1."""

    def convert_node(ctx: Any, node: Any, name: str, args: Any) -> None:
        (values,), (result,) = node.input, node.output
        shape, dtype = ctx.get_shape(result), ctx.get_dtype(result)
        ctx.remove_node(node.name)
        computed = ctx.make_node(operation, [values], shapes=[shape], dtypes=[dtype]).output[0]
        one = ctx.make_const(f"{name}/one", np.ones((), "float32")).output[0]
        terms = [one, computed] if one_first else [computed, one]
        ctx.make_node("Sub", terms, outputs=[result], shapes=[shape], dtypes=[dtype])

    return convert_node


# TensorFlow's operation, not known to tf2onnx 1.17 → what makes ONNX of it
HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {
    "Erfc": (_beside_one("Erf", one_first=True), []),  # of the exact gelu
    "Expm1": (_beside_one("Exp", one_first=False), []),  # of celu
}


@contextlib.contextmanager
def silent_converter() -> Iterator[list[str]]:
    """Keep tf2onnx from printing; give the list of the errors that it logs."""
    logger, complaints = logging.getLogger("tf2onnx"), []
    handler = logging.Handler(level=logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def tidy(onnx_model: onnx.ModelProto, name: str, properties: dict[str, str]) -> onnx.ModelProto:
    """The same model with metadata and each node named as its result, without what is of no use outside.

    That is doc strings, which carry local paths, and domains of which there is no node.
    """
    for message in onnx_messages(onnx_model):
        if "doc_string" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("doc_string")
    used = {"", *(node.domain for node in onnx_model.graph.node)}
    for entry in [entry for entry in onnx_model.opset_import if entry.domain not in used]:
        onnx_model.opset_import.remove(entry)
    helper.set_model_props(onnx_model, properties)
    onnx_model.graph.name = name
    for node in onnx_model.graph.node:
        node.name = node.output[0]
    for value in (*onnx_model.graph.input, *onnx_model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return onnx_model
