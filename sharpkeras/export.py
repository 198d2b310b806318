"""Keras → ONNX, refused unless the file's structure is plain and its answers are the model's."""

import contextlib
import importlib
import json
import logging
import os
import sys
import time
from functools import partial
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np

from sharpkeras import atomic
from sharpkeras.errors import ConfigError, DataError, NumericalError, RunError, UsageError, VerificationError
from sharpkeras.measure.onnx_files import first_line, onnx_messages

OPSETS = range(13, 19)  # the table of tf2onnx 1.17 ends at 18
BATCH_SIZES = (1, 3, 17)
PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")

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


def export_onnx(model, path, *, opset=17, images=None, metadata=None, overwrite=False, tolerance=1e-4):
    """Writes `path` (`.onnx`) and a report beside it (`.json`), or neither of them.

    The file has one input `images` (batch, H, W, C), float32, preprocessed, with a free batch size, and one output
    `logits` (batch, classes). It is written aside, read back by ONNX Runtime, compared with the model, and only then
    given its name.

    Args:
        model: a built Keras model with one image input and one output of logits, computing in float32.
        path: where the file shall be.
        opset: ONNX operator set, 13 to 18.
        images: (N, H, W, C) float32, real images as the model gets them, compared besides noise and constant images.
        metadata: what else the file and the report shall tell (architecture, classes, preprocessing, cost), as JSON.
        overwrite: whether files that are already there may be replaced.
        tolerance: largest difference of logits allowed, relative to the largest logit of the batch.

    Returns:
        The report, as a dictionary.

    Raises:
        UsageError: if the opset is not supported, or the path does not end in `.onnx`.
        RunError: if a file is there already, or the directory can not be written to.
        ConfigError: if the backend is not TensorFlow, a package is missing, or the model is of another form.
        DataError: if the images do not fit the model.
        VerificationError: if an operator can not be converted, or if the file is not plain or disagrees with the
            model; in the last two cases it is kept as `<name>.rejected.onnx`.
    """
    path, metadata = Path(path), metadata or {}
    check_destination(path, opset, overwrite)
    require_packages()
    properties = as_properties(metadata)
    shape = image_shape(model)
    cases = agreement_cases(shape, images)
    start = time.monotonic()
    onnx_model = tidy(convert(model, shape, opset), model.name, properties)
    content = onnx_model.SerializeToString()
    report = metadata | {
        "file": path.name,
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "opset": opset,
        "nodes": len(onnx_model.graph.node),
        "input_shape": [None, *shape],
        "convert_seconds": round(time.monotonic() - start, 2),
        "versions": {name: sys.modules[name].__version__ for name in ("keras", *PACKAGES)},
    }
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial.onnx")
    try:
        atomic.write_through(aside, content)
        report |= check_agreement(model, open_session(onnx_model, aside), cases, tolerance)
        atomic.write_through(aside.with_suffix(".json"), json.dumps(report, indent=2).encode())
        os.replace(aside, path)
        os.replace(aside.with_suffix(".json"), path.with_suffix(".json"))
    except VerificationError as error:
        error.where = path.with_name(f"{path.stem}.rejected.onnx")
        os.replace(aside, error.where)
        raise
    except OSError as error:
        raise RunError(f"could not be written: {error.strerror}", where=path) from error
    finally:
        aside.unlink(missing_ok=True)
        aside.with_suffix(".json").unlink(missing_ok=True)
    return report


# ---- what can be refused before the work ----


def check_destination(path, opset, overwrite):
    """Raises UsageError or RunError."""
    if opset not in OPSETS:
        allowed = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise UsageError("this opset is not supported", where="--opset", seen=opset, allowed=allowed)
    if path.suffix != ".onnx":
        raise UsageError("an exported model ends in .onnx", seen=str(path), allowed="NAME.onnx")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunError("the directory does not exist or can not be written to", where=path.parent)
    for present in (path, path.with_suffix(".json")):
        if present.is_dir() or (present.exists() and not overwrite):
            raise RunError("exists already", where=present, next_step="choose another path, or use --overwrite")


