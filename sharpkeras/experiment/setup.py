"""Setup of a run: its images, its model and its batches, as they are before the first step."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from sharpkeras.data import Dataset, augment, batches, load
from sharpkeras.engine.epochs import NullProgress
from sharpkeras.errors import printable
from sharpkeras.experiment import builders, job, space_checks, step_checks, weights
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.recipes.rows import Recipe
from sharpkeras.spaces import Architecture, SearchSpace
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.spaces.network_spec import NetworkSpec

SELECTING = {"held_out": "held out", "test": "of the test split, which select the epoch"}


class RunSetup(NamedTuple):
    """Model, data and facts of a run before its first step.

    Attributes:
        model: SearchModel or TrainingModel.
        data: (epoch, step) → iterable of what its step takes, from that step of the epoch on.
        steps: of an epoch.
        held_out: () → iterable of (images, labels, valid) that each epoch is evaluated on; None for nothing.
        held_out_images: how many these are.
        uses: what the images are for, in words → how many there are for it.
        chance: the share of the commonest class among what is evaluated; None where nothing is.
        notes: what settings and images come to, lines.
    """

    model: Any
    data: Callable[[int, int], Iterable[Any]]
    steps: int
    held_out: Callable[[], Iterable[Any]] | None
    held_out_images: int
    uses: dict[str, int] = {}
    chance: float | None = None
    notes: tuple[str, ...] = ()


def training_data(recipe: Recipe, progress: NullProgress, options: Mapping[str, Any] | None) -> Dataset:
    """The Dataset of a recipe's training images, whose notes are told; raises DataError where it is too small."""
    dataset = load(recipe.dataset, "train", limit=recipe.limit, **builders.image_options(recipe), **(options or {}))
    for note in (*dataset.notes, *_precision_notes(recipe)):
        progress.note(note)
    batches.check(dataset, recipe.batch_size)
    return dataset


def search(
    recipe: SearchRecipe,
    space: SearchSpace,
    dataset: Dataset,
    remat: bool = False,
    penalty: Callable[[Sequence[Any]], Any] | None = None,
) -> RunSetup:
    """The RunSetup search: half of the images trains the weights, the other half the alphas."""
    weights_half, alphas_half = batches.search_split(len(dataset.images), recipe.train_portion, recipe.batch_size)
    steps = len(weights_half) // recipe.batch_size
    space_checks.check_space(space, dataset.images.shape[1:])
    with builders.precision(recipe):
        model = builders.search_model(recipe, space, dataset, steps, penalty)
    model.supernet.remat = remat
    images, labels, batch_size = dataset.images, dataset.labels, recipe.batch_size

    def data(epoch: int, step: int) -> Iterator[tuple]:
        place = {"first_step": epoch * steps + step, "num_uniforms": augment.NUM_DRAWS}
        validation = batches.endless(images, labels, alphas_half, batch_size, recipe.seed, **place)
        return zip(builders.batches(recipe, dataset, weights_half, epoch, step), validation)

    def held_out() -> Iterator[tuple]:
        return batches.evaluation_batches(images, labels, batch_size, alphas_half)

    uses = {"for the weights": len(weights_half), "for the alphas, held out": len(alphas_half)}
    chance = commonest(labels[alphas_half])
    return RunSetup(model, data, steps, held_out, len(alphas_half), uses, chance, tuple(step_checks.rates(recipe)))


def training(
    recipe: TrainRecipe,
    build: Callable[[Sequence[int], int], FinalNetwork],
    dataset: Dataset,
    remat: bool = False,
    data_options: Mapping[str, Any] | None = None,
) -> RunSetup:
    """The RunSetup training of the network that `build` makes of an input shape and a number of classes."""
    trained_on, held_out, selected_on = _selection(recipe, dataset, data_options)
    steps = len(trained_on) // recipe.batch_size
    notes = step_checks.check(recipe, steps)
    builders.seed_initializers(recipe.seed)
    with builders.precision(recipe):
        network = build(dataset.images.shape[1:], len(dataset.class_names))
        model = builders.training_model(recipe, network, dataset, steps)
    network.remat = remat

    def data(epoch: int, step: int) -> Iterator[tuple]:
        return builders.batches(recipe, dataset, trained_on, epoch, step)

    uses = {"to train on": len(trained_on)}
    if held_out is not None:
        uses[SELECTING[recipe.selection]] = len(selected_on)
    return RunSetup(model, data, steps, held_out, len(selected_on), uses, commonest(selected_on), tuple(notes))


def building(
    recipe: TrainRecipe,
    architecture: Architecture,
    space: SearchSpace | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
    init: str | os.PathLike[str] | None = None,
) -> Callable[[Sequence[int], int], FinalNetwork]:
    """A function (input shape, number of classes) → network of an architecture, with the arrays `initial` of `init`."""

    def build(input_shape: Sequence[int], num_classes: int) -> FinalNetwork:
        network = NetworkSpec(recipe, input_shape, num_classes, space).build(architecture)
        if space is not None:
            space_checks.check_network(network)
        if initial is not None:
            weights.put_into(network, initial, init)
        return network

    return build


def _selection(
    recipe: TrainRecipe, dataset: Dataset, data_options: Mapping[str, Any] | None
) -> tuple[np.ndarray, Callable[[], Iterable[tuple]] | None, np.ndarray]:
    """The images to train on, as indices; () → batches of those that select the epoch, and their labels.

    None and no labels for the last epoch.
    """
    everything, batch_size = np.arange(len(dataset.images)), recipe.batch_size
    if recipe.selection == "last":
        return everything, None, dataset.labels[:0]
    if recipe.selection == "test":
        test = load(recipe.dataset, "test", **builders.image_options(recipe), **(data_options or {}))
        return everything, lambda: batches.evaluation_batches(test.images, test.labels, batch_size), test.labels
    trained_on, held_out = batches.search_split(len(dataset.images), 1 - recipe.held_out)
    images, labels = dataset.images, dataset.labels
    return trained_on, lambda: batches.evaluation_batches(images, labels, batch_size, held_out), labels[held_out]


def in_words(dataset: Dataset, uses: Mapping[str, int], precision: str) -> str:
    """One line on the images, backend, devices and precision of a run.

    Args:
        dataset: Dataset.
        uses: what its images are for → how many, as in RunSetup.
        precision: of the convolutions.
    """
    images = ", ".join(f"{number:,} images {use}" for use, number in uses.items())
    height, width, channels = dataset.images.shape[1:]
    return (
        f"{printable(dataset.name, 200)}: {images}; {len(dataset.class_names):,} classes, {height}×{width}×{channels}; "
        f"{keras.backend.backend()} on {job.devices_in_words()}, {precision}"
    )


def commonest(labels: np.ndarray) -> float | None:
    """The share of the commonest class; None of no labels."""
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else None


def _precision_notes(recipe: Recipe) -> list[str]:
    on_cpu = not any(device.startswith(("gpu", "tpu")) for device in keras.distribution.list_devices())
    return [f"{recipe.precision} is slower than float32 on a CPU"] if on_cpu and recipe.precision != "float32" else []
