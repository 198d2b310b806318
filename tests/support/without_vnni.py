"""What an int8 file answers on x86 without VNNI, in NumPy: for tests on processors that have it.

There VPMADDUBSW adds the products of two neighbouring activations and weights in 16 bits and cuts off what does not
fit; the pairs are then added in 32 bits. ONNX Runtime multiplies so in convolutions and matrix products, but not in
depthwise convolutions (`MlasConvDepthwiseKernelAvx2`, which multiplies in 16 bits and adds in 32). Neighbours are along
the rows, columns and then channels of a kernel.
"""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator


def product(activations, weights, saturates):
    """(N, K) uint8 times (K, M) int8 → (N, M) sums in 32 bits, each pair of products in 16 where it saturates."""
    activations, weights = (np.asarray(operand).astype("int32") for operand in (activations, weights))
    if not saturates:
        return (activations.astype("float64") @ weights).astype("int32")  # exact below 2**53, and faster
    if activations.shape[1] % 2:
        activations, weights = np.pad(activations, [(0, 0), (0, 1)]), np.pad(weights, [(0, 1), (0, 0)])
    total = np.zeros((len(activations), weights.shape[1]), "int32")
    for k in range(0, len(weights), 2):
        pair = activations[:, k, None] * weights[k] + activations[:, k + 1, None] * weights[k + 1]
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return total


def windows(images, fill, size, pads=(0, 0, 0, 0), strides=(1, 1), dilations=(1, 1)):
    """(N, C, H, W) → (N, C, H', W', h, w), the pixels below a kernel at each of its places."""
    top, left, bottom, right = pads
    padded = np.pad(images, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=fill)
    reach = [1 + dilation * (length - 1) for dilation, length in zip(dilations, size)]
    found = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return found[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def convolution(images, zero, kernel, saturates, group=1, **places):
    """(N, C, H, W) uint8 with the zero point `zero` by (M, C / group, h, w) int8 → (N, M, H', W') sums in 32 bits."""
    below = windows(images, zero, kernel.shape[2:], **places)
    count, _, height, width = below.shape[:4]
    depthwise, results = kernel.shape[1] == 1 and group > 1, []
    for part, filters in zip(np.split(below, group, axis=1), np.split(kernel, group)):
        rows = part.transpose(0, 2, 3, 4, 5, 1).reshape(count * height * width, -1)  # (positions, h * w * C)
        columns = filters.transpose(2, 3, 1, 0).reshape(-1, len(filters))
        sums = product(rows, columns, saturates and not depthwise)
        sums -= int(zero) * columns.astype("int32").sum(axis=0)  # of signed activations, exactly
        results.append(sums.reshape(count, height, width, -1))
    return np.concatenate(results, axis=-1).transpose(0, 3, 1, 2)


def answers(model, images, saturates):
    """(N, classes), the `logits` of a file of `int8.quantize` for its `images`, in integers.

    Args:
        model: an `onnx.ModelProto` whose convolutions and products lie between DequantizeLinear and QuantizeLinear.
        images: as it takes them.
        saturates: whether sums of two products do.
    """
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values |= {"": None, "images": images}
    integers = {}  # value → (integers, scale, zero point) that it was made from
    for node in model.graph.node:
        inputs = [values[name] for name in node.input]
        if node.op_type == "DequantizeLinear":
            integers[node.output[0]] = inputs
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            values[node.output[0]] = _layer(node, *(integers[name] for name in node.input), saturates=saturates)
            continue
        if node.op_type == "MaxPool":  # which the reference takes minutes for
            places = _attributes(node)
            below = windows(*inputs, -np.inf, places.pop("kernel_shape"), **places)
            values[node.output[0]] = below.max(axis=(4, 5))
            continue
        fed = dict(zip(node.input, inputs))
        fed.pop("", None)
        values |= zip(node.output, ReferenceEvaluator(node, opsets={"": 17}).run(None, fed))
    return values["logits"]


def _layer(node, activations, weights, bias=None, saturates=False):
    """What a layer computes of (integers, scale, zero point) of its inputs."""
    (images, scale, zero), (kernel, scales, zeros) = activations, weights
    assert images.dtype == np.uint8 and kernel.dtype == np.int8 and not np.any(zeros)
    attributes = _attributes(node)
    if node.op_type == "Conv":
        attributes.pop("kernel_shape")
        sums, shape = convolution(images, zero, kernel, saturates, **attributes), (-1, 1, 1)
    else:
        assert not attributes
        sums, shape = product(images, kernel, saturates) - int(zero) * kernel.astype("int32").sum(axis=0), (-1,)
    if bias is not None:
        sums = sums + bias[0].reshape(shape)
    return (sums * (scale * np.reshape(scales, shape)).astype("float32")).astype("float32")


def _attributes(node):
    found = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert found.pop("auto_pad", b"NOTSET") == b"NOTSET"
    return found
