"""Verification of an exported file: a plain inference graph whose logits are those of the Keras model."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime

from sharpkeras.errors import ConfigError, DataError, NumericalError, VerificationError
from sharpkeras.io.onnx_files import first_line, onnx_messages
from sharpkeras.measure.cost import einsum

BATCH_SIZES = (1, 3, 17)

RANDOM = [
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
]
BLOCKS = ["SpaceToDepth", "DepthToSpace"]  # how converters write a dilation that they did not recognise


def structural_problems(onnx_model: onnx.ModelProto) -> list[str]:
    """Reasons why a model is no plain inference graph, one sentence each; empty if it is one."""
    problems, made_by = [], {output: node for node in onnx_model.graph.node for output in node.output}
    try:
        onnx.checker.check_model(onnx_model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and those of protobuf
        problems.append(f"the ONNX check fails: {first_line(error)}")
    for message in onnx_messages(onnx_model):
        if message.DESCRIPTOR.name == "TensorProto" and message.external_data:
            problems.append(f"the data of {message.name} lie in another file")
        if message.DESCRIPTOR.name != "NodeProto":
            continue
        if message.domain not in ("", "ai.onnx"):
            problems.append(f"{message.op_type} {message.name} is of the domain {message.domain}")
        if message.op_type in RANDOM:
            problems.append(f"{message.op_type} {message.name} is random")
        if message.op_type in BLOCKS and _turns_batch(message, made_by):
            problems.append(f"{message.op_type} {message.name} stands for a dilation, which belongs into the Conv")
        if message.op_type == "BatchNormalization" and len(message.output) > 1:
            problems.append(f"{message.op_type} {message.name} is in training mode")
    for name, rank, values in (("images", 4, onnx_model.graph.input), ("logits", 2, onnx_model.graph.output)):
        found = [(value.name, value.type.tensor_type) for value in values]
        static = [[dim.HasField("dim_value") for dim in tensor.shape.dim] for _, tensor in found]
        if [seen for seen, _ in found] != [name] or static != [[False] + [True] * (rank - 1)]:
            problems.append(f"expected one tensor {name} of rank {rank}, free in its batch alone, found {found}")
    return problems


def _turns_batch(node: onnx.NodeProto | None, made_by: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether what a node reads has been turned so that its blocks go into the batch, and are no channels of images."""
    while node is not None and node.op_type in (*BLOCKS, "Pad"):
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "Transpose":
        return False
    return next((list(entry.ints)[0] for entry in node.attribute if entry.name == "perm"), -1) != 0


def conv_dense_addmults(onnx_model: onnx.ModelProto) -> int | None:
    """Multiply-adds of a graph's convolutions and products of matrices for one image, without bias.

    It counts what `measure.cost` does, from the other end: the shapes that ONNX Runtime computes with. None where an
    operator hides such work, or where that does not compute it.
    """
    nodes = [node for node in onnx_model.graph.node if node.op_type in MULTIPLY_ADDS]
    operators = {message.op_type for message in onnx_messages(onnx_model) if message.DESCRIPTOR.name == "NodeProto"}
    if operators & set(HIDDEN):
        return None
    try:
        shapes = _shapes(onnx_model, {name for node in nodes for name in (*node.input[:2], node.output[0])})
    except Exception:  # ONNX Runtime's exceptions have no common base; `open_session` tells what it refuses
        return None
    total = 0
    for node in nodes:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        inputs, output = [shapes[name] for name in node.input[:2]], shapes[node.output[0]]
        total += MULTIPLY_ADDS[node.op_type](*inputs, output, attributes)
    return total


