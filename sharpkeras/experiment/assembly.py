"""What a recipe builds: space, network, model, optimizer, batches."""

import functools
import random

from sharpkeras.data import augment, streams
from sharpkeras.errors import UsageError
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.primitives import PRIMITIVES
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.search.model import SearchModel
from sharpkeras.spaces.cell.network import Network
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.training.model import TrainingModel


def seed_initializers(seed):
    """Makes the weights of the models that are built next a function of `seed`.

    Keras' initializers and seed generators draw their seeds from `random`. `keras.utils.set_random_seed` does this too,
    but imports TensorFlow under any backend.
    """
    random.seed(seed)


def cell_space(recipe):
    """The CellSpace of a SearchRecipe; raises UsageError for an unknown list of primitives."""
    if recipe.space not in PRIMITIVES and "," not in recipe.space:
        allowed = f"{', '.join(PRIMITIVES)}, or primitives with commas between them"
        raise UsageError("unknown search space", where="--space", seen=recipe.space, allowed=allowed)
    names = PRIMITIVES.get(recipe.space) or tuple(name.strip() for name in recipe.space.split(","))
    return CellSpace(names, recipe.ops, recipe.weighting, recipe.num_nodes, num_concatenated=recipe.num_nodes)


def build_network(recipe, genotype, input_shape, num_classes):
    """The final Network of a TrainRecipe for images (H, W, C)."""
    return Network(
        genotype,
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


def search_model(recipe, space, dataset, steps):
    """The SearchModel of a SearchRecipe on a dataset, for an epoch of `steps` steps."""
    seed_initializers(recipe.seed)
    supernet = space.supernet(
        dataset.images.shape[1:], len(dataset.class_names), recipe.init_channels, recipe.num_cells
    )
    adam = Adam(recipe.arch_learning_rate, l2=recipe.arch_l2)
    preparation = image_preparation(recipe, dataset)
    return SearchModel(space, supernet, _sgd(recipe, steps), adam, recipe.order, recipe.seed, **preparation)


def training_model(recipe, network, dataset, steps):
    """The TrainingModel of a TrainRecipe for a network, for an epoch of `steps` steps."""
    preparation = image_preparation(recipe, dataset)
    smoothing = recipe.label_smoothing
    return TrainingModel(network, _sgd(recipe, steps), recipe.auxiliary_weight, smoothing, **preparation)


def _sgd(recipe, steps):
    """SGD under cosine power annealing (Eq. 2), the schedule counted in steps."""
    warmup = recipe.warmup_epochs * steps
    schedule = CosinePowerAnnealing(
        recipe.learning_rate, recipe.min_learning_rate, recipe.epochs * steps - warmup, recipe.power, warmup
    )
    return SGD(schedule, recipe.momentum, recipe.l2, recipe.clip_norm)


def image_preparation(recipe, dataset):
    """What happens to images on the device: in training, and in evaluation."""
    statistics = {"mean": dataset.mean, "deviation": dataset.deviation}
    sizes = {"crop_padding_px": recipe.crop_padding_px, "cutout_px": recipe.cutout_px, "flip": dataset.flip}
    if recipe.cutout_px > min(dataset.images.shape[1:3]):
        limit = f"0 to {min(dataset.images.shape[1:3])}, the side of the images"
        raise UsageError("Cutout is larger than the images", where="--cutout-px", seen=recipe.cutout_px, allowed=limit)
    return {
        "augment": functools.partial(augment.augment, **statistics, **sizes),
        "normalize": functools.partial(augment.normalize, **statistics),
    }


def batches(recipe, dataset, indices, epoch):
    """The batches of one epoch over some of the images; see `streams.batches`."""
    return streams.batches(
        dataset.images,
        dataset.labels,
        indices,
        recipe.batch_size,
        recipe.seed,
        epoch,
        draws=augment.NUM_DRAWS,
    )
