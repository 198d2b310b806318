"""Parameters and AddMults of the network that an architecture stands for, of its own sizes or of others."""

import os
from typing import Any, NamedTuple

import keras

from sharpkeras.errors import UsageError
from sharpkeras.experiment import builders, paper_tables
from sharpkeras.recipes import TrainRecipe, network_sizes
from sharpkeras.runs import architectures
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.hypercuboid.path import Path


class SizedNetwork(NamedTuple):
    """The network of an architecture, without auxiliary head.

    Attributes:
        model: keras.Model.
        architecture: Genotype or Path.
        sizes: TrainRecipe, (H, W, C) and number of classes.
        is_training: whether the architecture is a training run.
        has_own_sizes: whether the sizes are those of a run.
    """

    model: keras.Model
    architecture: Genotype | Path
    sizes: tuple[TrainRecipe, tuple[int, int, int], int]
    is_training: bool
    has_own_sizes: bool


def sized_network(
    architecture: str | os.PathLike | Genotype | Path, network: str | None = None, space: Any = None, **sizes: Any
) -> SizedNetwork:
    """The network whose cost is asked for.

    A training run has sizes of its own, a search those of the network that is trained next; all others those of
    table 2, unless others are given.

    Args:
        architecture: a run directory, a file, a published name, a Genotype or a Path.
        network: a row of NETWORKS to begin with.
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.
        sizes: further arguments of `recipes.network_sizes`; those that are None are not given.

    Raises:
        UsageError: some sizes, and not a whole network, are given for a training.
    """
    given = {name: value for name, value in {"name": network, **sizes}.items() if value is not None}
    if hasattr(architecture, "kind"):
        found, own, is_training = architecture, None, False
    else:
        own = paper_tables.sizes_of_run(architecture)
        is_training = own is not None and paper_tables.is_training(architecture)
        if is_training and given and not network:  # the rest would be those of table 2
            problem, allowed = "has sizes of its own", "none, or those of another network with `network`"
            raise UsageError(problem, where=str(architecture), seen="some sizes", allowed=allowed)
        found = architectures.architecture(architecture)
    chosen = network_sizes(**given) if given else own or network_sizes()
    model = builders.counted_network(found, *chosen, space)
    return SizedNetwork(model, found, chosen, is_training, chosen == own)