def require_packages():
    """Raises ConfigError with the command that helps, unless TensorFlow is the backend and the converter is there."""
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            "export runs on the TensorFlow backend only; it takes the weights of any backend",
            where="KERAS_BACKEND",
            seen=keras.backend.backend(),
            next_step="KERAS_BACKEND=tensorflow sharpkeras export ...",
        )
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            next_step = f"pip install {' '.join(PACKAGES)}"
            raise ConfigError(f"export needs the package {name}", seen=str(error), next_step=next_step) from error


def as_properties(metadata):
    """Metadata in the form that the ONNX file keeps: each value as a JSON string."""
    try:
        return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("the metadata is no JSON", seen=str(error), allowed="strings, finite numbers") from error


def image_shape(model):
    """(H, W, C) of the model's one input.

    Raises:
        ConfigError: if there is not one image input of a static size, or the model does not compute in float32.
    """
    dtypes = sorted({layer.compute_dtype for layer in (model, *model.layers)})
    if dtypes != ["float32"]:
        next_step = "build it again under keras.config.set_dtype_policy('float32') and copy the weights"
        raise ConfigError("the model does not compute in float32", seen=dtypes, next_step=next_step)
    if getattr(model, "inputs", None):
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
    else:  # a subclassed model only knows the shape it was built with
        shapes = [tuple((model.get_build_config() or {}).get("input_shape") or ())]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        allowed = "one input (None, H, W, C) with H, W and C known"
        raise ConfigError("the model is not built for one image input", seen=shapes, allowed=allowed)
    return shapes[0][1:]


# ---- conversion ----


def convert(model, shape, opset):
    """The model at inference as an `onnx.ModelProto`.

    `model.export(format="onnx")` ends in the same call of tf2onnx and gives the same nodes in the same time, but
    names input and output its own way, refuses a model that was only built, and writes to the final path at once.
    Dilated depthwise convolutions come out as Conv with `dilations`, which `structural_problems` asserts.

    Raises:
        ConfigError: if the model's output is not one (batch, classes) tensor.
        VerificationError: if tf2onnx fails or knows no ONNX operator for one of TensorFlow's.
    """
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *shape), tf.float32, name="images")]
    function = tf.function(lambda images: {"logits": model(images, training=False)}, signature, autograph=False)
    logits = function.get_concrete_function().structured_outputs["logits"]
    if getattr(logits, "dtype", None) != tf.float32 or len(logits.shape) != 2 or logits.shape[1] is None:
        raise ConfigError("the model has another output than logits", seen=logits, allowed="float32 (None, classes)")
    with silent_converter() as complaints:
        try:
            onnx_model, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
        except Exception as error:  # whatever the handler of an operator raises
            complaints.append(f"{type(error).__name__}: {first_line(error)}")
    if complaints:  # an operator that tf2onnx does not know is only logged, and stays in the file
        raise VerificationError("the model can not be converted to ONNX", seen="; ".join(complaints))
    return onnx_model


