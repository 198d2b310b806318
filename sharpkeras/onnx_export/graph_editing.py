"""Helpers for reading and editing an `onnx_ir` graph."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import Sequential, common

NEW, REPLACED = "val_", "_replaced"  # how names of values begin that onnx_ir has given, and end of those given away
_CLEAN = Sequential(
    common.IdentityEliminationPass(),
    common.CommonSubexpressionEliminationPass(),
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedOpsetsPass(),
    common.TopologicalSortPass(),
)


def changed(model: onnx.ModelProto, *rewrites: Callable[[ir.Graph], None]) -> onnx.ModelProto:
    """A copy of an `onnx.ModelProto` whose graph each function has rewritten in turn, without what nothing uses.

    Args:
        rewrites: functions that take an `ir.Graph` and change it in place; it has the shapes that ONNX infers, and
            those that the functions before have given to what they put in.
    """
    intermediate = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    for rewrite in rewrites:
        rewrite(intermediate.graph)
        intermediate = _CLEAN(intermediate).model
    changed_model = ir.to_proto(intermediate)
    del changed_model.graph.value_info[:]  # whoever reads the file infers them
    return changed_model


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, integers as a list; the default where the node does not have it."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return list(found.value) if isinstance(found.value, tuple) else found.value


def array(value: ir.Value | None) -> np.ndarray | None:
    """The content of a constant as a NumPy array; None for any other value, or for an input that is left out."""
    known = value is not None and value.const_value is not None and not value.is_graph_input()
    return value.const_value.numpy() if known else None


def constant(graph: ir.Graph, content: np.ndarray) -> ir.Value:
    """A new initializer with the content of a NumPy array."""
    content = np.ascontiguousarray(content)
    number = len(graph.initializers)
    while f"constant_{number}" in graph.initializers:
        number += 1
    value = ir.val(f"constant_{number}", const_value=ir.tensor(content), shape=content.shape)
    value.dtype = value.const_value.dtype
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    shape: Any = None,
) -> ir.Value:
    """The output of a new node, of the type of the first output of the node that it is put before."""
    node = ir.node(operator, inputs, attributes or {})
    before.graph.insert_before(before, node)
    (output,) = node.outputs
    output.type = before.outputs[0].type
    output.shape = None if shape is None else ir.Shape(shape)
    return output


def replace(value: ir.Value, other: ir.Value) -> None:
    """Let all that reads a value read another one, which takes its name and its place among the graph's outputs."""
    hand_on_name(value, other)
    ir.convenience.replace_all_uses_with(value, other, replace_graph_outputs=True)


def hand_on_name(value: ir.Value, other: ir.Value) -> None:
    """Give a new value the name of the one whose place it takes: it tells the layer, and the graph's outputs."""
    if not value.name.endswith(REPLACED) and (value.is_graph_output() or other.name.startswith(NEW)):
        value.name, other.name = f"{value.name}{REPLACED}", value.name


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads a value, if there is exactly one and the value is no output of the graph; else None."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def is_pointwise(node: ir.Node | None) -> bool:
    """Whether a node is an ungrouped 1×1 convolution of stride 1 with a constant kernel."""
    return (
        node is not None
        and node.op_type == "Conv"
        and attribute(node, "group", 1) == 1
        and array(node.inputs[1]) is not None
        and array(node.inputs[1]).shape[2:] == (1, 1)
        and set(attribute(node, "strides", [1, 1])) == {1}
        and not any(attribute(node, "pads", [0]))
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep off the terminal what the tools of ONNX Runtime log and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)  # errors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)
