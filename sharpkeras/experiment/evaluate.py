"""The test error of a trained network: with its interval, every single answer, and how the weights were selected."""

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sharpkeras.data import DATASETS, Dataset, augment, batches, load
from sharpkeras.data.dataset import Fingerprint
from sharpkeras.data.folder_layout import same
from sharpkeras.engine.epochs import NullProgress
from sharpkeras.errors import DataError, ResourceError, RunError
from sharpkeras.experiment import result_checks, setup
from sharpkeras.experiment.builders import image_options
from sharpkeras.experiment.paper_tables import trained_network
from sharpkeras.io import atomic_writes, kinds
from sharpkeras.io.hashes import sha256
from sharpkeras.measure.error_rate import ErrorRate, top_k_errors
from sharpkeras.optimizers import SGD
from sharpkeras.recipes.rows import Recipe
from sharpkeras.runs import RunDirectory, files
from sharpkeras.spaces import SearchSpace
from sharpkeras.training.training_model import TrainingModel

TEST_SELECTED = "TEST-SELECTED"  # the label of every number of weights that test images have selected
TOP = 5  # top-5 error, and how many answers are kept

logger = logging.getLogger("sharpkeras")


def evaluate(
    path: str | os.PathLike[str],
    dataset: str | None = None,
    batch_size: int = 256,
    data_options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
    progress: NullProgress | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The top-1 and top-5 error of a trained network on test images, with Clopper–Pearson intervals.

    The run directory keeps the report as `evaluation.json` and the answers to every image as `predictions.safetensors`:
    `labels` (N,) and `classes` (N, 5), the most probable ones first. Those of other data than the training's own have
    the dataset behind their name.

    Args:
        path: a training run.
        dataset: a dataset with the same classes; None is the test split of the one it was trained on.
        batch_size: images at a time.
        data_options: further arguments of `data.load`, such as download.
        space: the HyperCuboid of a path, where it is not MultiChannelNet.
        progress: see `epochs.NullProgress`; it is told what is evaluated.
        tell: report → None, called before anything is kept: a place that cannot be written costs no figure.

    Returns:
        A dict: dataset, fingerprint, split, n, errors, error, interval, the rate as text, the same for "top5" (None up
        to 5 classes), how the weights were selected, and `findings`: what speaks against having learned anything.

    Raises:
        RunError: no such run, it has not ended, or its directory cannot be written.
        ResourceError: the disk is full.
        DataError: no test images, or of other classes or another size than the training's.
        NumericalError: an answer of the network is not finite.
    """
    run = RunDirectory.read(path, "train")
    network, recipe, facts, _, selected = trained_network(path, space)
    spec, statistics = dataset or recipe.dataset, (tuple(facts["mean"]), tuple(facts["deviation"]))
    options = options_as_trained(recipe, spec, facts["shape"])
    test = _as_trained(load(spec, "test", statistics=statistics, **options, **(data_options or {})), facts)
    uses = {"of the test split" if spec == recipe.dataset else "to test on": len(test.labels)}
    (progress or NullProgress()).works_on(setup.in_words(test, uses, "float32"))
    label = TEST_SELECTED if selected["by"] == "test" else None
    normalize = functools.partial(augment.normalize, mean=test.mean, std=test.std)
    model = TrainingModel(network, SGD(0.0), normalize=normalize)
    errors, classes, fingerprint = _answers(model, test, batch_size)
    suffix, n = _suffix(spec, recipe.dataset), len(test.labels)
    finding = result_checks.at_chance("test accuracy", n - errors[1], n, setup.commonest(test.labels))
    report = {
        "run": str(path),
        "dataset": spec,
        "fingerprint": fingerprint,
        "split": "test",
        **ErrorRate(errors[1], n).as_dict(label),
        "top5": ErrorRate(errors[TOP], n).as_dict(label) if TOP in errors else None,
        "label": label,
        "notes": list(test.notes),
        "selected": selected,
        "selection": selection_in_words(selected, spec, recipe.dataset),
        "backend": keras.backend.backend(),
        "findings": [finding] if finding else [],
    }
    if tell:
        tell(report)
    answers = {"labels": test.labels.astype(np.int32), "classes": classes}
    meta = {key: report[key] for key in ("dataset", "fingerprint", "split", "errors", "label", "selection")}
    if finding:
        logger.warning("%s", finding)
    try:  # the answers first: a report never stands without them
        run.add(files.predictions(suffix), atomic_writes.pack_with_checksums(answers, meta))
        run.add(
            files.evaluation(suffix), atomic_writes.dump_file(kinds.of_kind(kinds.EVALUATION, report), "evaluation")
        )
    except (ResourceError, RunError) as error:
        error.problem = f"the evaluation was not kept in the run: {error.problem}"
        error.next_step = "evaluate a copy of the run in a place that can be written and has room"
        raise
    return report


def selection_in_words(selected: Mapping[str, Any], spec: str, trained_on: str) -> str:
    """How the weights were selected, and what that means for an error on the dataset `spec`."""
    epoch = f"epoch {selected['epoch'] + 1} of {selected['epochs']}" if "epoch" in selected else "last epoch"
    if selected["by"] == "test":
        here = "these very images" if spec == trained_on else f"the test images of {trained_on}; none of these selected"
        return f"{TEST_SELECTED}: {epoch}, the best on {here}"
    if selected["by"] == "held_out":
        epoch = f"{epoch}, the best on {selected['images']:,} held-out training images"
    elif "epoch" in selected:
        epoch = f"{epoch}, the last"
    return f"{epoch}; nothing was selected on these images"


def options_as_trained(recipe: Recipe, spec: str, shape: Sequence[int]) -> dict[str, Any]:
    """How the test images are read: as the recipe says, but on disk only where the dataset can be read so.

    Images of another size come in that of the training, also where those of the training needed no resizing.
    """
    row = DATASETS.get(spec) or DATASETS.get(spec.partition(":")[0])
    options = image_options(recipe)
    if options["image_size"] is None and shape[0] == shape[1]:
        options["image_size"] = shape[0]
    return {**options, "on_disk": None} if row and row.on_disk == "never" else options


def _answers(model: TrainingModel, test: Dataset, batch_size: int) -> tuple[dict[int, int], np.ndarray, str]:
    """One pass over the test images, which may lie on disk.

    Returns:
        k → how many labels are not among the k most probable classes; those classes, (N, 5), best first; and the
        fingerprint of the images. The last is the one that a Dataset in memory has: that of one on disk, which no one
        reads for it, knows names and sizes alone, and two networks are compared only on the very same images.
    """
    count, classes = len(test.class_names), []
    errors = dict.fromkeys((1, TOP) if count > TOP else (1,), 0)
    fingerprint = Fingerprint(test)
    for batch in batches.evaluation_batches(test.images, test.labels, min(batch_size, len(test.images))):
        images, labels, valid = batch
        fingerprint.add(images[:valid])
        logits = model.logits([batch])  # (B, classes)
        errors = {k: wrong + top_k_errors(logits, labels[:valid], k) for k, wrong in errors.items()}
        # Among equal ones the lower class goes first, as in `top_k_errors`.
        classes.append(np.argsort(-logits, axis=1, kind="stable")[:, :TOP].astype(np.int32))
    return errors, np.concatenate(classes), fingerprint.hexdigest()


def _suffix(spec: str, trained_on: str) -> str:
    """What the names of the files of a dataset end in: nothing for the training's own, else a safe and unique text."""
    if spec == trained_on:
        return ""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", spec).strip("-.")[-48:]
    code = sha256(spec.encode(errors="surrogateescape"))[:8]
    return f"-{plain}" if plain == spec else f"-{plain}-{code}"


def _as_trained(test: Dataset, facts: Mapping[str, Any]) -> Dataset:
    """The test images, with the classes called and numbered as in the training; raises DataError for others."""
    expected, shape = tuple(facts["class_names"]), tuple(facts["shape"])
    if sorted(map(same, test.class_names)) != sorted(map(same, expected)):
        problem = "the classes are not those of the training"
        raise DataError(problem, where=test.name, seen=list(test.class_names), allowed=list(expected))
    if test.images.shape[1:] != shape:
        problem, step = "the images are not of the training's size", "bring the files to that size"
        raise DataError(problem, where=test.name, seen=test.images.shape[1:], allowed=shape, next_step=step)
    if test.class_names == expected:
        return test
    # The same names in another form of Unicode, in which they can also come in another order.
    numbers = {same(name): number for number, name in enumerate(expected)}
    of_class = np.array([numbers[same(name)] for name in test.class_names])
    return dataclasses.replace(test, labels=of_class[test.labels], class_names=expected)
