"""float16: half the size, for GPUs; images and logits stay float32."""

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from sharpkeras.export.graphs import changed, quiet


def to_half(model):
    """An `onnx.ModelProto` that computes in float16 between its input and its output.

    Weights too small for float16 become its smallest numbers, those too large its largest.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    with quiet():
        halved = convert_float_to_float16(copy, keep_io_types=True)
    return changed(halved, lambda graph: None)  # whose cast of the images stands last
