"""Budgets of a search: which network they mean, what its choices cost, what that does to loss and extraction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from keras import ops

from sharpkeras.errors import ConfigError
from sharpkeras.measure import cost
from sharpkeras.measure.latency import primitive_table
from sharpkeras.recipes import IMAGENET, SearchRecipe, TrainRecipe, training_of
from sharpkeras.spaces import Architecture, Costs, SearchSpace, find_space
from sharpkeras.spaces.network_spec import NetworkSpec

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Budget:
    """What the architecture of a search costs: how that enters the loss of the alphas, and how much it may be.

    Args:
        recipe: SearchRecipe, whose `cost` says what costs are, AddMults, parameters or milliseconds.
        space: of the search.
        network: the network that costs mean.
        costs: what each choice adds to it; None where the recipe has neither budget nor penalty.
        reference: what the penalty is relative to: the limit, else the mean cost of a random architecture.
    """

    recipe: SearchRecipe
    space: SearchSpace
    network: NetworkSpec
    costs: Costs | None = None
    reference: float | None = None

    @classmethod
    def of(cls, recipe: SearchRecipe, space: SearchSpace, input_shape: tuple[int, int, int], num_classes: int) -> Self:
        """The Budget of a SearchRecipe on images (H, W, C); raises ConfigError where the space has no costs."""
        network = costed_network(recipe, input_shape, num_classes, space)
        if recipe.cost == "none":
            return cls(recipe, space, network)
        costs = network.costs(MEASURES[recipe.cost](recipe))
        return cls(recipe, space, network, costs, recipe.limit_of_cost or mean_cost(space, costs))

    @property
    def limit(self) -> float | None:
        """The most that an architecture may cost; None for no limit."""
        return self.recipe.limit_of_cost

    def cost(self, architecture: Architecture) -> float:
        """What the choices of an architecture cost in sum."""
        return self.space.cost_of(architecture, self._costs)

    def expected_cost(self, alphas: Sequence[Any]) -> Any:
        """What a random architecture costs in the mean, weighed by the alphas; a scalar with a gradient."""
        return self.space.expected_cost(alphas, self._costs)

    def penalty(self, alphas: Sequence[Any]) -> Any:
        """What the expected cost adds to the loss of the alphas: by how much it exceeds the limit, relative to that.

        Without a limit all of it, relative to that of equal alphas: a random architecture.
        """
        begins = 1.0 if self.limit else 0.0
        return self.recipe.cost_weight * ops.relu(self.expected_cost(alphas) / self.reference - begins)

    def extract(self, alphas: Sequence[np.ndarray]) -> Architecture:
        """The architecture found, by the rules of the recipe and within the limit."""
        within: dict[str, Any] = {} if self.limit is None else {"costs": self.costs, "limit": self.limit}
        try:
            return self.space.extract(alphas, **self.space.extract_options(self.recipe), **within)
        except ConfigError as error:
            if within and error.where is None:
                size = "×".join(str(side) for side in self.network.input_shape)
                network = (
                    f"the network of {self.recipe.cost_of}" if self.recipe.cost_of else "a network of its own size"
                )
                error.where = f"{self.recipe.cost} of {network} (`cost_of`), for images of {size}"
                error.next_step = "raise the limit, name another network by `cost_of`, or make the images smaller"
            raise

    @property
    def _costs(self) -> Costs:
        if self.costs is None:
            raise ValueError("the recipe has neither budget nor penalty, so that nothing costs anything")
        return self.costs


def mean_cost(space: SearchSpace, costs: Costs) -> float:
    """What a random architecture costs in the mean: the expected cost of equal alphas."""
    return float(space.expected_cost([np.zeros(np.shape(a), "float32") for a in space.init_alphas(0)], costs))


def costed_network(
    recipe: SearchRecipe, input_shape: tuple[int, int, int], num_classes: int, space: SearchSpace | None = None
) -> NetworkSpec:
    """The network that costs and budgets of a search are about.

    That of the recipe `cost_of`, for the images that it is trained on: those of the search, or of ImageNet. Without,
    as of a search that nothing limits, one as wide and deep as the search.
    """
    if recipe.cost_of is None:
        names = find_space(recipe.space).load().network_settings
        training = TrainRecipe(**{name: getattr(recipe, name) for name in names if name in recipe.as_dict()})
        return NetworkSpec(training, input_shape, num_classes, space)
    training = training_of(recipe, shape=input_shape)
    space = space and space.as_trained(training)
    if training.stem == IMAGENET:
        classes = num_classes if training.dataset == recipe.dataset else IMAGENET_CLASSES
        return NetworkSpec(training, (training.image_size, training.image_size, 3), classes, space)
    return NetworkSpec(training, input_shape, num_classes, space)


MEASURES = {  # cost → recipe → (layer, input shape) → a number
    "addmults": lambda recipe: lambda layer, shape: cost.of_layer(layer, shape).addmults_paper,
    "parameters": lambda recipe: lambda layer, shape: cost.of_layer(layer, shape).parameters,
    "latency": lambda recipe: primitive_table.load_table(recipe.latency_table),
}
