"""What a recipe builds: model, optimizer, batches."""

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from sharpkeras.data import augment
from sharpkeras.data import batches as streams
from sharpkeras.data.dataset import Dataset
from sharpkeras.errors import UsageError
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.recipes.rows import Recipe
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces import SearchSpace
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.training.training_model import TrainingModel


def seed_initializers(seed: int) -> None:
    """Makes the weights of the models that are built next a function of `seed`.

    Keras' initializers and seed generators draw their seeds from `random`. `keras.utils.set_random_seed` does this too,
    but imports TensorFlow under any backend.
    """
    random.seed(seed)


@contextlib.contextmanager
def precision(recipe: Recipe) -> Iterator[None]:
    """Layers that are made inside compute in the recipe's precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def image_options(recipe: Recipe) -> dict[str, Any]:
    """How a recipe's images are read: arguments of `data.load` that depend on the recipe alone."""
    return {
        "image_size": recipe.image_size,
        "resize_size": recipe.resize_size,
        "on_disk": recipe.random_resized_crop or None,  # crops are cut from the whole image
    }


def search_model(
    recipe: SearchRecipe,
    space: SearchSpace,
    dataset: Dataset,
    steps: int,
    penalty: Callable[[Sequence[Any]], Any] | None = None,
) -> SearchModel:
    """The SearchModel of a SearchRecipe on a dataset, for an epoch of `steps` steps; `penalty` as it takes it."""
    seed_initializers(recipe.seed)
    sizes = space.supernet_options(recipe)
    supernet = space.supernet(dataset.images.shape[1:], len(dataset.class_names), **sizes)
    adam = Adam(recipe.arch_learning_rate, l2=recipe.arch_l2)
    preparation = image_preparation(recipe, dataset)
    sgd = _sgd(recipe, steps)
    return SearchModel(space, supernet, sgd, adam, recipe.order, recipe.seed, penalty, **preparation)


def training_model(recipe: TrainRecipe, network: FinalNetwork, dataset: Dataset, steps: int) -> TrainingModel:
    """The TrainingModel of a TrainRecipe for a network, for an epoch of `steps` steps."""
    averaging = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    accumulating = {"gradient_accumulation_steps": recipe.accumulate} if recipe.accumulate > 1 else {}
    sgd = _sgd(recipe, steps / recipe.accumulate, **averaging, **accumulating)
    preparation = image_preparation(recipe, dataset)
    return TrainingModel(network, sgd, recipe.auxiliary_weight, recipe.label_smoothing, **preparation)


def _sgd(recipe: Recipe, updates: float, **options: Any) -> SGD:
    """SGD under cosine power annealing (Eq. 2), the schedule counted in updates, of which an epoch has `updates`."""
    warmup = round(recipe.warmup_epochs * updates)
    annealing = max(1, round(recipe.epochs * updates) - warmup)
    schedule = CosinePowerAnnealing(recipe.learning_rate, recipe.min_learning_rate, annealing, recipe.power, warmup)
    return SGD(schedule, recipe.momentum, recipe.l2, recipe.clip_norm, **options)


def image_preparation(recipe: Recipe, dataset: Dataset) -> dict[str, Callable[..., Any]]:
    """What happens to images on the device: in training, and in evaluation."""
    statistics: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std}
    sizes: dict[str, Any] = {"crop_padding_px": recipe.crop_padding_px, "cutout_px": recipe.cutout_px}
    sizes["flip"] = dataset.flip
    sizes["autoaugment"] = None if recipe.autoaugment == "none" else recipe.autoaugment
    if recipe.cutout_px > min(dataset.images.shape[1:3]):
        limit = f"0 to {min(dataset.images.shape[1:3])}, the side of the images"
        raise UsageError("Cutout is larger than the images", where="`cutout_px`", seen=recipe.cutout_px, allowed=limit)
    return {
        "augment": functools.partial(augment.augment, **statistics, **sizes),
        "normalize": functools.partial(augment.normalize, **statistics),
    }


def batches(recipe: Recipe, dataset: Dataset, indices: np.ndarray, epoch: int, step: int = 0) -> Iterator[tuple]:
    """The batches of one epoch over some of the images, from a step of it on; see `batches.batches`."""
    return streams.batches(
        dataset.images,
        dataset.labels,
        indices,
        recipe.batch_size,
        recipe.seed,
        epoch,
        num_uniforms=augment.NUM_DRAWS,
        first_batch=step,
        random_crops=recipe.random_resized_crop,
    )
