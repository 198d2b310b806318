"""Keras → ONNX, refused unless the file's structure is plain and its answers are the model's."""

import contextlib
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from sharpkeras.errors import ConfigError, DataError, ResourceError, RunError, UsageError, VerificationError
from sharpkeras.io import atomic_writes, kinds
from sharpkeras.io.hashes import sha256
from sharpkeras.measure import saturation
from sharpkeras.measure.machine import device_name, instruction_set
from sharpkeras.onnx_export import targets

if TYPE_CHECKING:
    import onnx
    import onnxruntime

OPSETS = range(13, 19)  # the table of tf2onnx 1.17 ends at 18
PRECISIONS = ("float32", "float16", "int8")  # that a file can compute in
FLOAT16_TOLERANCE = 2e-2  # eleven bits in each of some hundred operators in a row
LEAST_OF_TOP_1 = 0.99  # of what the network has in float32 that an int8 file has to keep
AFTER_A_DIFFERENCE = {  # whether the graph is rewritten → what to try where the file disagrees
    True: "`optimize=False`, which leaves the graph as it is converted; and please report it",
    False: "please report it, with the file that was kept",
}
NOT_IN_FLOAT16 = "leave out `precision=float16`"
AFTER_A_LOSS = {  # bits of weights → what to try where int8 loses too much
    7: "raise `calibration_images`; or `weight_bits=8`, for x86 with VNNI and ARM alone; or leave out `precision=int8`",
    8: "raise `calibration_images`; or `weight_bits=7` where this processor has no VNNI; or leave out `precision=int8`",
}
PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnx_ir", "onnxruntime")


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    images: np.ndarray | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
    weight_bits: int = 7,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
    tolerance: float = 1e-4,
    optimize: bool = True,
    target: str = targets.AUTO,
    addmults: int | None = None,
) -> dict[str, Any]:
    """Export a Keras model to `path` (`.onnx`) with a report beside it (`.json`), or write neither of them.

    The file has one input `images` (batch, H, W, C) with a free batch size, of the model's own type: float32,
    preprocessed, or uint8 of a model `with_preprocessing`; and one output `logits` (batch, classes). It is written
    aside, read back by ONNX Runtime, compared with the model, and only then given its name.

    Args:
        model: a built Keras model with one image input and one output of logits, computing in float32.
        path: where the file shall be.
        opset: ONNX operator set, 13 to 18.
        images: (N, H, W, C), real images as the model gets them, compared besides noise and constant images.
        test: (images, labels), on which the file's top-1 is reported beside the model's; needed for int8.
        precision: "float32"; "float16", for GPUs, which has to agree within 2 % of the logits' size; or "int8", for
            CPUs.
        calibration: (N, H, W, C), images of training, which int8 needs and nothing else takes.
        weight_bits: of int8: 7, right on every processor, or 8, on x86 with VNNI and on ARM alone (see
            `measure.saturation`).
        metadata: what else than the hash of the weights the file and the report shall tell (architecture, classes,
            preprocessing, cost), as JSON.
        overwrite: whether files that are already there may be replaced.
        tolerance: largest difference of logits allowed, relative to their size (see `verification.sizes`).
        optimize: whether the graph is rewritten for inference (see `rewrites`), which changes no answer.
        target: the processor that it is rewritten for: "avx2", "avx512", "arm" or "gpu"; or "auto", this machine,
            where float32 is rewritten by what is measured, float16 as for "gpu" and int8 as for the processor.
        addmults: of the model's convolutions and dense layers for one image, where they are known; the file's own
            count, before its rewrites and where there is one, has to be the same.

    Returns:
        The report, as a dictionary.

    Raises:
        UsageError: if the opset, the precision or the target is not supported, the path does not end in
            `.onnx`, or weights have other bits.
        RunError: if a file is there already, or the directory cannot be written to.
        ResourceError: if the disk is full.
        ConfigError: if the backend is not TensorFlow, a package is missing, or the model is of another form.
        DataError: if the images do not fit the model, or int8 cannot be calibrated on them.
        NumericalError: if the model's logits are not finite.
        VerificationError: if an operator cannot be converted, or if the file is not plain, disagrees with the model,
            has lost more than 1 % of the top-1 to int8, or had none, or has sums that could be cut off though its
            weights have 7 bits; it is kept as `<name>.rejected.onnx`, or the converter's words as
            `<name>.conversion.log`.
    """
    path = Path(path)
    check_destination(path, opset, overwrite)
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise UsageError("a file has no such precision", where="`precision`", seen=precision, allowed=allowed)
    if target not in (targets.AUTO, *targets.LEFT_OUT):
        allowed = ", ".join((targets.AUTO, *targets.LEFT_OUT))
        raise UsageError("a file is made for no such processor", where="`target`", seen=target, allowed=allowed)
    if precision == "int8" and calibration is None:
        problem = "int8 is calibrated on images of training, and there are none"
        raise DataError(problem, where="`precision`", next_step="export a training run whose data are there")
    require_packages()
    from sharpkeras.onnx_export import conversion, int8, rewrites, verification  # which need the packages

    if weight_bits not in int8.WEIGHT_BITS:
        known = list(int8.WEIGHT_BITS)
        raise UsageError("weights of int8 have no such bits", where="`weight_bits`", seen=weight_bits, allowed=known)

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
    applied: list[str] = []
    choice: dict[str, Any] | None = None
    if optimize:
        left_out, choice = _choice(onnx_model, target, precision)
        applied = rewrites.without(left_out)
        onnx_model = rewrites.optimize(onnx_model, applied)
        properties |= as_properties({"target": choice["name"]} if choice["name"] else {})
    onnx_model = conversion.tidy(onnx_model, model.name, properties)
    report = metadata | {
        "file": path.name,
        "opset": opset,
        "precision": precision,
        "nodes_before_rewrites": converted_nodes,
        "addmults_conv_dense_of_file": counted,
        "rewrites": applied,
        "target": choice,
        "input_shape": [None, *shape],
        "convert_seconds": round(time.monotonic() - start, 2),
        "versions": {name: sys.modules[name].__version__ for name in ("keras", *PACKAGES)},
    }
    with _written_aside(path) as aside:
        session = _opened(onnx_model, aside)
        agreement = verification.check_agreement(
            expected, session, cases, tolerance, AFTER_A_DIFFERENCE[bool(optimize)]
        )
        if precision == "float16":
            onnx_model, session, in_half = _to_half(onnx_model, aside)
            for computed in (session, in_half):  # the second is reported
                agreement = verification.check_agreement(expected, computed, cases, FLOAT16_TOLERANCE, NOT_IN_FLOAT16)
        if test is not None:
            agreement["accuracy"] = _accuracy(model, session, test)
        if precision == "int8":
            onnx_model, lost = _to_int8(onnx_model, session, aside, calibration, test, weight_bits)
            agreement = {"before_int8": agreement}
            report["quantization"] = lost
        report |= agreement
        content = aside.read_bytes()
        report |= {"bytes": len(content), "sha256": sha256(content), "nodes": len(onnx_model.graph.node)}
        atomic_writes.write_through(
            aside.with_suffix(".json"), json.dumps(kinds.of_kind(kinds.EXPORT, report), indent=2).encode()
        )
    return report


