"""Keras → ONNX, refused unless the file's structure is plain and its answers are the model's."""

import importlib
import json
import os
import sys
import time
from hashlib import sha256
from pathlib import Path

import keras

from sharpkeras import atomic
from sharpkeras.errors import ConfigError, RunError, UsageError, VerificationError

OPSETS = range(13, 19)  # the table of tf2onnx 1.17 ends at 18
PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnx_ir", "onnxruntime")


def export_onnx(model, path, *, opset=17, images=None, metadata=None, overwrite=False, tolerance=1e-4, optimize=True):
    """Writes `path` (`.onnx`) and a report beside it (`.json`), or neither of them.

    The file has one input `images` (batch, H, W, C) with a free batch size, of the model's own type: float32,
    preprocessed, or uint8 of a model `with_preprocessing`; and one output `logits` (batch, classes). It is written
    aside, read back by ONNX Runtime, compared with the model, and only then given its name.

    Args:
        model: a built Keras model with one image input and one output of logits, computing in float32.
        path: where the file shall be.
        opset: ONNX operator set, 13 to 18.
        images: (N, H, W, C) float32, real images as the model gets them, compared besides noise and constant images.
        metadata: what else the file and the report shall tell (architecture, classes, preprocessing, cost), as JSON.
        overwrite: whether files that are already there may be replaced.
        tolerance: largest difference of logits allowed, relative to the largest logit of the batch.
        optimize: whether the graph is rewritten for inference (see `rewrites`), which changes no answer.

    Returns:
        The report, as a dictionary.

    Raises:
        UsageError: if the opset is not supported, or the path does not end in `.onnx`.
        RunError: if a file is there already, or the directory can not be written to.
        ConfigError: if the backend is not TensorFlow, a package is missing, or the model is of another form.
        DataError: if the images do not fit the model.
        VerificationError: if an operator can not be converted, or if the file is not plain or disagrees with the
            model; in the last two cases it is kept as `<name>.rejected.onnx`, in the first the converter's words as
            `<name>.conversion.log`.
    """
    path, metadata = Path(path), metadata or {}
    check_destination(path, opset, overwrite)
    require_packages()
    from sharpkeras.export import conversion, gate, rewrites  # which need the packages

    properties = as_properties(metadata)
    shape = conversion.image_shape(model)
    cases = gate.agreement_cases(shape, conversion.input_dtype(model), images)
    start = time.monotonic()
    onnx_model = conversion.convert(model, shape, opset, path.with_suffix(".conversion.log"))
    converted_nodes = len(onnx_model.graph.node)
    if optimize:
        onnx_model = rewrites.optimize(onnx_model)
    onnx_model = conversion.tidy(onnx_model, model.name, properties)
    content = onnx_model.SerializeToString()
    report = metadata | {
        "file": path.name,
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "opset": opset,
        "nodes": len(onnx_model.graph.node),
        "nodes_before_rewrites": converted_nodes,
        "rewrites": list(rewrites.DEFAULT) if optimize else [],
        "input_shape": [None, *shape],
        "convert_seconds": round(time.monotonic() - start, 2),
        "versions": {name: sys.modules[name].__version__ for name in ("keras", *PACKAGES)},
    }
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial.onnx")
    try:
        atomic.write_through(aside, content)
        report |= gate.check_agreement(model, gate.open_session(onnx_model, aside), cases, tolerance)
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
            next_step = f"pip install {' '.join(PACKAGES).replace('_', '-')}"
            raise ConfigError(f"export needs the package {name}", seen=str(error), next_step=next_step) from error


def as_properties(metadata):
    """Metadata in the form that the ONNX file keeps: each value as a JSON string."""
    try:
        return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("the metadata is no JSON", seen=str(error), allowed="strings, finite numbers") from error
