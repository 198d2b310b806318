"""The protocol of search spaces: everything that the search, its budgets, its pictures and its files ask of a space."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from sharpkeras.errors import ConfigError
from sharpkeras.spaces.architecture import Architecture, Place

if TYPE_CHECKING:
    import keras
    import numpy as np

    from sharpkeras.spaces.final_network import FinalNetwork

    Arrays = Sequence[np.ndarray]
    Shape = tuple[int, int, int]  # (H, W, C)

A = TypeVar("A", bound=Architecture)  # what a space finds

Measure = Callable[[Any, tuple[int, ...]], float]  # (layer that is not built, input shape (H, W, C)) → its cost
Decision = tuple[Any, Sequence[str]]  # logits (P,), and the kinds of the P primitives


class Costs(NamedTuple):
    """What the final network of an architecture costs: the sum of a fixed part and of what each of its choices adds.

    fixed: of the layers that all architectures have.
    choices: arrays of the shapes of the alphas.
    """

    fixed: float
    choices: list


class SearchSpace(Protocol[A]):
    """A space of architectures, its supernet and its final networks.

    A class of spaces derives from this one: it has to define what is abstract here, and can redefine the rest. Only the
    space knows over which group its softmax runs, and what a setting of a recipe means for it.

    Attributes:
        name: of the space, in the files of its architectures.
        network_settings: settings of a TrainRecipe that decide the size of its networks.
    """

    name: str
    network_settings: Sequence[str] = ()

    @property
    def strategies(self) -> Sequence[str]:
        """Names of other ways to read an architecture off the alphas, which `extract` then takes as `strategy=`."""
        return ()

    # --- from and for recipes ---

    @classmethod
    @abstractmethod
    def from_recipe(cls, recipe: Any) -> Self:
        """The space of a SearchRecipe; raises UsageError or ConfigError where its settings make none."""

    @classmethod
    def of_architecture(cls, architecture: A, recipe: Any) -> Self:
        """A space that has an architecture and builds the networks of a TrainRecipe."""
        return cls()

    @classmethod
    def size_in_words(cls, recipe: Any) -> str:
        """How large the networks of a TrainRecipe are, in words."""
        return ", ".join(f"{name} {getattr(recipe, name)}" for name in cls.network_settings) or "of one size"

    def as_trained(self, recipe: Any) -> "SearchSpace":
        """The space with the layers of the networks of a TrainRecipe, of which `costs` then tells."""
        return self

    def supernet_options(self, recipe: Any) -> dict[str, Any]:
        """What a SearchRecipe says of the supernet: arguments of `supernet` beside image shape and classes."""
        return {}

    def extract_options(self, recipe: Any) -> dict[str, Any]:
        """The rules of a SearchRecipe by which the result is read off: arguments of `extract`."""
        return {}

    def network_options(self, recipe: Any) -> dict[str, Any]:
        """What a TrainRecipe says of a network: arguments of `network` beside architecture, image shape and classes."""
        return {}

    def cost_options(self, recipe: Any) -> dict[str, Any]:
        """What a TrainRecipe says of its costs: arguments of `costs` beside the measure, image shape and classes."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """What a run keeps of a space that was defined in Python, to tell it from another one."""
        return {"name": self.name}

    # --- the search ---

    @abstractmethod
    def init_alphas(self, seed: int) -> "Arrays":
        """The architecture parameters (logits) with which a search begins, a function of `seed` alone."""

    @abstractmethod
    def mixing_weights(self, alphas: Sequence[Any]) -> list[Any]:
        """Softmax over the space's own groups, then the weighting (Eq. 3): what the supernet takes."""

    @abstractmethod
    def supernet(self, input_shape: "Shape", num_classes: int) -> "keras.Model":
        """The built supernet for images (H, W, C): a model of [images (B, H, W, C), mixing weights] → logits."""

    @abstractmethod
    def extract(self, alphas: "Arrays", *, name: str | None = None) -> A:
        """The architecture found; of a space that has `costs`, with `costs=` and `limit=` the best within a limit."""

    def extract_routes(
        self,
        alphas: "Arrays",
        routes: int,
        cost: Callable[[A], float] | None = None,
        limit: float | None = None,
    ) -> A:
        """The architecture of several routes; only of a space that has `strategies`."""
        raise ConfigError("this space has no routes", where=self.name, seen=routes, allowed=1)

    @abstractmethod
    def sample(self, seed: int, name: str | None = None) -> A:
        """A random architecture, the baseline of every search, a function of `seed` alone."""

    @abstractmethod
    def decisions(self, alphas: "Arrays") -> Mapping[str, Sequence[Decision]]:
        """For the collapse watch, by name, what is to be decided: logits (P,), and the kind of each primitive."""

    @abstractmethod
    def kinds_of(self, architecture: A) -> list[str]:
        """The kinds of what an architecture has chosen: "none", "skip", "pool" or "conv"."""

    # --- the final network ---

    @abstractmethod
    def network(self, architecture: A, input_shape: "Shape", num_classes: int) -> "FinalNetwork":
        """The final network of an architecture for images (H, W, C)."""

    # --- budgets ---

    def costs(self, measure: Measure, input_shape: "Shape", num_classes: int) -> Costs:
        """What each choice adds to the cost of the final network; raises ConfigError where a space cannot say."""
        raise ConfigError(
            "this space does not say what its choices cost",
            where=self.name,
            next_step="search without budget, penalty and table of latencies, or define `costs` and `expected_cost`",
        )

    def cost_of(self, architecture: A, costs: Costs) -> float:
        """The sum of what the choices of an architecture cost."""
        raise NotImplementedError

    def expected_cost(self, alphas: Sequence[Any], costs: Costs) -> Any:
        """The mean cost of a random architecture, weighed by the alphas: a scalar with a gradient."""
        raise NotImplementedError

    # --- checks and pictures ---

    def untested_layers(self, input_shape: "Shape") -> Iterable[tuple[str, dict, Any, tuple[int, ...]]]:
        """(where it stands, choice, layer that is not built, shape that it reads) of layers to try before a search."""
        return ()

    def draw(self, architecture: A, alphas: "Sequence[Arrays]", place: Place, title: str) -> None:
        """Writes pictures of what a search found, and of its alphas, a list for each epoch; see `sharpkeras.view`."""
        architecture.draw(place, title)
