"""What a file has to be before it gets its name: a plain inference graph whose answers are those of the Keras model."""

import math

import keras
import numpy as np
import onnx
import onnxruntime

from sharpkeras.errors import ConfigError, DataError, NumericalError, VerificationError
from sharpkeras.measure.onnx_files import first_line, onnx_messages

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


def structural_problems(onnx_model):
    """What keeps a model from being a plain inference graph, one sentence each; empty if it is one."""
    problems = []
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
        if message.op_type in BLOCKS:
            problems.append(f"{message.op_type} {message.name} stands for a dilation, which belongs into the Conv")
        if message.op_type == "BatchNormalization" and len(message.output) > 1:
            problems.append(f"{message.op_type} {message.name} is in training mode")
    for name, rank, values in (("images", 4, onnx_model.graph.input), ("logits", 2, onnx_model.graph.output)):
        found = [(value.name, value.type.tensor_type) for value in values]
        static = [[dim.HasField("dim_value") for dim in tensor.shape.dim] for _, tensor in found]
        if [seen for seen, _ in found] != [name] or static != [[False] + [True] * (rank - 1)]:
            problems.append(f"expected one tensor {name} of rank {rank}, free in its batch alone, found {found}")
    return problems


def conv_dense_addmults(onnx_model):
    """Multiply-adds of a graph's convolutions and dense layers for one image, without bias.

    It counts what `measure.cost` does, from the other end: the shapes that ONNX infers. None where one is not known.
    """
    of_one = onnx.ModelProto.FromString(onnx_model.SerializeToString())
    for value in (*of_one.graph.input, *of_one.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1  # so that positions folded into the batch are known
    inferred = onnx.shape_inference.infer_shapes(of_one, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    constants = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        kernel, output = constants[node.input[1]], shapes.get(node.output[0], [])
        if 0 in output or not output:
            return None
        each = math.prod(kernel[1:]) if node.op_type == "Conv" else math.prod(kernel) // output[-1]
        total += math.prod(output) * each
    return total


def session(source):
    """A file, or a model as bytes, in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # Keras computes on the same cores
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def open_session(onnx_model, path):
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


def agreement_cases(shape, dtype, images):
    """Kind → as many images as the largest batch has: noise, constant ones of different brightness, and the real ones.

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
    if dtype == "uint8":
        noise, brightness = generator.integers(0, 256, (count, *shape), dtype="uint8"), np.linspace(0, 255, count)
    else:
        noise, brightness = generator.standard_normal((count, *shape), dtype="float32"), np.linspace(-1, 1, count)
    cases = {"noise": noise, "constant": np.tile(brightness.astype(dtype).reshape(count, 1, 1, 1), (1, *shape))}
    return cases if images is None else cases | {"real": images[np.arange(count) % len(images)]}


def check_agreement(expected, session, cases, tolerance, next_step=None):
    """What the report says about the largest differences over all cases, the file's batches of each size.

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


def expected_logits(model, cases):
    """Kind → the Keras model's logits (B, classes), from one pass over the images of all kinds.

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


def logits(session, images):
    """(B, classes) of the file for images (B, H, W, C)."""
    return session.run(["logits"], {"images": images})[0]


def sizes(logits):
    """(classes,), how large the logits (B, classes) of each class are: the size that differences are relative to.

    The largest |logit| of the class, but no less than the median of the classes: a class whose logits are all small is
    as exact as the others, and one that a huge number masks leaves them no room.
    """
    largest = np.abs(logits).max(axis=0)
    found = np.maximum(largest, np.median(largest))
    return np.where(found > 0, found, largest.max() or 1.0)


def compare(expected, received, tolerance=1e-4, size_of=None):
    """How far the file's logits are from the model's on one batch.

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
