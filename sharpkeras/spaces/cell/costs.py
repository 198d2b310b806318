"""What a genotype costs, choice by choice: the cost of its network is a sum over its edges (§5: "a resource cost")."""

import functools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from sharpkeras import primitives
from sharpkeras.layers import CHANNELS_LAST, ConvBN, strided_shape
from sharpkeras.spaces import Costs
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.search_space import Measure

Shape = tuple[Any, ...]  # (H, W, C)

if TYPE_CHECKING:
    from sharpkeras.spaces.cell.space import CellSpace


def costs(
    space: "CellSpace",
    measure: Measure,
    input_shape: tuple[int, int, int],
    num_classes: int,
    init_channels: int,
    num_cells: int,
    stem: str = "cifar",
    mid_filters: int | None = None,
) -> Costs:
    """The Costs of a CellSpace's networks: choices are two arrays (E, P), each summed over the cells of its kind.

    Args:
        space: CellSpace.
        measure: (layer, input shape (H, W, C)) → its cost, a number.
        input_shape, num_classes, init_channels, num_cells, stem, mid_filters: of the final CellNetwork.
    """

    @functools.cache
    def primitive(name: str, filters: int, strides: int, shape: Shape) -> float:
        return measure(primitives.build(name, space.ops, filters, strides, mid_filters=mid_filters), shape)

    fixed, newer, older = STEMS[stem](measure, tuple(input_shape), init_channels)
    choices = {kind: np.zeros((space.num_edges, len(space.primitive_names))) for kind in ("normal", "reduce")}
    edges = [edge for node in topology.all_edges(space.num_nodes) for edge in node]
    for plan in topology.plan_cells(num_cells, init_channels, after_reduction=stem == "imagenet"):
        older_layer, newer_layer = topology.preprocessing(plan)
        fixed += measure(older_layer(plan.filters), older) + measure(newer_layer(plan.filters), newer)
        size = (*newer[:2], plan.filters)  # of the cell's inputs
        inner = strided_shape((None, *size), (2, 2) if plan.reduction else (1, 1), plan.filters)[1:]
        for edge, source in edges:
            strides = topology.edge_strides(plan.reduction, source)
            for p, name in enumerate(space.primitive_names):
                shape = size if source < 2 else inner
                choices[plan.kind][edge, p] += primitive(name, plan.filters, strides, shape)
        older, newer = newer, (*inner[:2], plan.filters * space.num_concatenated)
    pool = keras.layers.GlobalAveragePooling2D(data_format=CHANNELS_LAST)
    classifier = keras.Sequential([pool, keras.layers.Dense(num_classes)])
    return Costs(fixed + measure(classifier, newer), list(choices.values()))


def _cifar_stem(measure: Measure, shape: Shape, init_channels: int) -> tuple[float, Shape, Shape]:
    """The cost of a stem, and the shapes of the newer and of the older state."""
    filters = topology.STEM_MULTIPLIER * init_channels
    state = (*shape[:2], filters)
    return measure(ConvBN(filters), shape), state, state


def _imagenet_stem(measure: Measure, shape: Shape, init_channels: int) -> tuple[float, Shape, Shape]:
    half, quarter, eighth = (ConvBN(filters, 3, 2) for filters in (init_channels // 2, init_channels, init_channels))
    total: float = 0
    for part in (half, keras.layers.ReLU(), quarter, keras.layers.ReLU(), eighth):
        older, total = shape, total + measure(part, shape)
        shape = tuple(part.compute_output_shape((None, *shape))[1:])
    return total, shape, older


STEMS = {"cifar": _cifar_stem, "imagenet": _imagenet_stem}