def _shapes(onnx_model: onnx.ModelProto, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Name → the shape that a tensor has when the graph computes one image."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx_model.graph.initializer}
    telling = onnx.ModelProto.FromString(onnx_model.SerializeToString())
    computed = sorted(names - shapes.keys() - {value.name for value in telling.graph.input})
    del telling.graph.output[:]
    telling.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    feed = {}
    for value in telling.graph.input:
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        feed[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        shapes[value.name] = tuple(shape)
    arrays = session(telling.SerializeToString(), as_it_is=True).run(computed, feed) if computed else []
    return shapes | {name: array.shape for name, array in zip(computed, arrays)}


MULTIPLY_ADDS: dict[
    str, Callable[..., int]
] = {  # operator → (shapes of its first two inputs, of its output, attributes) → their number
    "Conv": lambda _, kernel, output, attributes: math.prod(output) * math.prod(kernel[1:]),
    "ConvTranspose": lambda source, kernel, _, attributes: math.prod(source) * math.prod(kernel[1:]),
    "MatMul": lambda first, _, output, attributes: math.prod(output) * first[-1],
    "Gemm": lambda first, _, output, attributes: math.prod(output) * first[0 if attributes.get("transA") else 1],
    "Einsum": lambda first, second, _, attributes: einsum(attributes["equation"].decode(), [first, second]),
}
HIDDEN = [  # operators that multiply and add, or may, in ways that are not counted
    *("DFT", "DeformConv", "Det", "GRU", "LSTM", "RNN", "STFT"),
    *("If", "Loop", "Scan", "SequenceMap"),
]


def session(source: str | os.PathLike[str] | bytes, as_it_is: bool = False) -> onnxruntime.InferenceSession:
    """A file, or a model as bytes, in ONNX Runtime on the CPU, which speeds its graph up, or leaves it `as_it_is`."""
    options = onnxruntime.SessionOptions()
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # Keras computes on the same cores
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def open_session(onnx_model: onnx.ModelProto, path: str | os.PathLike[str]) -> onnxruntime.InferenceSession:
    """The written file in ONNX Runtime, which is given it only if its structure is plain.

    Raises:
        VerificationError: with the structural problems, or what ONNX Runtime says.
    """
    problems = structural_problems(onnx_model)
    if problems:
        raise VerificationError(f"not a plain inference graph: {problems[0]}", seen="; ".join(problems[1:]) or None)
    try:
        return session(path)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise VerificationError("ONNX Runtime refuses the file", seen=first_line(error)) from error


def agreement_cases(shape: Sequence[int], dtype: str, images: np.ndarray | None) -> dict[str, np.ndarray]:
    """Test images by kind, as many as the largest batch has: noise, constant ones of rising brightness, real ones.

    Args:
        shape: (H, W, C).
        dtype: "float32", of preprocessed images, or "uint8".
        images: (N, H, W, C) of that type, or None.

    Raises:
        DataError: if the real images do not fit the model.
    """
    if images is not None and (images.dtype != dtype or images.shape[1:] != tuple(shape) or not len(images)):
        seen, allowed = f"{images.dtype} {images.shape}", f"{dtype} (N, {', '.join(map(str, shape))}), N > 0"
        raise DataError("the images do not fit the model", seen=seen, allowed=allowed)
    generator, count = np.random.default_rng(0), max(BATCH_SIZES)
    noise: np.ndarray
    if dtype == "uint8":
        noise, brightness = generator.integers(0, 256, (count, *shape), dtype="uint8"), np.linspace(0, 255, count)
    else:
        noise, brightness = generator.standard_normal((count, *shape), dtype="float32"), np.linspace(-1, 1, count)
    cases = {"noise": noise, "constant": np.tile(brightness.astype(dtype).reshape(count, 1, 1, 1), (1, *shape))}
    return cases if images is None else cases | {"real": images[np.arange(count) % len(images)]}


def check_agreement(
    expected: Mapping[str, np.ndarray],
    session: onnxruntime.InferenceSession,
    cases: Mapping[str, np.ndarray],
    tolerance: float,
    next_step: str | None = None,
) -> dict[str, Any]:
    """Compare the file's logits with the model's on all cases and batch sizes; return the largest differences.

    Args:
        expected: kind → (N, classes), the model's answers to the cases, as `expected_logits` gives them.
        next_step: what to try where they differ.

    Raises:
        VerificationError: if one exceeds the tolerance or a clear answer changes; names the worst image.
    """
    results, size_of = {}, sizes(np.concatenate(list(expected.values())))
    for kind, images in cases.items():
        for number in BATCH_SIZES:
            received = logits(session, images[:number])
            results[kind, number] = compare(expected[kind][:number], received, tolerance, size_of)
    worst = max(results, key=lambda case: results[case]["relative_difference"])
    relative = results[worst]["relative_difference"]
    if relative > tolerance or any(result["changed_answers"] for result in results.values()):
        kind, size = worst
        image = f"{kind} image {results[worst]['worst_image']} in a batch of {size}"
        raise VerificationError(
            f"the file disagrees with the Keras model, most on {image}",
            seen=f"a difference of {results[worst]['largest_difference']:.3g}, {relative:.3g} of the logit's size",
            allowed=f"{tolerance:g} of the logit's size",
            next_step=next_step,
        )
    return {
        "largest_difference": max(result["largest_difference"] for result in results.values()),
        "relative_difference": relative,
        "tolerance": tolerance,
        "batch_sizes": list(BATCH_SIZES),
        "compared_on": list(cases),
        "clear_answers": sum(result["clear_answers"] for result in results.values()),
    }


def expected_logits(model: keras.Model, cases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The Keras model's logits (B, classes) for each kind of test images, from one pass over all of them.

    The model runs eagerly: the traced graph is what was converted and could hide its own mistakes. Its answer to an
    image does not depend on the batch; that of a file might, so only the file is given several sizes.

    Raises:
        ConfigError: if the model's output is not one float32 tensor (batch, classes).
        NumericalError: if the logits are not finite.
    """
    with keras.StatelessScope():  # in which a model that counts its calls stays as it is
        answers = model(np.concatenate(list(cases.values())), training=False)
    seen = keras.tree.map_structure(lambda tensor: f"{tensor.dtype.name} of rank {tensor.ndim}", answers)
    if seen != "float32 of rank 2":
        allowed = "one tensor (batch, classes), float32 of rank 2"
        raise ConfigError("the model has another output than logits", seen=seen, allowed=allowed)
    expected = keras.ops.convert_to_numpy(answers)
    if not np.isfinite(expected).all():
        raise NumericalError("the Keras model's own logits are not finite", next_step="export another checkpoint")
    ends = np.cumsum([len(images) for images in cases.values()])
    return dict(zip(cases, np.split(expected, ends[:-1])))


def logits(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Logits (B, classes) of the file for images (B, H, W, C)."""
    return session.run(["logits"], {"images": images})[0]


def sizes(logits: np.ndarray) -> np.ndarray:
    """Size (classes,) of the logits (B, classes) of each class, which differences are relative to.

    The largest |logit| of the class, but no less than the median of the classes: a class whose logits are all small is
    as exact as the others, and one that a huge number masks leaves them no room.
    """
    largest = np.abs(logits).max(axis=0)
    found = np.maximum(largest, np.median(largest))
    return np.where(found > 0, found, largest.max() or 1.0)


def compare(
    expected: np.ndarray, received: np.ndarray, tolerance: float = 1e-4, size_of: np.ndarray | None = None
) -> dict[str, Any]:
    """Differences between the file's logits and the model's on one batch.

    Args:
        expected, received: (B, classes), of the model and of the file.
        tolerance: as in `export_onnx`. An answer is clear, and must not change, where the best class leads the
            second by more than five times what the two may differ by.
        size_of: (classes,), as `sizes` gives them; None takes those of this batch.

    Returns:
        `largest_difference`, `relative_difference` (to the logit's size; infinite if a logit of the file is not
        finite), `worst_image` (its index), `clear_answers` and `changed_answers` (numbers of images).
    """
    size_of = sizes(expected) if size_of is None else size_of
    difference = np.nan_to_num(np.abs(expected - received), nan=np.inf)
    relative = (difference / size_of).max(axis=1)  # (B,)
    ranked = np.argsort(expected, axis=1)[:, -2:]  # (B, 2), second and best
    leads = np.diff(np.take_along_axis(expected, ranked, axis=1)).sum(axis=1)
    clear = leads > 5 * tolerance * size_of[ranked].sum(axis=1)
    return {
        "largest_difference": float(difference.max()),
        "relative_difference": float(relative.max()),
        "worst_image": int(relative.argmax()),
        "clear_answers": int(clear.sum()),
        "changed_answers": int((clear & (expected.argmax(axis=1) != received.argmax(axis=1))).sum()),
    }
