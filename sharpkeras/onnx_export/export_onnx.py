"""Keras → ONNX, refused unless the file's structure is plain and its answers are the model's."""

import contextlib
import importlib
import json
import os
import sys
import time
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np

from sharpkeras.errors import ConfigError, DataError, RunError, UsageError, VerificationError
from sharpkeras.io import atomic_writes
from sharpkeras.measure import saturation
from sharpkeras.measure.machine import device_name

OPSETS = range(13, 19)  # the table of tf2onnx 1.17 ends at 18
HALF_TOLERANCE = 2e-2  # eleven bits in each of some hundred operators in a row
LEAST_OF_TOP_1 = 0.99  # of what the network has in float32 that an int8 file has to keep
AFTER_A_DIFFERENCE = {  # whether the graph is rewritten → what to try where the file disagrees
    True: "`optimize=False`, which leaves the graph as it is converted; and please report it",
    False: "please report it, with the file that was kept",
}
NOT_IN_HALF = "leave out `precision=float16`"
AFTER_A_LOSS = {  # bits of weights → what to try where int8 loses too much
    7: "raise `calibration_images`; or `weight_bits=8`, for x86 with VNNI and ARM alone; or leave out `precision=int8`",
    8: "raise `calibration_images`; or `weight_bits=7` where this processor has no VNNI; or leave out `precision=int8`",
}
PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnx_ir", "onnxruntime")


def export_onnx(
    model,
    path,
    *,
    opset=17,
    images=None,
    test=None,
    calibration=None,
    weight_bits=7,
    half=False,
    metadata=None,
    overwrite=False,
    tolerance=1e-4,
    optimize=True,
    addmults=None,
):
    """Writes `path` (`.onnx`) and a report beside it (`.json`), or neither of them.

    The file has one input `images` (batch, H, W, C) with a free batch size, of the model's own type: float32,
    preprocessed, or uint8 of a model `with_preprocessing`; and one output `logits` (batch, classes). It is written
    aside, read back by ONNX Runtime, compared with the model, and only then given its name.

    Args:
        model: a built Keras model with one image input and one output of logits, computing in float32.
        path: where the file shall be.
        opset: ONNX operator set, 13 to 18.
        images: (N, H, W, C), real images as the model gets them, compared besides noise and constant images.
        test: (images, labels), on which the file's top-1 is reported beside the model's; needed for int8.
        calibration: (N, H, W, C), images of training; with them the file computes in int8.
        weight_bits: of int8: 7, right on every processor, or 8, on x86 with VNNI and on ARM alone (see
            `measure.saturation`).
        half: whether the file computes in float16, for GPUs, which has to agree within 2 % of the logits' size.
        metadata: what else than the hash of the weights the file and the report shall tell (architecture, classes,
            preprocessing, cost), as JSON.
        overwrite: whether files that are already there may be replaced.
        tolerance: largest difference of logits allowed, relative to their size (see `verification.sizes`).
        optimize: whether the graph is rewritten for inference (see `rewrites`), which changes no answer.
        addmults: of the model's convolutions and dense layers for one image, where they are known; the file's own
            count, before its rewrites and where there is one, has to be the same.

    Returns:
        The report, as a dictionary.

    Raises:
        UsageError: if the opset is not supported, the path does not end in `.onnx`, int8 and float16 are both meant, or
            weights have other bits.
        RunError: if a file is there already, or the directory can not be written to.
        ResourceError: if the disk is full.
        ConfigError: if the backend is not TensorFlow, a package is missing, or the model is of another form.
        DataError: if the images do not fit the model, or int8 can not be calibrated on them.
        NumericalError: if the model's logits are not finite.
        VerificationError: if an operator can not be converted, or if the file is not plain, disagrees with the model,
            has lost more than 1 % of the top-1 to int8, or had none, or has sums that could be cut off though its
            weights have 7 bits; it is kept as `<name>.rejected.onnx`, or the converter's words as
            `<name>.conversion.log`.
    """
    path = Path(path)
    check_destination(path, opset, overwrite)
    if half and calibration is not None:
        raise UsageError("a file is in int8 or in float16", seen="half and calibration images", allowed="one of them")
    require_packages()
    from sharpkeras.onnx_export import conversion, int8, rewrites, verification  # which need the packages

    if weight_bits not in int8.WEIGHT_BITS:
        allowed = list(int8.WEIGHT_BITS)
        raise UsageError("weights of int8 have no such bits", where="`weight_bits`", seen=weight_bits, allowed=allowed)

    metadata = (metadata or {}) | {"weights_sha256": weights_hash(model)}
    properties = as_properties(metadata)
    shape = conversion.image_shape(model)
    cases = verification.agreement_cases(shape, conversion.input_dtype(model), images)
    expected = verification.expected_logits(model, cases)
    start = time.monotonic()
    onnx_model = conversion.convert(model, shape, opset, path.with_suffix(".conversion.log"))
    converted_nodes, counted = len(onnx_model.graph.node), verification.conv_dense_addmults(onnx_model)
    if None not in (addmults, counted) and addmults != counted:
        problem = "the file has other convolutions and dense layers than the model"
        raise VerificationError(problem, where=path, seen=f"{counted} multiply-adds", allowed=addmults)
    if optimize:
        onnx_model = rewrites.optimize(onnx_model)
    onnx_model = conversion.tidy(onnx_model, model.name, properties)
    report = metadata | {
        "file": path.name,
        "opset": opset,
        "precision": "float32",
        "nodes_before_rewrites": converted_nodes,
        "addmults_conv_dense_of_file": counted,
        "rewrites": list(rewrites.DEFAULT) if optimize else [],
        "input_shape": [None, *shape],
        "convert_seconds": round(time.monotonic() - start, 2),
        "versions": {name: sys.modules[name].__version__ for name in ("keras", *PACKAGES)},
    }
    with _written_aside(path) as aside:
        session = _opened(onnx_model, aside)
        agreement = verification.check_agreement(
            expected, session, cases, tolerance, AFTER_A_DIFFERENCE[bool(optimize)]
        )
        if half:
            onnx_model, session, in_half = _to_half(onnx_model, aside)
            for computed in (session, in_half):  # the second is reported
                agreement = verification.check_agreement(expected, computed, cases, HALF_TOLERANCE, NOT_IN_HALF)
            report["precision"] = "float16"
        if test is not None:
            agreement["accuracy"] = _accuracy(model, session, test)
        if calibration is not None:
            onnx_model, lost = _to_int8(onnx_model, session, aside, calibration, test, weight_bits)
            agreement = {"before_int8": agreement}
            report |= {"precision": "int8", "quantization": lost}
        report |= agreement
        content = aside.read_bytes()
        report |= {"bytes": len(content), "sha256": sha256(content).hexdigest(), "nodes": len(onnx_model.graph.node)}
        atomic_writes.write_through(aside.with_suffix(".json"), json.dumps(report, indent=2).encode())
    return report


