"""Graph rewrites for faster inference, each equal to what it replaces.

ONNX Runtime computes convolutions and pools in a layout of its own, in blocks of 16 (AVX-512) or 8 channels, and fuses
activations and sums into them. It leaves that layout wherever a node does not know it: at a slice, at padding of its
own, at a concatenation of channels that fill no whole block. Most of what is gained here is that it never has to.
`benchmarks/export_rewrites.py` measures each rewrite.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sharpkeras.onnx_export.graph_editing import (
    array,
    attribute,
    changed,
    constant,
    insert,
    is_pointwise,
    only_reader,
    replace,
)

ENDLESS = 10**9  # the end of a slice that takes all
BLOCK = 16  # channels in a block of ONNX Runtime's layout; the smaller blocks of other processors divide it


def without(left_out: Collection[str]) -> list[str]:
    """The names of the default rewrites but for some."""
    return [name for name in DEFAULT if name not in left_out]


def optimize(model: onnx.ModelProto, rewrites: Collection[str] | None = None) -> onnx.ModelProto:
    """A copy of a channels-first `onnx.ModelProto` with all rewrites, or with some, applied in their order."""
    chosen = DEFAULT if rewrites is None else rewrites
    return changed(model, *(rewrite for name, rewrite in REWRITES.items() if name in chosen))


# ---- constants into convolutions ----


def fold_affine(graph: ir.Graph) -> None:
    """Conv, then a sum, product or BatchNorm with constants of each channel → Conv.

    The same where a concatenation of convolutions lies between, as in FactorizedReduce.
    """
    for node in list(graph):
        parts = [node] if node.op_type == "Conv" else _concatenated(node)
        if not parts or not all(_has_image_kernel(part) for part in parts):
            continue
        sizes = [len(array(part.inputs[1])) for part in parts]
        scale, offset, end = _affine_chain(node.outputs[0], sum(sizes))
        if end is node.outputs[0]:
            continue
        scales, offsets = (np.split(values, np.cumsum(sizes)[:-1]) for values in (scale, offset))
        folded = []
        for part, scale, offset in zip(parts, scales, offsets):
            kernel = array(part.inputs[1]) * scale.reshape(-1, 1, 1, 1)
            shape = part.outputs[0].shape
            folded.append(_convolution(part, part.inputs[0], kernel, _bias(part) * scale + offset, shape))
        replace(end, folded[0] if node.op_type == "Conv" else insert(node, "Concat", folded, {"axis": 1}, end.shape))


def _has_image_kernel(node: ir.Node) -> bool:
    """Whether a convolution has a constant kernel (C_out, C_in, k_h, k_w): of images, not of sequences or volumes."""
    return array(node.inputs[1]) is not None and array(node.inputs[1]).ndim == 4


def _concatenated(node: ir.Node) -> list[ir.Node]:
    """The convolutions whose channels a node concatenates, if they are all that it does and nothing else reads them."""
    if node.op_type != "Concat" or attribute(node, "axis") != 1:
        return []
    parts = [value.producer() for value in node.inputs]
    fitting = [part for part in parts if part is not None and part.op_type == "Conv"]
    alone = all(only_reader(part.outputs[0]) is node for part in fitting)
    return fitting if alone and len(fitting) == len(parts) else []


def _affine_chain(value: ir.Value, channels: int) -> tuple[np.ndarray, np.ndarray, ir.Value]:
    """What constants do to a tensor before anything else reads it: scale, offset, each (channels,), and the result."""
    scale, offset = np.ones(channels), np.zeros(channels)
    reader = only_reader(value)
    while reader is not None and (affine := _affine(reader, value, channels)) is not None:
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
        value = reader.outputs[0]
        reader = only_reader(value)
    return scale, offset, value


def _affine(node: ir.Node, source: ir.Value, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, offset), each (channels,), of what a node does to `source`; None if it is no constant map of channels."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "BatchNormalization" and node.inputs[0] is source and len(node.outputs) == 1:
        parts = [array(value) for value in node.inputs[1:]]
        if any(part is None for part in parts):
            return None
        gamma, beta, mean, variance = (part.astype("float64") for part in parts)
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    second = node.inputs[0] is source
    operand = _per_channel(array(node.inputs[1 if second else 0]), channels)
    if operand is None or (not second and node.op_type in ("Sub", "Div")):
        return None
    if node.op_type == "Div":
        return (1 / operand, zero) if operand.all() else None
    return {"Add": (one, operand), "Sub": (one, -operand), "Mul": (operand, zero)}[node.op_type]


def _per_channel(content: np.ndarray | None, channels: int) -> np.ndarray | None:
    """(channels,) of a constant that is broadcast to (B, C, H, W); None if it differs between pixels."""
    if content is None:
        return None
    shape = (1,) * (4 - content.ndim) + content.shape
    if len(shape) > 4 or shape[0] != 1 or shape[2:] != (1, 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(content.reshape(-1).astype("float64"), (channels,))


# ---- pixels ----


def fold_padding(graph: ir.Graph) -> None:
    """Pad, then a pool or a convolution of the same padding → the pool or convolution with `pads`.

    A pool is left alone whose windows could lie in the padding alone, which is none in ONNX, or would be cut there.
    """
    for node in list(graph):
        pad = node.inputs[0].producer() if node.op_type in ("Conv", "MaxPool", "AveragePool") else None
        if pad is None or pad.op_type != "Pad":
            continue
        pads, value = array(pad.inputs[1]), _padding_value(pad)
        fitting = -math.inf if node.op_type == "MaxPool" else 0.0
        if pads is None or len(pad.inputs) > 3 or value != fitting or len(pads) != 8 or pads[[0, 1, 4, 5]].any():
            continue
        if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(attribute(node, "pads", [0])):
            continue
        pads = [int(size) for size in (*pads[2:4], *pads[6:8])]
        kernel = attribute(node, "kernel_shape", [0, 0])
        too_wide = any(size >= window for size, window in zip(pads, (*kernel, *kernel)))
        if min(pads) < 0 or node.op_type != "Conv" and (too_wide or attribute(node, "ceil_mode", 0)):
            continue
        attributes = {name: found.value for name, found in node.attributes.items() if name != "auto_pad"}
        attributes["pads"] = pads
        if node.op_type == "AveragePool":
            attributes["count_include_pad"] = 1
        inputs = [pad.inputs[0], *node.inputs[1:]]
        replace(node.outputs[0], insert(node, node.op_type, inputs, attributes, node.outputs[0].shape))


def _padding_value(pad: ir.Node) -> float | None:
    """The constant that a Pad pads with; None if it is not known, or other pixels are."""
    if attribute(pad, "mode", "constant") != "constant":
        return None
    value = array(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else np.float32(0)
    return None if value is None else float(value.reshape(()))


def pick_pixels(graph: ir.Graph) -> None:
    """Every second pixel by a convolution instead of a slice: what FactorizedReduce reads.

    A 1×1 convolution that reads pixels 0, 2, 4, … gets stride 2. Pixels 1, 3, 5, … are picked by a 2×2 depthwise
    convolution with a single 1, which costs next to nothing.
    """
    for node in list(graph):
        picked = _picked(node) if node.op_type == "Slice" else None
        if picked is None:
            continue
        source, start = picked
        readers = [use.node for use in node.outputs[0].uses()]
        if start == 0 and all(is_pointwise(reader) for reader in readers):
            for reader in readers:
                strided = _convolution(reader, source, shape=reader.outputs[0].shape, strides=[2, 2])
                replace(reader.outputs[0], strided)
        elif start == 1:
            channels, height, width = source.shape[1:]
            kernel = np.zeros((channels, 1, 2, 2), "float32")
            kernel[..., 1, 1] = 1
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "group": channels}
            attributes["pads"] = [0, 0, height % 2, width % 2]
            inputs = [source, constant(graph, kernel)]
            replace(node.outputs[0], insert(node, "Conv", inputs, attributes, node.outputs[0].shape))


def _picked(node: ir.Node) -> tuple[ir.Value, int] | None:
    """(source, 0 or 1) where a slice takes each second pixel of its source, from that one on; else None.

    Pixels beyond the source's end, which were padded with zeros, are picked as zeros.
    """
    if _window(node) != (0, 2):
        return None
    source, reached = node.inputs[0], 0
    pad = source.producer()
    if pad is not None and pad.op_type == "Pad" and _padding_value(pad) == 0.0 and array(pad.inputs[1]) is not None:
        cut = pad.inputs[0].producer()
        if list(array(pad.inputs[1])) == [0, 0, 0, 0, 0, 0, 1, 1] and cut is not None and _window(cut) == (1, 1):
            source, reached = cut.inputs[0], 1
    sizes = () if source.shape is None else source.shape[1:]
    known = len(sizes) == 3 and all(isinstance(size, int) for size in sizes)
    return (source, reached) if known else None


def _window(node: ir.Node) -> tuple[int, int] | None:
    """(start, step) of a slice of height and width alike that reaches to the end; else None."""
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return None
    starts, ends, axes, *steps = (array(value) for value in node.inputs[1:])
    steps = steps[0] if steps else np.ones(len(node.inputs[0].shape or ()), int)
    sizes = node.inputs[0].shape
    if any(part is None for part in (starts, ends, axes, steps)) or sizes is None:
        return None
    spans = {int(axis): span for axis, *span in zip(axes, starts, ends, steps)}
    whole = [axis for axis, (start, end, step) in spans.items() if (start, step) == (0, 1) and end >= ENDLESS]
    spans = {axis: span for axis, span in spans.items() if axis not in whole}
    if set(spans) != {2, 3}:
        return None
    if any(not isinstance(sizes[axis], int) or end < sizes[axis] for axis, (_, end, _) in spans.items()):
        return None
    windows = {(int(start), int(step)) for start, _, step in spans.values()}
    return windows.pop() if len(windows) == 1 else None


# ---- cells ----


def rectify_states(graph: ir.Graph) -> None:
    """The ReLU of a concatenation → the concatenation of the ReLUs, which the edges of the next nodes read anyway.

    Then each state is rectified once, by the convolution that makes it.
    """
    rectified = {}
    for node in list(graph):
        concat = node.inputs[0].producer() if node.op_type == "Relu" else None
        if concat is None or concat.op_type != "Concat" or attribute(concat, "axis") != 1:
            continue
        if concat not in rectified:
            states = [insert(concat, "Relu", [state], shape=state.shape) for state in concat.inputs]
            rectified[concat] = insert(concat, "Concat", states, {"axis": 1}, concat.outputs[0].shape)
        replace(node.outputs[0], rectified[concat])


def add_halves(graph: ir.Graph) -> None:
    """The concatenation of convolutions whose channels fill no whole block → the sum of convolutions to all channels.

    Those channels of each that belong to the others are zero. It concerns FactorizedReduce, whose halves are small.
    """
    for node in list(graph):
        halves = _concatenated(node)
        if not halves or not all(_is_dense(half) for half in halves):
            continue
        sizes = [len(array(half.inputs[1])) for half in halves]
        if all(size % BLOCK == 0 for size in sizes):
            continue
        total, first, shape = None, 0, node.outputs[0].shape
        for half, size in zip(halves, sizes):
            kernel = np.zeros((sum(sizes), *array(half.inputs[1]).shape[1:]), "float32")
            bias = np.zeros(sum(sizes))
            kernel[first : first + size], bias[first : first + size] = array(half.inputs[1]), _bias(half)
            part = _convolution(half, half.inputs[0], kernel, bias, shape)
            # `part` stands before its half, the sum before the concatenation, which comes after all halves.
            total = part if total is None else insert(node, "Add", [total, part], shape=shape)
            first += size
        replace(node.outputs[0], total)


def _is_dense(node: ir.Node) -> bool:
    return attribute(node, "group", 1) == 1 and array(node.inputs[1]) is not None


def merge_sums(graph: ir.Graph) -> None:
    """The sum of two 1×1 convolutions → one of them over the concatenated channels."""
    for node in list(graph):
        parts = [value.producer() for value in node.inputs] if node.op_type == "Add" else []
        if len(parts) != 2 or parts[0] is parts[1] or not all(map(is_pointwise, parts)):
            continue
        sources = [part.inputs[0] for part in parts]
        if any(only_reader(part.outputs[0]) is not node for part in parts) or not _alike(parts, sources):
            continue
        shape = [sources[0].shape[0], sum(source.shape[1] for source in sources), *sources[0].shape[2:]]
        joined = insert(node, "Concat", sources, {"axis": 1}, shape)
        kernel = np.concatenate([array(part.inputs[1]) for part in parts], axis=1)
        inputs = [joined, constant(graph, kernel), constant(graph, sum(map(_bias, parts)).astype("float32"))]
        replace(node.outputs[0], insert(node, "Conv", inputs, {"kernel_shape": [1, 1]}, node.outputs[0].shape))


def _alike(parts: Sequence[ir.Node], sources: Sequence[ir.Value]) -> bool:
    """Whether two convolutions have outputs of one shape, so that their sum repeats no pixel and no channel."""
    known = all(source.shape is not None and isinstance(source.shape[1], int) for source in sources)
    return known and sources[0].shape[2:] == sources[1].shape[2:] and len({len(array(p.inputs[1])) for p in parts}) == 1


def merge_depthwise(graph: ir.Graph) -> None:
    """Depthwise convolutions of one tensor, alike but for their kernels → one of its channels repeated."""
    alike = {}
    for node in graph:
        if _is_depthwise(node):
            options = sorted((name, str(found.value)) for name, found in node.attributes.items())
            alike.setdefault((node.inputs[0], tuple(options)), []).append(node)
    for (source, _), nodes in alike.items():
        if len(nodes) < 2 or source.shape is None:
            continue
        first, channels = nodes[0], source.shape[1]
        shape = first.outputs[0].shape
        wide = [shape[0], channels * len(nodes), *shape[2:]]
        repeated = insert(
            first, "Concat", [source] * len(nodes), {"axis": 1}, [source.shape[0], wide[1], *source.shape[2:]]
        )
        kernel = np.concatenate([array(node.inputs[1]) for node in nodes])
        bias = np.concatenate([_bias(node) for node in nodes])
        merged = _convolution(first, repeated, kernel, bias, wide, group=len(kernel))
        for number, node in enumerate(nodes):
            bounds = [
                constant(graph, np.array([edge], "int64")) for edge in (number * channels, (number + 1) * channels, 1)
            ]
            replace(node.outputs[0], insert(first, "Slice", [merged, *bounds], shape=shape))


def _is_depthwise(node: ir.Node) -> bool:
    kernel = array(node.inputs[1]) if node.op_type == "Conv" else None
    return kernel is not None and kernel.shape[1] == 1 and attribute(node, "group", 1) == len(kernel) > 1


# ---- channels ----


def align_channels(graph: ir.Graph) -> None:
    """Zero channels behind those that fill no whole block, so that every tensor of the cells does.

    Nothing is done where a tensor with such channels would be read by an operator that is not known here.
    """
    layouts = _layouts(graph)
    if layouts is None:
        return
    for node in list(graph):
        if node.op_type in ALIGNED:
            ALIGNED[node.op_type](node, layouts)


def _align_convolution(node: ir.Node, layouts: dict[ir.Value, list[int]]) -> None:
    kernel, bias, group = array(node.inputs[1]), _bias(node), attribute(node, "group", 1)
    output, options = layouts.get(node.outputs[0]), {}
    if group > 1:
        options["group"] = len(output) if output is not None else group
    elif node.inputs[0] in layouts:
        kernel = _spread(kernel, layouts[node.inputs[0]], axis=1)
    if output is not None:
        kernel, bias = _spread(kernel, output, axis=0), _spread(bias, output, axis=0)
    if output is not None or node.inputs[0] in layouts:
        result = _convolution(node, node.inputs[0], kernel, bias, **options)
        if output is not None:
            layouts[result] = output
        replace(node.outputs[0], result)


def _align_constant(node: ir.Node, layouts: dict[ir.Value, list[int]]) -> None:
    output = layouts.get(node.outputs[0])
    for index, value in enumerate(node.inputs):
        content = array(value)
        if output is not None and content is not None and content.ndim > 2 and content.shape[-3] > 1:
            node.replace_input_with(index, constant(node.graph, _spread(content, output, axis=content.ndim - 3)))


def _align_dense(node: ir.Node, layouts: dict[ir.Value, list[int]]) -> None:
    if node.inputs[0] in layouts:
        axis = 1 if attribute(node, "transB", 0) else 0
        node.replace_input_with(1, constant(node.graph, _spread(array(node.inputs[1]), layouts[node.inputs[0]], axis)))


ALIGNED = {
    "Conv": _align_convolution,
    "Add": _align_constant,
    "Mul": _align_constant,
    "MatMul": _align_dense,
    "Gemm": _align_dense,
}


def _layouts(graph: ir.Graph) -> dict[ir.Value, list[int]] | None:
    """Tensor → for each of its channels the number of the real one, or -1 for one of zeros.

    Only of tensors that have channels of zeros; None where the graph does not allow it.
    """
    layouts = {}
    for node in graph:
        sources = [layouts[value] for value in node.inputs if value in layouts]
        (output, *others) = node.outputs
        if node.op_type == "Conv" and _has_image_kernel(node) and not others:
            channels, group = len(array(node.inputs[1])), attribute(node, "group", 1)
            if group == 1:
                layout = [*range(channels), *[-1] * (-channels % BLOCK)]
            elif _is_depthwise(node):
                layout = sources[0] if sources else None
            elif sources:
                return None
            else:
                continue
        elif not sources:
            continue
        elif node.op_type == "Concat" and attribute(node, "axis") == 1:
            layout = _joined(node.inputs, layouts)
        elif node.op_type in (
            "Relu",
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "Add",
            "Mul",
            "Squeeze",
            "Flatten",
        ):
            layout = sources[0]
            rank = [len(value.shape) for value in node.inputs if value in layouts and value.shape is not None]
            moving = [
                value for value in node.inputs if value not in layouts and array(value) is None and value is not None
            ]
            if any(source != layout for source in sources) or moving or len(rank) != len(sources):
                return None
            if node.op_type == "Add" and _offsets_zeros(node, layouts) or _repeats_channel(node, layout, layouts):
                return None
        elif (
            node.op_type in ("MatMul", "Gemm") and array(node.inputs[1]) is not None and _is_of_channels(node, layouts)
        ):
            continue
        else:
            return None
        if layout is not None and -1 in layout:
            if output.is_graph_output():
                return None
            layouts[output] = layout
    return layouts


def _is_of_channels(node: ir.Node, layouts: dict[ir.Value, list[int]]) -> bool:
    """Whether a product of matrices sums over channels: over the last axis of (B, C), and not of an image."""
    source = node.inputs[0]
    return (
        source in layouts and source.shape is not None and len(source.shape) == 2 and not attribute(node, "transA", 0)
    )


def _offsets_zeros(node: ir.Node, layouts: dict[ir.Value, list[int]]) -> bool:
    """Whether a sum would lift channels of zeros: a constant that is no constant of each channel."""
    return any(array(value) is not None and array(value).ndim < 3 for value in node.inputs if value not in layouts)


def _repeats_channel(node: ir.Node, layout: list[int], layouts: dict[ir.Value, list[int]]) -> bool:
    """Whether a constant has more channels than the tensor, whose one channel it repeats."""
    constants = [array(value) for value in node.inputs if value not in layouts]
    return any(
        known is not None and known.ndim > 2 and known.shape[-3] not in (1, max(layout) + 1) for known in constants
    )


def _joined(values: Sequence[ir.Value], layouts: dict[ir.Value, list[int]]) -> list[int] | None:
    """The layout of a concatenation, whose real channels are numbered through."""
    layout, before = [], 0
    for value in values:
        if value.shape is None or not isinstance(value.shape[1], int):
            return None
        own = layouts.get(value, range(value.shape[1]))
        layout += [channel + before if channel >= 0 else -1 for channel in own]
        before += value.shape[1]
    return layout


def _spread(content: np.ndarray, layout: Sequence[int], axis: int) -> np.ndarray:
    """A constant with its channels where a layout has them, and zeros elsewhere."""
    channels = np.asarray(layout)
    spread = np.zeros((*content.shape[:axis], len(channels), *content.shape[axis + 1 :]), content.dtype)
    places = [slice(None)] * axis + [channels >= 0]
    spread[tuple(places)] = np.take(content, channels[channels >= 0], axis)
    return spread


# ---- convolutions ----


def _bias(node: ir.Node) -> np.ndarray:
    """(channels,) of a convolution; zeros where it has none."""
    given = array(node.inputs[2]) if len(node.inputs) > 2 else None
    return np.zeros(len(array(node.inputs[1]))) if given is None else given.astype("float64")


def _convolution(
    node: ir.Node,
    source: ir.Value,
    kernel: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    shape: Any = None,
    **options: Any,
) -> ir.Value:
    """The output of a convolution like `node`, put before it, of another source, with what else is given changed."""
    attributes = {name: found.value for name, found in node.attributes.items()} | options
    inputs = [source, *node.inputs[1:]]
    if kernel is not None:
        inputs = [source, constant(node.graph, kernel.astype("float32"))]
        inputs += [constant(node.graph, bias.astype("float32"))] if bias.any() else []
    return insert(node, "Conv", inputs, attributes, shape)


REWRITES = {
    "fold-affine": fold_affine,
    "fold-padding": fold_padding,
    "pick-pixels": pick_pixels,
    "add-halves": add_halves,
    "rectify-states": rectify_states,
    "merge-sums": merge_sums,
    "merge-depthwise": merge_depthwise,
    "align-channels": align_channels,
}
DEFAULT = ("fold-affine", "fold-padding", "pick-pixels", "add-halves", "rectify-states", "align-channels")
