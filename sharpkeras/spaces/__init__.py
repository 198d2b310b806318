"""Search spaces and the architectures that they find, a row each; everything else of sharpkeras works on any of them.

A row names a class, which is imported when it is first used: the tables are read without Keras. Rows are looked up when
they are used, so that a program can add its own:

    SPACES["chain"] = SpaceEntry(ChainSpace, architecture="chain")
    ARCHITECTURES["chain"] = ArchitectureEntry(Chain, fields=("chain",))
"""

import importlib
from dataclasses import dataclass
from typing import Any

from sharpkeras.errors import ConfigError
from sharpkeras.spaces.architecture import Architecture
from sharpkeras.spaces.search_space import Costs, SearchSpace

__all__ = [
    "ARCHITECTURES",
    "CELL",
    "SPACES",
    "Architecture",
    "ArchitectureEntry",
    "Costs",
    "SearchSpace",
    "SpaceEntry",
    "of_architecture",
    "of_recipe",
    "find_space",
]

CELL = "cell"


@dataclass(frozen=True)
class SpaceEntry:
    """A search space by name.

    Args:
        home: the class of the space, or "module:class", which is imported when it is used.
        architecture: the kind of what it finds, a key of `ARCHITECTURES`.
        summary: what it is, one line.
        searched_sizes: settings of the final network that the search decides: the training takes them over, and costs
            and budgets mean them, unless `cost_of` names another network.
    """

    home: str | type[SearchSpace]
    architecture: str
    summary: str = ""
    searched_sizes: tuple[str, ...] = ()

    def load(self) -> type[SearchSpace]:
        """The class of the space."""
        return _load(self.home)


@dataclass(frozen=True)
class ArchitectureEntry:
    """A kind of architecture; its file is called `KIND.json`.

    Args:
        home: the class of the architecture, or "module:class", which is imported when it is used.
        fields: of its file, any of which tells it from the files of other kinds.
        without: settings of a TrainRecipe that its networks have no layers for.
    """

    home: str | type[Architecture]
    fields: tuple[str, ...]
    without: tuple[str, ...] = ("auxiliary_weight", "drop_path")

    def load(self) -> type[Architecture]:
        """The class of the architecture."""
        return _load(self.home)


SPACES = {
    CELL: SpaceEntry(
        "sharpkeras.spaces.cell.space:CellSpace",
        "genotype",
        "cells of DARTS and sharpDARTS (§3); a list of primitives is its name in a recipe",
    ),
    "multichannel": SpaceEntry(
        "sharpkeras.spaces.hypercuboid.multichannel:MultiChannelNet",
        "path",
        "HyperCuboid of filters in × filters out × SharpSepConv or ResizablePool, at strides 1 and 2 (§4.1)",
        searched_sizes=("final_filters",),
    ),
}

ARCHITECTURES = {
    "genotype": ArchitectureEntry("sharpkeras.spaces.cell.genotype:Genotype", ("normal", "reduce"), without=()),
    "path": ArchitectureEntry("sharpkeras.spaces.hypercuboid.path:Path", ("routes",)),
}


def find_space(name: str) -> SpaceEntry:
    """The row of the space that a recipe names; a name that has no row is a list of primitives for cells."""
    return SPACES.get(name, SPACES[CELL])


def of_recipe(recipe: Any) -> SearchSpace:
    """The space of a SearchRecipe; raises UsageError for an unknown one."""
    return find_space(recipe.space).load().from_recipe(recipe)


def of_architecture(architecture: Architecture, recipe: Any) -> SearchSpace:
    """The space that builds the network of an architecture by a TrainRecipe.

    Raises:
        ConfigError: it is an architecture of a space that has no row, or that space does not have it.
    """
    if architecture.space not in SPACES:
        raise ConfigError(
            f"a {architecture.kind} of a space that only Python knows",
            where="space",
            seen=architecture.space,
            allowed=", ".join(name for name in SPACES if SPACES[name].architecture == architecture.kind),
            next_step="hand its HyperCuboid to the functions of sharpkeras.experiment: space=…",
        )
    return SPACES[architecture.space].load().of_architecture(architecture, recipe)


def _load(home: str | type) -> Any:
    if not isinstance(home, str):
        return home
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)