@contextlib.contextmanager
def silent_converter():
    """Keeps tf2onnx from printing; gives the list of the errors that it logs."""
    logger, complaints = logging.getLogger("tf2onnx"), []
    handler = logging.Handler(level=logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def tidy(onnx_model, name, properties):
    """The same model with names and metadata, without doc strings (they carry local paths) and unused domains."""
    from onnx import helper

    for message in onnx_messages(onnx_model):
        if "doc_string" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("doc_string")
    used = {"", *(node.domain for node in onnx_model.graph.node)}
    for entry in [entry for entry in onnx_model.opset_import if entry.domain not in used]:
        onnx_model.opset_import.remove(entry)
    helper.set_model_props(onnx_model, properties)
    onnx_model.graph.name = name
    for value in (*onnx_model.graph.input, *onnx_model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return onnx_model


# ---- the gate ----


def structural_problems(onnx_model):
    """What keeps a model from being a plain inference graph, one sentence each; empty if it is one."""
    import onnx

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


def open_session(onnx_model, path):
    """The written file in ONNX Runtime, which is given it only if its structure is plain.

    Raises:
        VerificationError: with the structural problems, or what ONNX Runtime says.
    """
    import onnxruntime

    problems = structural_problems(onnx_model)
    if problems:
        raise VerificationError(f"not a plain inference graph: {problems[0]}", seen="; ".join(problems[1:]) or None)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # Keras computes on the same cores
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise VerificationError("ONNX Runtime refuses the file", seen=first_line(error)) from error


def agreement_cases(shape, images):
    """(kind, batch size) → images: noise, constant images of different brightness, and the real ones.

    Raises:
        DataError: if the real images do not fit the model.
    """
    if images is not None and (images.dtype != np.float32 or images.shape[1:] != tuple(shape) or not len(images)):
        seen, allowed = f"{images.dtype} {images.shape}", f"float32 (N, {', '.join(map(str, shape))}), N > 0"
        raise DataError("the images do not fit the model", seen=seen, allowed=allowed)
    generator = np.random.default_rng(0)
    cases = {}
    for size in BATCH_SIZES:
        cases["noise", size] = generator.standard_normal((size, *shape), dtype="float32")
        brightness = np.linspace(-1, 1, size, dtype="float32").reshape(size, 1, 1, 1)
        cases["constant", size] = np.tile(brightness, (1, *shape))
        if images is not None:
            cases["real", size] = images[np.arange(size) % len(images)]
    return cases


def check_agreement(model, session, cases, tolerance):
    """What the report says about the largest differences over all cases.

    Raises:
        VerificationError: if one exceeds the tolerance or a clear answer changes; names the worst image.
    """
    # Run eagerly: the traced graph is what was converted and could hide its own mistakes.
    results = {case: compare(partial(model, training=False), session, x, tolerance) for case, x in cases.items()}
    worst = max(results, key=lambda case: results[case]["relative_difference"])
    relative = results[worst]["relative_difference"]
    if relative > tolerance or any(result["changed_answers"] for result in results.values()):
        kind, size = worst
        image = f"{kind} image {results[worst]['worst_image']} in a batch of {size}"
        raise VerificationError(
            f"the file disagrees with the Keras model, most on {image}",
            seen=f"a difference of {results[worst]['largest_difference']:.3g}, {relative:.3g} of the largest logit",
            allowed=f"{tolerance:g} of the largest logit",
        )
    return {
        "largest_difference": max(result["largest_difference"] for result in results.values()),
        "relative_difference": relative,
        "tolerance": tolerance,
        "batch_sizes": list(BATCH_SIZES),
        "compared_on": list(dict.fromkeys(kind for kind, _ in cases)),
        "clear_answers": sum(result["clear_answers"] for result in results.values()),
    }


def compare(model_fn, session, images, tolerance=1e-4):
    """How far the file's logits are from the model's on one batch.

    Args:
        model_fn: images → logits (B, classes).
        session: an `onnxruntime.InferenceSession` with input `images` and output `logits`.
        images: (B, H, W, C), float32.
        tolerance: as in `export_onnx`. An answer is clear, and must not change, where the best class leads the
            second by more than ten times the allowed difference.

    Returns:
        `largest_difference`, `relative_difference` (to the largest |logit|; infinite if a logit of the file is not
        finite), `worst_image` (its index), `clear_answers` and `changed_answers` (numbers of images).

    Raises:
        NumericalError: if the model's logits are not finite.
    """
    expected = keras.ops.convert_to_numpy(model_fn(images))  # (B, classes)
    if not np.isfinite(expected).all():
        raise NumericalError("the Keras model's own logits are not finite", next_step="export another checkpoint")
    (received,) = session.run(["logits"], {"images": images})  # (B, classes)
    difference = np.nan_to_num(np.abs(expected - received), nan=np.inf).max(axis=1)  # (B,)
    scale = np.abs(expected).max() or 1.0
    ranked = np.sort(expected, axis=1)[:, -2:]  # (B, 2), second and best
    clear = ranked[:, -1] - ranked[:, 0] > 10 * tolerance * scale
    return {
        "largest_difference": float(difference.max()),
        "relative_difference": float(difference.max() / scale),
        "worst_image": int(difference.argmax()),
        "clear_answers": int(clear.sum()),
        "changed_answers": int((clear & (expected.argmax(axis=1) != received.argmax(axis=1))).sum()),
    }
