"""A final network but for its architecture: what trainings, costs and budgets of a search are about."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpkeras import spaces
from sharpkeras.errors import ConfigError
from sharpkeras.spaces.architecture import Architecture
from sharpkeras.spaces.search_space import Costs, Measure, SearchSpace

if TYPE_CHECKING:
    import keras

    from sharpkeras.measure.cost import Cost
    from sharpkeras.spaces.final_network import FinalNetwork


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that decides a final network beside its architecture.

    Args:
        recipe: TrainRecipe.
        input_shape: (H, W, C) of the images.
        num_classes: of the logits.
        space: the space of the architecture; None is the one that the architecture names.
    """

    recipe: Any
    input_shape: tuple[int, int, int]
    num_classes: int
    space: SearchSpace | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))

    def build(self, architecture: Architecture) -> "FinalNetwork":
        """The network of an architecture.

        Raises:
            ConfigError: for a setting that such a network has no layers for, or an architecture that is none of the
                space.
        """
        for setting in spaces.ARCHITECTURES[architecture.kind].without:
            if getattr(self.recipe, setting):
                problem = f"the network of a {architecture.kind} has none"
                raise ConfigError(problem, where=setting, seen=getattr(self.recipe, setting), allowed=0)
        space = self.space or spaces.of_architecture(architecture, self.recipe)
        options = space.network_options(self.recipe)
        return space.network(architecture, input_shape=self.input_shape, num_classes=self.num_classes, **options)

    def build_without_auxiliary(self, architecture: Architecture) -> "keras.Model":
        """The network of an architecture that the paper counts: without auxiliary head."""
        recipe = dataclasses.replace(self.recipe, auxiliary_weight=0.0, drop_path=0.0)  # which not all networks have
        return dataclasses.replace(self, recipe=recipe).build(architecture).without_auxiliary()

    def cost(self, architecture: Architecture) -> "Cost":
        """Parameters and AddMults of the network of an architecture, without auxiliary head."""
        from sharpkeras.measure import cost  # this module is read without Keras

        return cost.count(self.build_without_auxiliary(architecture))

    def cost_sizes(self) -> dict[str, Any]:
        """The arguments of `space.costs` beside the measure."""
        options = self._own_space().cost_options(self.recipe)
        return {"input_shape": self.input_shape, "num_classes": self.num_classes, **options}

    def costs(self, measure: Measure) -> Costs:
        """What each choice of the space adds to the cost of the network."""
        return self._own_space().costs(measure, **self.cost_sizes())

    def _own_space(self) -> SearchSpace:
        if self.space is None:
            raise ValueError("costs are those of a space: NetworkSpec(…, space=…)")
        return self.space
