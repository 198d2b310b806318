"""What was found, and the numbers of it: architectures, test error, cost, tables, ONNX files."""

import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np

from sharpkeras import __version__, atomic, from_torch, published
from sharpkeras.data import augment, load, streams
from sharpkeras.errors import ConfigError, DataError, RunError, UsageError
from sharpkeras.experiment.assembly import build_network
from sharpkeras.experiment.running import DATA, GENOTYPE, WEIGHTS
from sharpkeras.measure import cost
from sharpkeras.measure.accuracy import ErrorRate, top_k_errors
from sharpkeras.optimizers import SGD
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.training.model import TrainingModel

REAL_IMAGES = 17  # that the export is checked on


def architecture(source):
    """The Genotype of a run directory, a JSON file or a published name.

    Raises:
        ConfigError: for an unknown name or a broken file.
        RunError: for a directory that is no run, or a search that has not ended.
    """
    path = Path(source)
    if path.is_dir():
        run = RunDirectory.read(path)
        if not (path / GENOTYPE).is_file():
            raise RunError("has found no genotype yet", where=str(path), next_step=f"sharpkeras search --out {path}")
        return genotypes.from_dict(run.read_json(GENOTYPE), str(path / GENOTYPE))
    if path.suffix == ".json" or path.is_file():
        try:
            return genotypes.load(path)
        except ConfigError as error:
            error.next_step = error.next_step or f"a genotype file looks like {genotypes.EXPECTED}"
            raise
    return published.genotype(source)


def trained_network(path):
    """The network of a training run with its weights, its TrainRecipe and the facts of its data.

    Raises:
        RunError: when there is no such run, or it has not ended, or its weights are damaged or not finite.
    """
    run = RunDirectory.read(path, "train")
    loaded = run.load_arrays(WEIGHTS)
    if loaded is None:
        raise RunError("has no trained weights", where=str(path), next_step="let its training end: sharpkeras train")
    recipe = TrainRecipe.from_dict(run.recipe["settings"], f"{path}/recipe.json")
    facts, weights = run.read_json(DATA), loaded[0]
    bad = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if bad:
        raise RunError(f"non-finite in {len(bad)} arrays", where=f"{path}/weights.npz", seen=bad[0])
    found = genotypes.from_dict(run.recipe["genotype"], f"{path}/recipe.json: genotype")
    network = build_network(recipe, found, facts["shape"], len(facts["class_names"]))
    from_torch.load_state(network, weights)
    return network, recipe, facts, found


def evaluate(path, dataset=None, batch_size=256, data_options=None):
    """The error of a trained network on test images, with its interval.

    Args:
        path: a training run.
        dataset: a dataset with the same classes; None is the test split of the one it was trained on.

    Returns:
        A dict: dataset, split, n, errors, error, interval, the rate as text, and how the weights were selected.
    """
    network, recipe, facts, _ = trained_network(path)
    spec = dataset or recipe.dataset
    statistics = (tuple(facts["mean"]), tuple(facts["deviation"]))
    test = load(spec, "test", image_size=recipe.image_size, statistics=statistics, **(data_options or {}))
    _refuse_other_classes(test, facts)
    normalize = functools.partial(augment.normalize, mean=test.mean, deviation=test.deviation)
    model = TrainingModel(network, SGD(0.0), normalize=normalize)
    logits = model.logits(streams.evaluation_batches(test.images, test.labels, min(batch_size, len(test.images))))
    rate = ErrorRate(top_k_errors(logits, test.labels), len(test.labels))
    report = {
        "run": str(path),
        "dataset": spec,
        "split": "test",
        "n": rate.n,
        "errors": rate.errors,
        "error": rate.error,
        "interval": [rate.low, rate.high],
        "confidence": rate.confidence,
        "text": str(rate),
        "notes": list(test.notes),
        "selection": "last epoch; nothing was selected on these images",
        "backend": keras.backend.backend(),
    }
    atomic.write(Path(path) / "evaluation.json", (atomic.dumps(report, "evaluation", indent=1) + "\n").encode())
    return report


def _refuse_other_classes(test, facts):
    expected, shape = tuple(facts["class_names"]), tuple(facts["shape"])
    if test.class_names != expected:
        problem = "the classes are not those of the training"
        raise DataError(problem, where=test.name, seen=list(test.class_names), allowed=list(expected))
    if test.images.shape[1:] != shape:
        problem = "the images are not of the training's size"
        raise DataError(problem, where=test.name, seen=test.images.shape[1:], allowed=shape)


def count_cost(genotype, recipe, input_shape, num_classes):
    """Parameters and AddMults (see `measure.cost.Cost`) of the network of a genotype, without auxiliary head."""
    recipe = dataclasses.replace(recipe, auxiliary_weight=0.0)
    return cost.count(build_network(recipe, genotype, input_shape, num_classes).counted())


def table(number):
    """The rows of a table of the paper: printed beside measured, exact integers.

    Args:
        number: 2 (CIFAR-10) or 3 (ImageNet).

    Returns:
        A list of {"name", "printed", "measured", "note"}; `measured` is None where no architecture is published.
    """
    stem, classes = {2: ("cifar", 10), 3: ("imagenet", 1000)}[number]
    rows = []
    for row in published.table(number):
        how, measured = row.get("reproduce"), None
        if how:
            sizes = {"init_channels": how["init_channels"], "num_cells": how["layers"]}
            recipe = TrainRecipe(ops=how["ops"], stem=stem, mid_channels=how.get("mid_channels"), **sizes)
            found = published.genotype(how["genotype"])
            measured = count_cost(found, recipe, how["input"], classes)._asdict()
        printed = {k: v for k, v in row.items() if k not in ("name", "reproduce", "measured", "note")}
        rows.append({"name": row["name"], "printed": printed, "measured": measured, "note": row.get("note")})
    return rows


def export(path, out, opset=17, overwrite=False):
    """Writes a trained network as ONNX, refused unless it agrees with Keras; see `export.export_onnx`."""
    from sharpkeras.export import check_destination, export_onnx

    out, report = Path(out), Path(out).with_suffix(".json")
    RunDirectory.read(path, "train")
    if report.exists() and not out.exists():  # such as the recipe.json of a run
        raise RunError("is no report of an export", where=str(report), next_step="choose another name with --out")
    with atomic.disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    check_destination(out, opset, overwrite)
    network, recipe, facts, found = trained_network(path)
    numbers = cost.count(network.counted())
    metadata = {
        "genotype": found.as_dict(),
        "classes": facts["class_names"],
        "preprocessing": {"scale": "x / 255", "mean": facts["mean"], "deviation": facts["deviation"], "layout": "NHWC"},
        "cost": numbers._asdict(),
        "recipe": recipe.as_dict(),
        "sharpkeras": __version__,
    }
    return export_onnx(
        network.deployed(), out, opset=opset, images=_real_images(recipe, facts), metadata=metadata, overwrite=overwrite
    )


def _real_images(recipe, facts):
    """A few training images as the network takes them; None where the data is not there (any more)."""
    try:
        dataset = load(recipe.dataset, "train", image_size=recipe.image_size, limit=REAL_IMAGES * 2)
    except (DataError, UsageError):
        return None
    if list(dataset.images.shape[1:]) != facts["shape"]:
        return None
    images = dataset.images[:REAL_IMAGES].astype("float32") / 255.0
    return ((images - np.array(facts["mean"])) / np.array(facts["deviation"])).astype("float32")