def _choice(converted: "onnx.ModelProto", target: str, precision: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The default rewrites that are left out, and how that was chosen, as the report tells it.

    Where a measurement shows no difference, or is unstable, the row of this processor is taken.
    """
    from sharpkeras.onnx_export import rewrites

    if target != targets.AUTO:
        return targets.LEFT_OUT[target], {"name": target, "chosen_by": "request"}
    if precision == "float16":
        return targets.LEFT_OUT["gpu"], {"name": "gpu", "chosen_by": "precision"}
    here = instruction_set()
    by_processor = targets.LEFT_OUT.get(here or "", targets.SIMPLE), {"name": here, "chosen_by": "processor"}
    if precision == "int8":
        return by_processor
    simple, filled = (
        rewrites.optimize(converted, rewrites.without(left_out)).SerializeToString()
        for left_out in (targets.SIMPLE, targets.FILLED)
    )
    if simple == filled:
        return targets.SIMPLE, {"name": here, "chosen_by": "nothing to choose"}
    try:
        measured = targets.compare(simple, filled)
    except ResourceError:  # too little memory for a measurement is enough for the file
        return by_processor
    shown = {"faster": targets.FILLED, "slower": targets.SIMPLE}
    if measured["verdict"] not in shown or measured["unstable"]:
        return by_processor[0], {**by_processor[1], "filled_to_simple": measured}
    return shown[measured["verdict"]], {"name": here, "chosen_by": "measurement", "filled_to_simple": measured}


@contextlib.contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
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


def _accuracy(
    model: keras.Model, session: "onnxruntime.InferenceSession", test: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Top-1 of the Keras model and of its file, side by side."""
    from sharpkeras.onnx_export import answers

    images, labels = test
    return answers.beside(answers.of_model(model, images), answers.of_file(session, images), labels, ("keras", "file"))


def _to_half(
    onnx_model: "onnx.ModelProto", aside: Path
) -> tuple["onnx.ModelProto", "onnxruntime.InferenceSession", "onnxruntime.InferenceSession"]:
    """The model in float16, written in the place of the one in float32; its session, and one that rounds as a GPU."""
    from sharpkeras.onnx_export import verification
    from sharpkeras.onnx_export.float16 import rounded, to_half

    halved = _tidied_like(onnx_model, to_half(onnx_model))
    return halved, _opened(halved, aside), verification.session(rounded(onnx_model).SerializeToString())


def _to_int8(
    onnx_model: "onnx.ModelProto",
    session: "onnxruntime.InferenceSession",
    aside: Path,
    calibration: Any,
    test: tuple[np.ndarray, np.ndarray] | None,
    weight_bits: int,
) -> tuple["onnx.ModelProto", dict[str, Any]]:
    """The model in int8, written in the place of the one in float32, and what it has lost.

    Raises:
        DataError: if there are no test images, or the others cannot calibrate.
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


def _sums_that_fit(quantized: "onnx.ModelProto", weight_bits: int) -> dict[str, Any]:
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


def _opened(onnx_model: "onnx.ModelProto", aside: Path) -> "onnxruntime.InferenceSession":
    """Write a model and open it, with all that `verification.open_session` refuses."""
    from sharpkeras.onnx_export import verification

    atomic_writes.write_through(aside, onnx_model.SerializeToString())
    return verification.open_session(onnx_model, aside)


def _tidied_like(onnx_model: "onnx.ModelProto", other: "onnx.ModelProto") -> "onnx.ModelProto":
    """Another precision of a model, with its name and metadata."""
    from sharpkeras.onnx_export import conversion

    properties = {entry.key: entry.value for entry in onnx_model.metadata_props}
    return conversion.tidy(other, onnx_model.graph.name, properties)


# ---- what can be refused before the work ----


def check_destination(path: Path, opset: int, overwrite: bool) -> None:
    """Check opset and path before the work: UsageError for a wrong one, RunError where it cannot be written."""
    if opset not in OPSETS:
        allowed = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise UsageError("this opset is not supported", where="`opset`", seen=opset, allowed=allowed)
    if path.suffix != ".onnx":
        raise UsageError("an exported model ends in .onnx", seen=str(path), allowed="NAME.onnx")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunError("the directory does not exist or cannot be written to", where=path.parent)
    for present in (path, path.with_suffix(".json")):
        replaceable = overwrite and not present.is_dir()
        atomic_writes.refuse_to_replace(present, replaceable, "choose another path, or use `overwrite`")


def require_packages() -> None:
    """Raise ConfigError with the command that helps, unless TensorFlow is the backend and the converter is there."""
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


def weights_hash(model: keras.Model) -> str:
    """SHA-256 of all weights of a Keras model, in its own order: files of the same network have the same."""
    digest = hashlib.sha256()
    for variable in model.weights:  # without the state of a dropout
        digest.update(atomic_writes.checksum(keras.ops.convert_to_numpy(variable)).encode())
    return digest.hexdigest()


def as_properties(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata in the form that the ONNX file keeps: each value as a JSON string."""
    try:
        return {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("the metadata is no JSON", seen=str(error), allowed="strings, finite numbers") from error
