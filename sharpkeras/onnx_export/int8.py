"""int8: static, per channel, calibrated on images of training; with what it costs, and where."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import qdq_loss_debug

from sharpkeras.errors import DataError
from sharpkeras.onnx_export.graph_editing import quiet

FEWEST_IMAGES = 100  # that ranges of activations can be told from
LARGEST_OVERLAP = 0.01  # of the calibration images that are test images too; more than that is no accident
BATCH_SIZE = 16
COMPARED_IMAGES = 16  # on which the loss of each layer is measured
WORST_LAYERS = 5
# Bits of weights → whether ONNX Runtime takes half their range, -64 to 64: two products are then never cut off, which
# `measure.saturation` tells of the file.
WEIGHT_BITS = {7: True, 8: False}


def calibration_images(images: np.ndarray, test_images: np.ndarray) -> np.ndarray:
    """The images that are no test images.

    Args:
        images, test_images: (N, H, W, C) and (M, H, W, C).

    Raises:
        DataError: if they are test images, or fewer than 100.
    """
    tested = {image.tobytes() for image in np.asarray(test_images)}
    kept = np.array([image for image in np.asarray(images) if image.tobytes() not in tested])
    shared = len(images) - len(kept)
    if shared > LARGEST_OVERLAP * len(images):
        allowed = "images of training alone; an int8 network that knows the test images has no test error"
        problem, next_step = "the calibration images are test images", "take the test images out of those of training"
        raise DataError(problem, seen=f"{shared} of {len(images)}", allowed=allowed, next_step=next_step)
    if len(kept) < FEWEST_IMAGES:
        problem, allowed = "too few images to calibrate on", f"at least {FEWEST_IMAGES}"
        next_step = "raise `calibration_images`, or leave out `precision=int8` where the training has no more"
        raise DataError(problem, where="`calibration_images`", seen=len(kept), allowed=allowed, next_step=next_step)
    return kept


def quantize(model: onnx.ModelProto, images: np.ndarray, weight_bits: int = 7) -> onnx.ModelProto:
    """An `onnx.ModelProto` whose convolutions compute in int8, in QuantizeLinear and DequantizeLinear (QDQ).

    Weights are int8 with a scale for each output channel, activations uint8, their ranges those on the images.

    Args:
        model: a float32 `onnx.ModelProto` with an input `images`.
        images: (N, H, W, C) as it takes them.
        weight_bits: 7, or 8 for processors that do not cut off sums of products.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        plain, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, plain)  # a model that is handed over itself is left without its weights
        quantization.quantize_static(
            plain,
            path,
            _Batches(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=WEIGHT_BITS[weight_bits],
        )
        quantized = onnx.load(path)
    for tensor in quantized.graph.initializer:
        if tensor.name.endswith("_scale") and tensor.data_type == onnx.TensorProto.FLOAT:
            scale = onnx.numpy_helper.to_array(tensor)
            if not scale.all():  # of channels that are zero throughout, by which ONNX Runtime would divide
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(scale == 0, np.float32(1), scale), tensor.name))
    return quantized


def worst_layers(model: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray) -> list[dict[str, Any]]:
    """The layers whose outputs lose most to int8, worst first: a list of {"layer", "signal_to_noise_db"}.

    The signal is the layer's output in float32, the noise what it is apart from that in int8, with all that the layers
    before it have lost.

    Args:
        model, quantized: the `onnx.ModelProto` before and after `quantize`.
        images: (N, H, W, C) as they take them.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name, network in (("float", model), ("int8", quantized)):
            plain, open_ = Path(folder, f"{name}.onnx"), Path(folder, f"{name}-open.onnx")
            onnx.save(network, plain)
            qdq_loss_debug.modify_model_output_intermediate_tensors(plain, open_)
            found[name] = qdq_loss_debug.collect_activations(open_, _Batches(images[:COMPARED_IMAGES]))
    matching = qdq_loss_debug.create_activation_matching(found["int8"], found["float"])
    losses = [
        {"layer": name, "signal_to_noise_db": round(float(_ratio_db(pair["float"], pair["post_qdq"])), 1)}
        for name, pair in matching.items()
        if pair.get("float") is not None and name != "images"
    ]
    return sorted(losses, key=lambda loss: loss["signal_to_noise_db"])[:WORST_LAYERS]


def _ratio_db(expected: Any, received: Any) -> float:
    """Signal to noise in decibels, over the images of all batches."""
    expected, received = (np.concatenate([np.ravel(part) for part in parts]) for parts in (expected, received))
    signal: Any = np.linalg.norm(expected)
    noise: Any = np.linalg.norm(expected - received)
    return 20 * np.log10(max(signal, 1e-12) / max(noise, 1e-12))


class _Batches(quantization.CalibrationDataReader):
    """Images in batches, as ONNX Runtime asks for them; the last ones only where they fill a batch."""

    def __init__(self, images: np.ndarray) -> None:
        size = min(BATCH_SIZE, len(images))
        ends = range(size, len(images) + 1, size)
        self._batches = iter([{"images": images[end - size : end]} for end in ends])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)
