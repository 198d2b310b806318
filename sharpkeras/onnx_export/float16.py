"""float16: half the size, for GPUs; images and logits stay float32."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16, convert_np_to_float16

from sharpkeras.onnx_export.graph_editing import changed, quiet


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """An `onnx.ModelProto` that computes in float16 between its input and its output.

    Weights too small for float16 become its smallest numbers, those too large its largest.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    with quiet():
        halved = convert_float_to_float16(copy, keep_io_types=True)
    return changed(halved, lambda graph: None)  # whose cast of the images stands last


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float32 with every weight and every result rounded to float16, overflow and underflow too.

    On a CPU ONNX Runtime computes a float16 file in float32 from end to end, and would show neither.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph, known = model.graph, (*model.graph.value_info, *model.graph.input)
    nodes: list[onnx.NodeProto] = []
    floats = {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    with quiet():
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                content = numpy_helper.to_array(tensor)
                halves = convert_np_to_float16(np.atleast_1d(content)).astype("float32").reshape(content.shape)
                tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))

    def rounding(name: str) -> Iterator[onnx.NodeProto]:
        """The two casts that round a value, behind which it has another name; none for what is no float32."""
        if name not in floats:
            return
        for before, after, kind in (("", "/half", TensorProto.FLOAT16), ("/half", "/rounded", TensorProto.FLOAT)):
            yield helper.make_node("Cast", [name + before], [name + after], to=kind)

    for value in graph.input:
        nodes += rounding(value.name)
    for node in graph.node:
        node.input[:] = [f"{name}/rounded" if name in floats else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            nodes += rounding(name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return model
