"""What a space of one's own makes impossible later, said before the first step."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sharpkeras.errors import ConfigError
from sharpkeras.measure import cost
from sharpkeras.spaces import SearchSpace
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.spaces.hypercuboid.supernet import build_parts, takes_training

AS_DECLARED = "let its `call` do what its `compute_output_shape` says, with what `__init__` or `build` have made"
IN_TRAINING = "give its `call` the argument `training`, and draw or assign only where that is true"


def check_space(space: SearchSpace, input_shape: tuple[int, int, int]) -> None:
    """Tries each layer of a space on one image (H, W, C) of its own: that it can be counted, and answers as declared.

    Raises:
        ConfigError: with the place of the layer and its choice.
    """
    for where, choice, layer, shape in space.untested_layers(input_shape):
        place = f"{where} {choice}" if choice else where
        try:
            cost.of_layer(layer, shape)
        except ConfigError as error:
            raise ConfigError(error.problem, where=place, seen=error.seen, next_step=error.next_step) from error
        _try(layer, shape, layer.compute_output_shape((None, *shape)), place)


def check_network(network: FinalNetwork) -> None:
    """Try a final network on one image (H, W, C): that it can be counted, and answers as declared.

    Raises:
        ConfigError: it cannot be called, or makes another output than it declares.
    """
    cost.count(network.without_auxiliary())
    _try(network.inference_model(), network.input_shape[1:], network.output["logits"].shape, "network")


def _try(layer: Any, shape: Sequence[int], declared: Sequence[int], where: str) -> None:
    build_parts(layer, (None, *shape))
    images = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    try:
        with keras.StatelessScope():  # in which the second call sees what the first has changed, and nothing is left
            first, second = (layer(images, training=False) if takes_training(layer) else layer(images) for _ in "12")
    except Exception as error:
        raise ConfigError("this layer cannot be called", where=where, seen=str(error), next_step=AS_DECLARED) from error
    made, declared = tuple(getattr(first, "shape", ())), (1, *declared[1:])
    if len(made) != len(declared) or any(size not in (None, own) for size, own in zip(declared, made)):
        problem = "this layer makes another output than it declares"
        raise ConfigError(problem, where=where, seen=made, allowed=declared, next_step=AS_DECLARED)
    if not np.allclose(*map(keras.ops.convert_to_numpy, (first, second)), rtol=1e-3, atol=1e-4, equal_nan=True):
        problem = "this layer answers to one image in two ways, at random or by a state that it changes"
        raise ConfigError(problem, where=where, allowed="that it does so in training alone", next_step=IN_TRAINING)
