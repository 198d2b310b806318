"""What a recipe builds: space, network, model, optimizer, batches."""

import contextlib
import dataclasses
import functools
import random

import keras

from sharpkeras.data import augment
from sharpkeras.data import batches as streams
from sharpkeras.errors import ConfigError, UsageError
from sharpkeras.measure import cost
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.primitives import PRIMITIVES
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell.network import Network
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.spaces.hypercuboid import multichannel
from sharpkeras.training.training_model import TrainingModel


def seed_initializers(seed):
    """Makes the weights of the models that are built next a function of `seed`.

    Keras' initializers and seed generators draw their seeds from `random`. `keras.utils.set_random_seed` does this too,
    but imports TensorFlow under any backend.
    """
    random.seed(seed)


@contextlib.contextmanager
def precision(recipe):
    """Layers that are made inside compute in the recipe's precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def image_options(recipe):
    """How a recipe's images are read: arguments of `data.load` that depend on the recipe alone."""
    return {
        "image_size": recipe.image_size,
        "resize_size": recipe.resize_size,
        "on_disk": recipe.random_resized_crop or None,  # crops are cut from the whole image
    }


def search_space(recipe):
    """The space of a SearchRecipe; raises UsageError for an unknown one."""
    if recipe.space == multichannel.NAME:
        filters = [recipe.init_channels * 2**scale for scale in range(recipe.num_scales)]
        sizes = {"num_stages": recipe.num_cells, "final_filters": recipe.final_filters}
        return multichannel.MultiChannelNet(filters, weighting=recipe.weighting, **sizes)
    if recipe.space not in PRIMITIVES and "," not in recipe.space:
        allowed = f"{', '.join(PRIMITIVES)}, {multichannel.NAME}, or primitives with commas between them"
        raise UsageError("unknown search space", where="`space`", seen=recipe.space, allowed=allowed)
    names = PRIMITIVES.get(recipe.space) or tuple(name.strip() for name in recipe.space.split(","))
    return CellSpace(names, recipe.ops, recipe.weighting, recipe.num_nodes, num_concatenated=recipe.num_nodes)


def build_network(recipe, architecture, input_shape, num_classes, space=None):
    """The final network of a TrainRecipe for images (H, W, C).

    Args:
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.
    """
    if architecture.kind == "path":
        return _path_network(recipe, architecture, tuple(input_shape), num_classes, space)
    return Network(
        architecture,
        ops=recipe.ops,
        stem=recipe.stem,
        input_shape=tuple(input_shape),
        num_classes=num_classes,
        init_channels=recipe.init_channels,
        num_cells=recipe.num_cells,
        mid_filters=recipe.mid_channels,
        auxiliary=recipe.auxiliary_weight > 0,
        drop_path_seed=recipe.seed,
    )


def _path_network(recipe, path, input_shape, num_classes, space):
    for setting in ("auxiliary_weight", "drop_path"):
        if getattr(recipe, setting):
            problem = "the network of a path has none"
            raise ConfigError(problem, where=setting, seen=getattr(recipe, setting), allowed=0)
    if space is None and path.space != multichannel.NAME:
        raise ConfigError(
            "a path of a space that only Python knows",
            where="space",
            seen=path.space,
            allowed=multichannel.NAME,
            next_step="hand its HyperCuboid to the functions of sharpkeras.experiment: space=…",
        )
    space = space or multichannel.of_path(path, recipe.final_filters)
    return space.network(path, input_shape, num_classes)


def count_cost(architecture, recipe, input_shape, num_classes, space=None):
    """Parameters and AddMults (see `measure.cost.Cost`) of the network of an architecture, without auxiliary head."""
    return cost.count(counted_network(architecture, recipe, input_shape, num_classes, space))


def counted_network(architecture, recipe, input_shape, num_classes, space=None):
    """The network of an architecture that the paper counts."""
    recipe = dataclasses.replace(recipe, auxiliary_weight=0.0, drop_path=0.0)  # which a path has not
    return build_network(recipe, architecture, input_shape, num_classes, space).counted()


def search_model(recipe, space, dataset, steps, penalty=None):
    """The SearchModel of a SearchRecipe on a dataset, for an epoch of `steps` steps; `penalty` as it takes it."""
    seed_initializers(recipe.seed)
    sizes = {"init_channels": recipe.init_channels, "num_cells": recipe.num_cells}
    sizes = sizes if isinstance(space, CellSpace) else {}  # a HyperCuboid has its sizes in its axes
    supernet = space.supernet(dataset.images.shape[1:], len(dataset.class_names), **sizes)
    adam = Adam(recipe.arch_learning_rate, l2=recipe.arch_l2)
    preparation = image_preparation(recipe, dataset)
    sgd = _sgd(recipe, steps)
    return SearchModel(space, supernet, sgd, adam, recipe.order, recipe.seed, penalty, **preparation)


def training_model(recipe, network, dataset, steps):
    """The TrainingModel of a TrainRecipe for a network, for an epoch of `steps` steps."""
    averaging = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    accumulating = {"gradient_accumulation_steps": recipe.accumulate} if recipe.accumulate > 1 else {}
    sgd = _sgd(recipe, steps / recipe.accumulate, **averaging, **accumulating)
    preparation = image_preparation(recipe, dataset)
    return TrainingModel(network, sgd, recipe.auxiliary_weight, recipe.label_smoothing, **preparation)


def _sgd(recipe, updates, **options):
    """SGD under cosine power annealing (Eq. 2), the schedule counted in updates, of which an epoch has `updates`."""
    warmup = round(recipe.warmup_epochs * updates)
    annealing = max(1, round(recipe.epochs * updates) - warmup)
    schedule = CosinePowerAnnealing(recipe.learning_rate, recipe.min_learning_rate, annealing, recipe.power, warmup)
    return SGD(schedule, recipe.momentum, recipe.l2, recipe.clip_norm, **options)


def image_preparation(recipe, dataset):
    """What happens to images on the device: in training, and in evaluation."""
    statistics = {"mean": dataset.mean, "deviation": dataset.deviation}
    sizes = {"crop_padding_px": recipe.crop_padding_px, "cutout_px": recipe.cutout_px, "flip": dataset.flip}
    sizes["autoaugment"] = None if recipe.autoaugment == "none" else recipe.autoaugment
    if recipe.cutout_px > min(dataset.images.shape[1:3]):
        limit = f"0 to {min(dataset.images.shape[1:3])}, the side of the images"
        raise UsageError("Cutout is larger than the images", where="`cutout_px`", seen=recipe.cutout_px, allowed=limit)
    return {
        "augment": functools.partial(augment.augment, **statistics, **sizes),
        "normalize": functools.partial(augment.normalize, **statistics),
    }


def batches(recipe, dataset, indices, epoch, step=0):
    """The batches of one epoch over some of the images, from a step of it on; see `batches.batches`."""
    return streams.batches(
        dataset.images,
        dataset.labels,
        indices,
        recipe.batch_size,
        recipe.seed,
        epoch,
        draws=augment.NUM_DRAWS,
        first_batch=step,
        random_crops=recipe.random_resized_crop,
    )