@contextlib.contextmanager
def _written_aside(path):
    """The place of a file that gets its name, with its report, at the end; `.rejected.onnx` where it is refused."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial.onnx")
    rejected = path.with_name(f"{path.stem}.rejected.onnx")
    try:
        with atomic_writes.disk_errors(path):
            yield aside
            os.replace(aside, path)
            os.replace(aside.with_suffix(".json"), path.with_suffix(".json"))
            for of_before in (rejected, path.with_suffix(".conversion.log")):
                of_before.unlink(missing_ok=True)
    except VerificationError as error:
        error.where = rejected
        os.replace(aside, error.where)
        raise
    finally:
        aside.unlink(missing_ok=True)
        aside.with_suffix(".json").unlink(missing_ok=True)


def _accuracy(model, session, test):
    """Top-1 of the Keras model and of its file, side by side."""
    from sharpkeras.onnx_export import answers

    images, labels = test
    return answers.beside(answers.of_model(model, images), answers.of_file(session, images), labels, ("keras", "file"))


def _to_half(onnx_model, aside):
    """The model in float16, written in the place of the one in float32; its session, and one that rounds as a GPU."""
    from sharpkeras.onnx_export import verification
    from sharpkeras.onnx_export.float16 import rounded, to_half

    halved = _tidied_like(onnx_model, to_half(onnx_model))
    return halved, _opened(halved, aside), verification.session(rounded(onnx_model).SerializeToString())


def _to_int8(onnx_model, session, aside, calibration, test, weight_bits):
    """The model in int8, written in the place of the one in float32, and what it has lost.

    Raises:
        DataError: if there are no test images, or the others can not calibrate.
        VerificationError: if sums could be cut off though the weights have 7 bits, or if less than 99 % of the top-1 is
            left; names both and the layers that lose most.
    """
    from sharpkeras.onnx_export import answers, int8

    if test is None:
        problem, next_step = "no int8 file without its measured accuracy", "leave out `precision=int8`"
        raise DataError(problem, where="`precision`", allowed="with test images", next_step=next_step)
    images, labels = test
    kept = int8.calibration_images(calibration, images)
    quantized = _tidied_like(onnx_model, int8.quantize(onnx_model, kept, weight_bits))
    in_int8 = _opened(quantized, aside)
    sums = _sums_that_fit(quantized, weight_bits)
    before, after = (answers.of_file(s, images) for s in (session, in_int8))
    report = {"weight_bits": weight_bits} | sums | answers.beside(before, after, labels, ("float32", "int8"))
    report |= {"measured_on": device_name(), "calibration_images": len(kept)}
    report |= {"worst_layers": int8.worst_layers(onnx_model, quantized, kept)}
    left, all_right = np.mean(after == labels), np.mean(before == labels)
    if left < LEAST_OF_TOP_1 * all_right or not all_right:
        worst = ", ".join(f"{row['layer']} ({row['signal_to_noise_db']} dB)" for row in report["worst_layers"])
        raise VerificationError(
            "int8 loses too much",
            seen=f"test error {report['int8']['text']}; {report['mcnemar']}; most is lost in {worst}",
            allowed=f"{LEAST_OF_TOP_1:.0%} of the top-1 in float32 (not 0), whose error is {report['float32']['text']}",
            next_step=AFTER_A_LOSS[weight_bits] if all_right else "train the network until it is right at times",
        )
    return quantized, report


def _sums_that_fit(quantized, weight_bits):
    """What `saturation.verdict` says of the file: where its weights have 7 bits, that nothing is cut off."""
    found = saturation.verdict(quantized)
    if found["could_saturate"] and weight_bits < 8:
        raise VerificationError(
            "sums of the int8 file could be cut off on x86 without VNNI",
            seen=f"two products that add up to {found['largest_sum']:,}",
            allowed=f"at most {saturation.LARGEST_FITTING:,}",
            next_step="`weight_bits=8`, for x86 with VNNI and for ARM alone, or leave out `precision=int8`",
        )
    return found


def _opened(onnx_model, aside):
    """Writes a model and opens it, with all that `verification.open_session` refuses."""
    from sharpkeras.onnx_export import verification

    atomic_writes.write_through(aside, onnx_model.SerializeToString())
    return verification.open_session(onnx_model, aside)


def _tidied_like(onnx_model, other):
    """Another precision of a model, with its name and metadata."""
    from sharpkeras.onnx_export import conversion

    properties = {entry.key: entry.value for entry in onnx_model.metadata_props}
    return conversion.tidy(other, onnx_model.graph.name, properties)


# ---- what can be refused before the work ----


def check_destination(path, opset, overwrite):
    """Raises UsageError or RunError."""
    if opset not in OPSETS:
        allowed = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise UsageError("this opset is not supported", where="`opset`", seen=opset, allowed=allowed)
    if path.suffix != ".onnx":
        raise UsageError("an exported model ends in .onnx", seen=str(path), allowed="NAME.onnx")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunError("the directory does not exist or can not be written to", where=path.parent)
    for present in (path, path.with_suffix(".json")):
        if present.is_dir() or (present.exists() and not overwrite):
            raise RunError("exists already", where=present, next_step="choose another path, or use `overwrite`")


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


def weights_hash(model):
    """SHA-256 of all weights of a Keras model, in its own order: files of the same network have the same."""
    digest = sha256()
    for variable in model.weights:  # without the state of a dropout
        digest.update(atomic_writes.checksum(keras.ops.convert_to_numpy(variable)).encode())
    return digest.hexdigest()


def as_properties(metadata):
    """Metadata in the form that the ONNX file keeps: each value as a JSON string."""
    try:
        return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("the metadata is no JSON", seen=str(error), allowed="strings, finite numbers") from error
