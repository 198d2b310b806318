"""Export of a trained network, an architecture with random weights, or a model of keras.applications."""

import dataclasses
import difflib
import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sharpkeras import __version__
from sharpkeras.data import Dataset, load
from sharpkeras.errors import DataError, RunError, UsageError
from sharpkeras.experiment.builders import seed_initializers
from sharpkeras.experiment.evaluate import options_as_trained
from sharpkeras.experiment.paper_tables import trained_network
from sharpkeras.io import atomic_writes
from sharpkeras.measure import cost
from sharpkeras.recipes import TrainRecipe, network_sizes
from sharpkeras.runs import RunDirectory, architectures
from sharpkeras.spaces import SearchSpace
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.spaces.network_spec import NetworkSpec

KERAS = "keras:"  # in front of the name of a model in keras.applications
REAL_IMAGES = 17  # that the export is checked on
UNTRAINED = {"by": "nothing", "weights": "random"}

SPLITS = {"train": "training", "test": "test"}  # in words

FREE_SIZE = (224, 224, 3)  # of images of a model that takes any


logger = logging.getLogger("sharpkeras")


@dataclass(frozen=True)
class ExportSource:
    """A model to export.

    Args:
        model: from images (B, H, W, C), float32, preprocessed → logits.
        metadata: what the file tells of it.
        addmults: of its convolutions and dense layers; None of a model that may have layers for which there is no rule.
        load: split, images at most, further arguments of `data.load` → Dataset, as the network's training read it, or
            None; None where there is no data.
    """

    model: keras.Model
    metadata: dict[str, Any]
    addmults: int | None = None
    load: Callable[..., Dataset | None] | None = None


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    opset: int = 17,
    overwrite: bool = False,
    optimize: bool = True,
    target: str = "auto",
    stored_pixels: bool = False,
    test_images: int = 1000,
    precision: str = "float32",
    calibration_images: int = 512,
    weight_bits: int = 7,
    sizes: NetworkSpec | None = None,
    space: SearchSpace | None = None,
    data_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model as ONNX, refused unless it agrees with Keras; see `onnx_export.export_onnx`.

    Args:
        source: a training run; an architecture (a file, a published name), which gets random weights; or
            "keras:NAME" of keras.applications, which gets them too.
        out: the file, NAME.onnx; NAME.json is written beside it.
        opset, overwrite, optimize, target: as in `export_onnx`.
        stored_pixels: whether the file takes uint8 images as they are stored, with their preprocessing inside.
        test_images: on how many test images, where they are there, the file's top-1 is reported beside the network's.
        precision: of the file: "float32", "float16" or "int8".
        calibration_images: on how many training images int8 is calibrated.
        weight_bits: of int8: 7, right on every processor, or 8, on x86 with VNNI and on ARM alone.
        sizes: NetworkSpec of an architecture, as `recipes.network_sizes` gives it; None is that of table 2.
        space: the HyperCuboid of a path, where it is not MultiChannelNet.
        data_options: further arguments of `data.load`, such as skip_bad_images.

    Returns:
        The report of `export_onnx`.
    """
    from sharpkeras.onnx_export.export_onnx import check_destination, export_onnx, require_packages

    out, find = Path(out), _finder(source)
    if sizes is not None and find is not _architecture_source:
        problem, allowed = "has sizes of its own", "only for an architecture: a file or a published name"
        raise UsageError(problem, where=str(source), seen="sizes of a network", allowed=allowed)
    if out.suffix != ".onnx":  # a path such as "." has no name that could get another ending
        raise UsageError("an exported model ends in .onnx", where="`out`", seen=str(out), allowed="NAME.onnx")
    report = out.with_suffix(".json")
    if report.exists() and not out.exists():  # such as the recipe.json of a run
        raise RunError("is no report of an export", where=str(report), next_step="choose another name with `out`")
    with atomic_writes.disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    check_destination(out, opset, overwrite)
    require_packages()
    found = find(source, sizes, space)
    statistics, model, metadata = found.metadata["preprocessing"], found.model, found.metadata
    if stored_pixels:
        model, metadata = _with_preprocessing(found, str(source))

    def prepared(split: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Images as the file takes them and their labels, or None."""
        dataset = found.load and count and found.load(split, count, data_options or {})
        if not dataset:
            return None
        pixels = np.asarray(dataset.images[:count])
        return (pixels if stored_pixels else _normalised(pixels, statistics)), np.asarray(dataset.labels[:count])

    trained_on = prepared("train", calibration_images if precision == "int8" else REAL_IMAGES)
    return export_onnx(
        model,
        out,
        opset=opset,
        images=trained_on and trained_on[0][:REAL_IMAGES],
        test=prepared("test", test_images),
        precision=precision,
        calibration=trained_on[0] if precision == "int8" and trained_on else None,
        weight_bits=weight_bits,
        metadata=metadata,
        overwrite=overwrite,
        optimize=optimize,
        target=target,
        addmults=found.addmults,
    )


