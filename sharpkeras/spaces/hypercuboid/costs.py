"""What a path costs, choice by choice: the cost of its network is a sum over its positions (§5: "a resource cost")."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from sharpkeras.layers import CHANNELS_LAST
from sharpkeras.spaces import Costs, best_within
from sharpkeras.spaces.search_space import Measure

if TYPE_CHECKING:
    from sharpkeras.spaces.hypercuboid.space import HyperCuboid


def costs(
    space: "HyperCuboid", measure: Measure, input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10
) -> Costs:
    """The Costs of a HyperCuboid's networks: choices are L arrays (S_l, *sizes of the axes).

    The stem of a path counts with its first choice, the head with its last.

    Args:
        space: HyperCuboid.
        measure: (layer, input shape (H, W, C)) → its cost, a number.
        input_shape, num_classes: of the final network.
    """

    @functools.cache
    def layer(position, choice, shape):
        return measure(space.make_layer(position, choice), shape)

    input_shape = tuple(input_shape)
    shapes = space.state_shapes(input_shape)
    alike = [space.positions.index(position) for position in space.positions]  # the first position with the same layers
    tables = [
        np.array([[layer(first, choice, shape) for choice in space.choices] for shape in states])
        for first, states in zip(alike, shapes)
    ]
    stems = [measure(space.make_stem(choice), input_shape) for choice in space.stem_choices]
    features = [space.make_head().compute_output_shape((None, *shape))[1:] for shape in shapes[-1]]
    pool = functools.partial(keras.layers.GlobalAveragePooling2D, data_format=CHANNELS_LAST)
    heads = [measure(space.make_head(), s) + measure(pool(), f) for s, f in zip(shapes[-1], features)]
    tables[0] = tables[0] + np.array(stems)[:, None]
    tables[-1] = tables[-1] + np.array(heads)[space.lattice[1][-1]]
    sizes = [len(values) for values in space.axes.values()]
    dense = measure(keras.layers.Dense(num_classes), features[0][-1:])
    return Costs(dense, [table.reshape(-1, *sizes) for table in tables])


def cost_of(space: "HyperCuboid", route: Sequence[tuple[int, int]], costs: Costs) -> float:
    """The cost of a route, (state, choice) per position."""
    return float(costs.fixed + sum(table[step] for table, step in zip(_tables(space, costs), route)))


def expected_cost(space: "HyperCuboid", alphas: Sequence[Any], costs: Costs) -> Any:
    """The mean cost of a random path, a scalar with a gradient: the alphas weigh the choices that a state has.

    The stem and the first choice are drawn by the whole first grid, each further choice by the alphas of the state it
    reads. Where all alphas are equal this is the mean cost of what `sample` draws.
    """
    dtype = keras.backend.standardize_dtype(alphas[0].dtype)
    total, reached = ops.convert_to_tensor(costs.fixed, dtype), None
    for logits, table, outcomes in zip(alphas, _tables(space, costs), space.lattice[1]):
        rows = ops.reshape(logits, table.shape)  # (S_l, K)
        if reached is None:
            drawn = ops.reshape(ops.softmax(ops.reshape(rows, (-1,))), table.shape)
        else:
            drawn = ops.reshape(reached, (-1, 1)) * ops.softmax(rows, axis=-1)
        total = total + ops.sum(drawn * table.astype(dtype))
        leads = (outcomes.reshape(-1, 1) == np.arange(outcomes.max() + 1)).astype(dtype)  # (S_l·K, S_l+1)
        reached = ops.reshape(ops.matmul(ops.reshape(drawn, (1, -1)), leads), (-1,))
    return total


def longest_within(
    space: "HyperCuboid", weights: Sequence[np.ndarray], costs: Costs, limit: float
) -> list[tuple[int, int]]:
    """The route of the largest sum of softmax weights, L arrays (S_l, K), of all that cost at most `limit`.

    Raises:
        ConfigError: when none does.
    """
    slabs = []
    for scores, table, outcomes in zip(weights, _tables(space, costs), space.lattice[1]):
        sources = np.repeat(np.arange(len(scores)), space.num_choices)
        slabs.append(best_within.Slab(sources, outcomes.ravel(), scores.ravel(), table.ravel()))
    slabs[0] = slabs[0]._replace(costs=slabs[0].costs + costs.fixed)
    return [divmod(option, space.num_choices) for option in best_within.best_within(slabs, limit)]


def _tables(space: Any, costs: Any) -> list[Any]:
    """What the choices cost, L arrays (S_l, K)."""
    return [table.reshape(-1, space.num_choices) for table in costs.choices]
