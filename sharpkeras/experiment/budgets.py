"""Budgets of a search: which network they mean, what its choices cost, what that does to loss and extraction."""

import functools

import numpy as np
from keras import ops

from sharpkeras.measure import cost
from sharpkeras.measure.latency import primitive_table
from sharpkeras.recipes import IMAGENET, TRAININGS, TrainRecipe, training_of
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet

IMAGENET_CLASSES = 1000


def costed_network(recipe, input_shape, num_classes):
    """The network that costs and budgets of a search are about: a TrainRecipe, an image shape and a number of classes.

    That of the recipe `cost_of`, for the images that it is trained on: those of the search, or of ImageNet. Without,
    as of a search that nothing limits, one as wide and deep as the search.
    """
    if recipe.cost_of is None:
        sizes = {name: getattr(recipe, name) for name in ("ops", "init_channels", "num_cells", "final_filters")}
        return TrainRecipe(**sizes), tuple(input_shape), num_classes
    training = training_of(recipe, shape=input_shape)
    if training.stem == IMAGENET:
        classes = num_classes if training.dataset == recipe.dataset else IMAGENET_CLASSES
        return training, (training.image_size, training.image_size, 3), classes
    return training, tuple(input_shape), num_classes


def costed_space(recipe, space):
    """The space with the layers of that network: MultiChannelNet ends in the final filters of the recipe `cost_of`."""
    if recipe.cost_of is None or not isinstance(space, MultiChannelNet):
        return space
    return space.with_final_filters(TRAININGS[recipe.cost_of].settings.final_filters)


def cost_sizes(recipe, space, input_shape, num_classes):
    """The arguments of `space.costs` beside the measure, for the network of `costed_network`."""
    training, input_shape, num_classes = costed_network(recipe, input_shape, num_classes)
    sizes = {"input_shape": input_shape, "num_classes": num_classes}
    if isinstance(space, CellSpace):
        sizes |= {name: getattr(training, name) for name in ("stem", "init_channels", "num_cells")}
        sizes["mid_filters"] = training.mid_channels
    return sizes


def costs(recipe, space, input_shape, num_classes):
    """The Costs of a search's budget or penalty; None without either."""
    if recipe.cost == "none":
        return None
    sizes = cost_sizes(recipe, space, input_shape, num_classes)
    return costed_space(recipe, space).costs(MEASURES[recipe.cost](recipe), **sizes)


MEASURES = {  # cost → recipe → (layer, input shape) → a number
    "addmults": lambda recipe: lambda layer, shape: cost.of_layer(layer, shape).addmults_paper,
    "parameters": lambda recipe: lambda layer, shape: cost.of_layer(layer, shape).parameters,
    "latency": lambda recipe: primitive_table.load_table(recipe.latency_table),
}


def penalty(recipe, space, costs):
    """alphas → what the expected cost adds to their loss: by how much it exceeds the budget, relative to that.

    Without a budget all of it, relative to that of equal alphas: a random architecture. None without costs.
    """
    if costs is None:
        return None
    equal = [np.zeros(np.shape(a), "float32") for a in space.init_alphas(0)]
    reference = recipe.limit_of_cost or float(space.expected_cost(equal, costs))
    begins = 1.0 if recipe.limit_of_cost else 0.0
    return lambda alphas: recipe.cost_weight * ops.relu(space.expected_cost(alphas, costs) / reference - begins)


def extraction(recipe, space, costs):
    """alphas → the architecture found, by the rules of a SearchRecipe and within its budget."""
    options = {"skip_none": recipe.skip_none} if isinstance(space, CellSpace) else {}
    return functools.partial(space.extract, **options, costs=costs, limit=recipe.limit_of_cost)