def _with_preprocessing(found: ExportSource, source: str) -> tuple[keras.Model, dict[str, Any]]:
    """The model for pixels as they are stored, and what its file tells of itself."""
    from sharpkeras.onnx_export.conversion import with_preprocessing

    statistics = found.metadata["preprocessing"]
    if "mean" not in statistics:
        raise UsageError("the preprocessing of this model is not known", where="`input=uint8`", seen=source)
    inside = {"scale": "none: pixels as they are stored", "layout": "NHWC"}
    model = with_preprocessing(found.model, statistics["mean"], statistics["deviation"])
    return model, found.metadata | {"preprocessing": inside}


def _finder(source: str | os.PathLike[str]) -> Callable[..., ExportSource]:
    """The function that makes its ExportSource; raises where nothing of the name is there, before anything is built."""
    if str(source).startswith(KERAS):
        _application(source)
        return _keras_source
    if Path(source).is_dir():
        RunDirectory.read(source, "train")
        return _run_source
    architectures.architecture(source)
    return _architecture_source


# ---- the sources ----


def _run_source(path: str | os.PathLike[str], sizes: NetworkSpec | None, space: SearchSpace | None) -> ExportSource:
    network, recipe, facts, found, selected = trained_network(path, space)
    preprocessing = {"scale": "x / 255", "mean": facts["mean"], "deviation": facts["deviation"], "layout": "NHWC"}
    settings = {"classes": facts["class_names"], "recipe": recipe.as_dict(), "selected": selected}
    metadata = _metadata(network.without_auxiliary(), preprocessing, **{found.kind: found.as_dict()}, **settings)
    load_images = functools.partial(_load, recipe, facts)
    return ExportSource(network.inference_model(), metadata, _deployed_addmults(network, metadata), load_images)


def _load(
    recipe: TrainRecipe, facts: Mapping[str, Any], split: str, limit: int, options: Mapping[str, Any]
) -> Dataset | None:
    """Images of the training's data; None, and a warning, where they cannot be read (any more), or are others."""
    reading, problem = options_as_trained(recipe, recipe.dataset, facts["shape"]), None
    try:
        dataset = load(recipe.dataset, split, limit=limit, **reading, **options)
        if list(dataset.images.shape[1:]) != facts["shape"]:
            problem = f"they are of another size than the training's: {dataset.images.shape[1:]}"
    except (DataError, UsageError) as error:
        problem = f"{error.problem}, {error.where}" if error.where else error.problem
    if problem:
        words = " ".join(problem.split())  # a list of files has lines of its own
        logger.warning("no %s images of %s are used: %s", SPLITS[split], recipe.dataset, words)
    return None if problem else dataset


def _architecture_source(
    source: str | os.PathLike[str], sizes: NetworkSpec | None, space: SearchSpace | None
) -> ExportSource:
    found = architectures.architecture(source)
    spec = dataclasses.replace(sizes or network_sizes(), space=space)
    seed_initializers(spec.recipe.seed)
    network = spec.build(found)
    classes = [str(number) for number in range(spec.num_classes)]
    settings = {"classes": classes, "recipe": spec.recipe.as_dict(), "selected": UNTRAINED}
    metadata = _metadata(network.without_auxiliary(), {}, **{found.kind: found.as_dict()}, **settings)
    return ExportSource(network.inference_model(), metadata, _deployed_addmults(network, metadata))


def _keras_source(source: str | os.PathLike[str], sizes: NetworkSpec | None, space: SearchSpace | None) -> ExportSource:
    build, settings = _application(source), {"weights": None}
    if "classifier_activation" in inspect.signature(build).parameters:
        settings["classifier_activation"] = None  # logits, not probabilities
    seed_initializers(0)
    try:
        model = build(**settings)
        if None in model.input_shape[1:]:  # MobileNetV3 leaves the size open
            model = build(input_shape=FREE_SIZE, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError("Keras cannot build this model", seen=f"{source}: {error}") from error
    return ExportSource(model, _metadata(model, {}, application=str(source), selected=UNTRAINED))


def _application(source: str | os.PathLike[str]) -> Callable[..., keras.Model]:
    """The function of keras.applications that builds a model; raises UsageError with their names."""
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    name = str(source).removeprefix(KERAS)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names
        raise UsageError("no model of keras.applications", seen=str(source), allowed=f"{', '.join(near)}, …")
    return getattr(keras.applications, name)


def _metadata(counted: keras.Model, preprocessing: dict[str, Any], **others: Any) -> dict[str, Any]:
    numbers = cost.count(counted)._asdict()
    return {**others, "preprocessing": preprocessing, "cost": numbers, "sharpkeras": __version__}


def _deployed_addmults(network: FinalNetwork, metadata: dict[str, Any]) -> int:
    """Of convolutions and dense layers; states that nothing reads count for the paper and are not in the file."""
    if network.output.get("unread"):
        return cost.count(network.inference_model()).addmults_conv_dense
    return metadata["cost"]["addmults_conv_dense"]


# ---- images ----


def _normalised(images: np.ndarray, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Images as the network takes them."""
    pixels = images.astype("float32") / 255.0
    return ((pixels - np.array(preprocessing["mean"])) / np.array(preprocessing["deviation"])).astype("float32")
