"""Saturation of int8 sums: a bound from the file alone on whether a processor could cut them off.

x86 without VNNI (AVX2, and AVX-512 where it lacks it) multiplies by VPMADDUBSW: the products of two neighbouring
activations, 0 to 255, and their weights, -128 to 127, are added in 16 bits, and what does not fit is cut off in
silence. Which two are neighbours is the engine's choice, so that any two weights of one output may be.
"""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np

from sharpkeras.io.onnx_files import onnx_messages

LARGEST_ACTIVATION = 255  # signed ones, -128 to 127, are moved to this range before they are multiplied
LARGEST_FITTING = 2**15 - 1
LARGEST_OF_ALL = 2 * 128 * LARGEST_ACTIVATION  # of weights that are not in the file
RIGHT_ON = {False: "every processor", True: "x86 with VNNI, and ARM"}  # whether sums could be cut off → where not

UINT8, INT8 = 2, 3  # of TensorProto.DataType
# Operators that sum products → the input with the weights, and the axis of these that is not summed over.
WEIGHTS = {
    "Conv": (1, 0),
    "ConvInteger": (1, 0),
    "ConvTranspose": (1, 1),
    "Gemm": (1, 1),
    "MatMul": (1, -1),
    "MatMulInteger": (1, -1),
    "QLinearConv": (3, 0),
    "QLinearMatMul": (3, -1),
}
KEEPS = ("DequantizeLinear", "Identity")  # operators whose result lies as what they take
MOVES = ("Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")  # and those that only move it


def verdict(onnx_model: Any) -> dict[str, Any]:
    """Whether int8 sums of a file could saturate: {"largest_sum", "could_saturate", "right_on"}; 0 without int8.

    Args:
        onnx_model: an `onnx.ModelProto`, quantised by whatever tool: with DequantizeLinear (QDQ), or with the
            operators that take integers.
    """
    largest = max(largest_sums(onnx_model).values(), default=0)
    could_saturate = largest > LARGEST_FITTING
    return {"largest_sum": largest, "could_saturate": could_saturate, "right_on": RIGHT_ON[could_saturate]}


def words(found: Mapping[str, Any]) -> str:
    """A verdict in words."""
    says = "could be cut off" if found["could_saturate"] else "are never cut off"
    limit = f"two products add up to {found['largest_sum']:,} at most, {LARGEST_FITTING:,} fit in 16 bits"
    return f"sums {says} ({limit}): right on {found['right_on']}"


def largest_sums(onnx_model: Any) -> dict[str, int]:
    """Layer → the largest sum, by its size, that two products of it can have, of all layers with int8 weights.

    Activations are taken to be of 8 bits, which is what an engine makes of them where it multiplies integers.
    """
    graphs = [part for part in onnx_messages(onnx_model) if part.DESCRIPTOR.name in ("GraphProto", "FunctionProto")]
    scopes = [_Scope(graph) for graph in graphs]
    everywhere = [ChainMap(*(getattr(scope, kind) for scope in scopes)) for kind in ("tensors", "makers", "types")]
    sums = {}
    for scope in scopes:
        # A graph within another reads its values too.
        known = [ChainMap(own, all_) for own, all_ in zip((scope.tensors, scope.makers, scope.types), everywhere)]
        for node in scope.nodes:
            index, axis = WEIGHTS.get(node.op_type, (len(node.input), None))
            if index < len(node.input):
                found = _largest_sum(node, node.input[index], axis, *known)
                if found is not None:
                    sums[node.name or node.output[0]] = found
    return sums


class _Scope:
    """The constants (`tensors`), nodes by what they make (`makers`) and declared types of a graph, by name."""

    def __init__(self, graph: Any) -> None:
        self.nodes = graph.node
        self.tensors = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
        values = (*getattr(graph, "input", ()), *getattr(graph, "value_info", ()))  # a function's inputs are names
        self.types = {value.name: value.type.tensor_type.elem_type for value in values if not isinstance(value, str)}
        self.makers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.tensors[node.output[0]] = attribute.t


def _largest_sum(
    node: Any,
    name: str,
    axis: int | None,
    tensors: Mapping[str, Any],
    makers: Mapping[str, Any],
    types: Mapping[str, int],
) -> int | None:
    """Of the node whose weights have this name; None where they are not int8."""
    unknown = None
    for _ in range(len(makers) + 1):  # a file of a stranger may go round in circles
        maker = makers.get(name)
        if name in tensors or maker is None or maker.op_type not in KEEPS + MOVES:
            break
        axis = axis if maker.op_type in KEEPS else None
        unknown = INT8 if maker.op_type == "DequantizeLinear" else unknown  # it may be that
        name = maker.input[0]
    if name not in tensors:
        computed = _computed_type(name, tensors, makers, types)
        return LARGEST_OF_ALL if (computed or unknown) == INT8 else None
    if tensors[name].data_type != INT8:
        return None
    weights = _content(tensors[name])
    if weights is None:
        return LARGEST_OF_ALL
    if node.op_type == "Gemm" and axis is not None:
        axis = 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return LARGEST_ACTIVATION * _largest_pair(weights, axis)


def _computed_type(
    name: str, tensors: Mapping[str, Any], makers: Mapping[str, Any], types: Mapping[str, int]
) -> int | None:
    """The type of what a QuantizeLinear makes, which that of its zero point tells; or the one declared."""
    maker = makers.get(name)
    if maker is None or maker.op_type != "QuantizeLinear":
        return types.get(name)
    told = [attribute.i for attribute in maker.attribute if attribute.name == "output_dtype"]
    zero = tensors.get(maker.input[2]) if len(maker.input) > 2 else None
    return zero.data_type if zero is not None else (told or [types.get(name, UINT8)])[0]


def _content(tensor: Any) -> np.ndarray | None:
    """The weights of a TensorProto; None where they are not those that its shape promises."""
    flat = np.frombuffer(tensor.raw_data, "int8") if tensor.raw_data else np.array(tensor.int32_data, "int64")
    return flat.reshape(tensor.dims) if flat.size == np.prod(tensor.dims, dtype=object) else None


def _largest_pair(weights: np.ndarray, axis: int | None) -> int:
    """The largest sum, by its size, of two weights that belong to one index of an axis, or of any two."""
    if not weights.size:
        return 0
    if axis is None or weights.ndim < 2:
        rows = weights.reshape(1, -1)
    else:
        rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    rows = rows.astype("int32")
    pairs = [np.sort(np.maximum(signed, 0), axis=1)[:, -2:].sum(axis=1).max() for signed in (rows, -rows)]
    return int(max(pairs))
