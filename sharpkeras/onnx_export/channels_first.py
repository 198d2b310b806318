"""Channels last → channels first, in one sweep over the graph.

TensorFlow has the channels last, ONNX's convolutions and pools have them first, so a converter puts two transpositions
around each. Here every node between two of them is computed with the channels first instead, and the transpositions
that nothing reads any more are left out. The sweep takes time linear in the number of nodes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sharpkeras.onnx_export.graph_editing import array, attribute, constant, hand_on_name, insert, replace

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
AXIS = {0: 0, 1: 2, 2: 3, 3: 1}  # of a tensor with the channels last → the same one with the channels first

ELEMENTWISE = (
    *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid"),
    *("Softplus", "Softsign", "Sqrt", "Sub", "Tanh"),
)
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")


def channels_first(graph: ir.Graph) -> None:
    """Rewrite an `ir.Graph` in place; unused nodes stay and are the caller's to remove."""
    sweep = _Sweep(graph)
    for node in list(graph):
        sweep.visit(node)


class _Sweep:
    """`first` knows, for tensors with the channels last, the same one with the channels first."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.first = graph, {}

    def visit(self, node: ir.Node) -> None:
        if node.op_type == "Transpose":
            self._transpose(node)
        elif any(value in self.first for value in node.inputs):
            rule = RULES.get(node.op_type)
            if rule is not None:
                rule(self, node)

    def _transpose(self, node: ir.Node) -> None:
        (source,), (result,) = node.inputs, node.outputs
        order = attribute(node, "perm")
        if order == TO_LAST:
            self.first[result] = source
        elif order == TO_FIRST and source in self.first:
            replace(result, self.first[source])
        elif order == TO_FIRST:
            self.first[source] = result

    def swap(
        self,
        node: ir.Node,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        keeps_rank: bool = True,
    ) -> None:
        """Put the same operator on other inputs in the place of `node`.

        Its output has the channels first; where something still reads the old one, it is transposed back.
        """
        attributes = {name: found.value for name, found in node.attributes.items()} | (attributes or {})
        (old,) = node.outputs
        result = insert(node, node.op_type, inputs, attributes, None if keeps_rank else old.shape)
        hand_on_name(old, result)
        if keeps_rank:
            result = self.transposed_back(node, result)
        replace(old, result)
        self.graph.remove(node, safe=True)

    def transposed_back(self, node: ir.Node, result: ir.Value) -> ir.Value:
        """What `node` gave with the channels last, from the same with the channels first."""
        last = insert(node, "Transpose", [result], {"perm": TO_LAST}, node.outputs[0].shape)
        self.first[last] = result
        return last

    def as_first(self, value: ir.Value, node: ir.Node) -> ir.Value | None:
        """The tensor with the channels first, transposed before `node` if it has to be; None if it has no such form."""
        if value in self.first:
            return self.first[value]
        if array(value) is not None:
            return constant(self.graph, _transposed(array(value)))
        if value.shape is None or len(value.shape) != 4:
            return None
        self.first[value] = insert(node, "Transpose", [value], {"perm": TO_FIRST})
        return self.first[value]


def _elementwise(sweep: _Sweep, node: ir.Node) -> None:
    inputs = [value and sweep.as_first(value, node) for value in node.inputs]
    if all(first is not None for value, first in zip(node.inputs, inputs) if value is not None):
        sweep.swap(node, inputs)


def _concat(sweep: _Sweep, node: ir.Node) -> None:
    inputs = [sweep.as_first(value, node) for value in node.inputs]
    if None not in inputs:
        sweep.swap(node, inputs, {"axis": AXIS[attribute(node, "axis") % 4]})


def _pad(sweep: _Sweep, node: ir.Node) -> None:
    source, pads, *others = node.inputs
    if len(others) < 2 and array(pads) is not None:  # opset 18 can name axes; tf2onnx does not
        begins_and_ends = array(pads).reshape(2, 4)[:, TO_FIRST]
        sweep.swap(node, [sweep.first[source], constant(sweep.graph, begins_and_ends.reshape(-1)), *others])


def _slice(sweep: _Sweep, node: ir.Node) -> None:
    source, starts, ends, *rest = node.inputs
    axes = array(rest[0]) if rest else None
    if axes is not None and array(starts) is not None:
        axes = np.array([AXIS[int(axis) % 4] for axis in axes], array(starts).dtype)
        sweep.swap(node, [sweep.first[source], starts, ends, constant(sweep.graph, axes), *rest[1:]])


def _reduction(sweep: _Sweep, node: ir.Node) -> None:
    """A mean over height and width, with its axes as an attribute (up to opset 17) or as an input."""
    source, *given = node.inputs
    axes = array(given[0]) if given else attribute(node, "axes")
    if axes is None:
        return
    axes = [AXIS[int(axis) % 4] for axis in axes]
    keeps_rank = bool(attribute(node, "keepdims", 1))
    if node.op_type == "ReduceMean" and sorted(axes) == [2, 3]:
        pooled = insert(node, "GlobalAveragePool", [sweep.first[source]])
        if keeps_rank:
            last = sweep.transposed_back(node, pooled)
        else:
            last = insert(node, "Flatten", [pooled], {"axis": 1}, node.outputs[0].shape)
        replace(node.outputs[0], last)
        return
    if not keeps_rank and sorted(axes) != [2, 3]:
        return  # what is left would have another order
    if given:
        sweep.swap(node, [sweep.first[source], constant(sweep.graph, np.array(axes, "int64"))], keeps_rank=keeps_rank)
    else:
        sweep.swap(node, [sweep.first[source]], {"axes": axes}, keeps_rank=keeps_rank)


RULES = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
}


def _transposed(content: np.ndarray) -> np.ndarray:
    """A constant, broadcast to four axes, with the channels first."""
    return (
        content if content.ndim == 0 else content.reshape((1,) * (4 - content.ndim) + content.shape).transpose(TO_FIRST)
    )
