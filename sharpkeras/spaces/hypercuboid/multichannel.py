"""MultiChannelNet, the paper's HyperCuboid: filters in × filters out × primitives, at two strides (§4.1, Table 4)."""

import functools
import re
from collections.abc import Sequence
from typing import Any, Self

from sharpkeras.errors import ConfigError
from sharpkeras.layers import ConvBN, ResizablePool, SharpSepConv
from sharpkeras.spaces.hypercuboid.path import Path
from sharpkeras.spaces.hypercuboid.space import HyperCuboid

NAME = "multichannel"
FINAL_FILTERS = 768
MOST_FILTERS = 65_536
STRIDES = (1, 2)  # each stage is a grid of stride 1 and one of stride 2

# The published name of a primitive → its layer and its kind.
PRIMITIVES = {"SharpSepConv": SharpSepConv, "ResizablePool": ResizablePool}
KINDS = {"SharpSepConv": "conv", "ResizablePool": "pool"}

STEM = re.compile(r"Conv3x3_(\d+)")
CHOICE = re.compile(r"layer_(\d+)_stride_([12])_c_in_(\d+)_c_out_(\d+)_op_type_(\w+)")


def _layer(filters: int, primitive: str, strides: int) -> Any:
    return PRIMITIVES[primitive](filters, strides=strides)


class MultiChannelNet(HyperCuboid):
    """The paper's HyperCuboid: ((F×F) × stages × strides × primitives).

    Args:
        filters: the F filter scales; the stem offers each, and so does every layer.
        num_stages: a stage is a position of stride 1 and one of stride 2.
        primitives: published names.
        final_filters: before the classifier; 768 in Table 4.
        weighting: "scalar" or "max_w" (Eq. 3).

    The official code leaves out layers whose softmax weight is below 1/n² in a grid of n; here all are applied.
    """

    network_settings = ("final_filters",)

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 128, 256),
        num_stages: int = 4,
        primitives: Sequence[str] = tuple(PRIMITIVES),
        final_filters: int = FINAL_FILTERS,
        weighting: str = "max_w",
    ) -> None:
        self.filters, self.num_stages, self.primitives = tuple(filters), num_stages, tuple(primitives)
        super().__init__(
            axes={"filters": self.filters, "primitive": self.primitives},
            layer=_layer,
            positions=[{"strides": strides} for _ in range(num_stages) for strides in STRIDES],
            stem=ConvBN,
            stem_axes={"filters": self.filters},
            head=functools.partial(SharpSepConv, final_filters),
            weighting=weighting,
            name=NAME,
        )

    @classmethod
    def from_recipe(cls, recipe: Any) -> Self:
        """`init_channels` are the fewest filters, each of `num_scales` has twice as many; `num_cells` are stages."""
        filters = [recipe.init_channels * 2**scale for scale in range(recipe.num_scales)]
        return cls(filters, recipe.num_cells, final_filters=recipe.final_filters, weighting=recipe.weighting)

    @classmethod
    def of_architecture(cls, architecture: Path, recipe: Any) -> "MultiChannelNet":
        """The smallest one that has a path, before the classifier of a TrainRecipe; see `of_path`."""
        return of_path(architecture, recipe.final_filters)

    @classmethod
    def size_in_words(cls, recipe: Any) -> str:
        return f"{recipe.final_filters} final filters"

    def as_trained(self, recipe: Any) -> Self:
        """The same grid before another classifier."""
        return type(self)(self.filters, self.num_stages, self.primitives, recipe.final_filters, self.weighting)

    def untested_layers(self, input_shape: tuple[int, int, int]) -> tuple:
        return ()  # the tests of sharpkeras vouch for them

    def layer_name(self, position: int, state: int, choice: int) -> str:
        filters, primitive = divmod(choice, len(self.primitives))
        return f"op_grid.{position // 2}.{position % 2}.{state}.{filters}.{primitive}"

    def kind(self, choice: tuple) -> str:
        return KINDS[dict(choice)["primitive"]]

    def node_names(self, path: Path) -> list[str]:
        """A path of one route as the official code writes it: the names of the nodes of its graph."""
        (route,) = path.routes
        (_, filters), *_ = route[0]
        index = self.filters.index(filters)
        names = ["Source", f"Conv3x3_{index}", f"BatchNorm_{index}"]
        for position, choice in enumerate(route[1:]):
            (stage, stride), chosen = divmod(position, 2), dict(choice)
            place, out = f"layer_{stage}", chosen["filters"]
            layer = f"stride_{STRIDES[stride]}_c_in_{filters}_c_out_{out}_op_type_{chosen['primitive']}"
            names += [f"{place}_{layer}", f"{place}_add_c_out_{out}_stride_{STRIDES[stride]}"]
            filters = out
        return [*names, f"SharpSepConv{filters}", "add-SharpSep", "global_pooling", "Linear"]


def from_node_names(names: Sequence[str], name: str | None = None) -> Path:
    """The Path of a list of official node names, such as the published ones.

    Raises:
        ConfigError: when the list is no path: a layer that does not read what the one before writes, or out of order.
    """
    steps = [CHOICE.fullmatch(node) for node in names]
    steps = [match.groups() for match in steps if match]
    if not steps or not any(STEM.fullmatch(node) for node in names):
        raise ConfigError("is no path of MultiChannelNet", where=name, seen=names[:3], allowed="Source, Conv3x3_0, …")
    route, filters = [(("filters", int(steps[0][2])),)], int(steps[0][2])
    for position, (stage, stride, c_in, c_out, primitive) in enumerate(steps):
        if (int(stage), int(stride)) != (position // 2, STRIDES[position % 2]) or int(c_in) != filters:
            seen = f"layer_{stage}_stride_{stride}_c_in_{c_in}"
            allowed = f"layer_{position // 2}_stride_{STRIDES[position % 2]}_c_in_{filters}"
            raise ConfigError("nodes that do not follow each other", where=name, seen=seen, allowed=allowed)
        route.append((("filters", int(c_out)), ("primitive", primitive)))
        filters = int(c_out)
    return Path(NAME, (tuple(route),), name)


def of_path(path: Path, final_filters: int = FINAL_FILTERS) -> MultiChannelNet:
    """The smallest MultiChannelNet that has this path: its filters and its primitives.

    Raises:
        ConfigError: when a choice is none of MultiChannelNet's, or a stage is not whole.
    """
    steps = [dict(choice) for route in path.routes for choice in route]
    filters = sorted({step.get("filters") for step in steps if type(step.get("filters")) is int})
    primitives = sorted({step["primitive"] for step in steps if "primitive" in step} & PRIMITIVES.keys())
    positions = len(path.routes[0]) - 1
    if not filters or not primitives or filters[0] < 1 or filters[-1] > MOST_FILTERS or positions % 2:
        allowed = f"1 to {MOST_FILTERS} filters and a primitive at each position, two positions in each stage"
        raise ConfigError("is no path of MultiChannelNet", where=path.name, seen=path.routes[0], allowed=allowed)
    return MultiChannelNet(filters, positions // 2, primitives, final_filters)
