"""What genotypes cost: sums of parts against the networks themselves, and budgets against every genotype there is."""

import functools
import itertools

import keras
import numpy as np
import pytest
from support.gradients import float64, gradient

from sharpkeras.errors import ConfigError
from sharpkeras.measure import cost
from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.space import CellSpace

MEASURES = ("addmults_paper", "parameters")


def measure(name):
    return lambda layer, shape: getattr(cost.of_layer(layer, shape), name)


# --- a cost is that of the network ---

TINY_NAMES = ("none", "max_pool_3x3", "sep_conv_3x3")
SMALL = dict(input_shape=(8, 8, 3), num_classes=4, init_channels=4, num_cells=3)
IMAGENET = dict(stem="imagenet", input_shape=(32, 32, 3), num_classes=5, init_channels=4, num_cells=2)
NETWORKS = {
    "sharp": (CellSpace(PRIMITIVES["table1"], "sharp", num_nodes=2, num_concatenated=2), SMALL),
    "darts": (CellSpace(PRIMITIVES["darts"], "darts", num_nodes=2, num_concatenated=2), SMALL),
    "odd images": (CellSpace(PRIMITIVES["darts"], num_nodes=1, num_concatenated=1), SMALL | {"input_shape": (9, 7, 1)}),
    "unread node": (CellSpace(TINY_NAMES, num_nodes=3, num_concatenated=1), SMALL | {"num_cells": 2}),
    "one cell": (CellSpace(PRIMITIVES["darts"], num_nodes=2, num_concatenated=2), SMALL | {"num_cells": 1}),
    "imagenet": (CellSpace(PRIMITIVES["darts"], num_nodes=2, num_concatenated=2), IMAGENET),
    "mid filters": (
        CellSpace(("choke_conv_3x3", "dil_choke_conv_3x3", "sep_conv_3x3"), num_nodes=2, num_concatenated=2),
        SMALL | {"mid_filters": 3},
    ),
}


@pytest.mark.parametrize("space, sizes", NETWORKS.values(), ids=NETWORKS)
def test_the_cost_of_a_genotype_is_that_of_its_network(space, sizes):
    costs = {name: space.costs(measure(name), **sizes) for name in MEASURES}
    for seed in range(3):
        genotype = space.sample(seed)
        exact = cost.count(space.network(genotype, **sizes).without_auxiliary())
        for name, table in costs.items():
            assert space.cost_of(genotype, table) == getattr(exact, name), (genotype, name)
    assert [table.shape for table in costs["parameters"].choices] == [a.shape for a in space.init_alphas(0)]


@pytest.mark.parametrize("ops", OPS)
def test_every_primitive_of_a_table_has_its_cost(ops):
    names = tuple(OPS[ops])
    space = CellSpace(names, ops, num_nodes=1, num_concatenated=1)
    table = space.costs(measure("parameters"), **SMALL)
    for pair in zip(names[::2], reversed(names)):
        pairs = tuple(zip(pair, (0, 1)))
        genotype = Genotype(pairs, (2,), pairs, (2,))
        exact = cost.count(space.network(genotype, **SMALL).without_auxiliary()).parameters
        assert space.cost_of(genotype, table) == exact, pair


def test_two_pairs_of_one_source_cost_twice():
    space = CellSpace(PRIMITIVES["darts"], num_nodes=1, num_concatenated=1)
    pairs = (("sep_conv_3x3", 0), ("sep_conv_3x3", 0))
    genotype = Genotype(pairs, (2,), pairs, (2,))
    costs = space.costs(measure("addmults_paper"), **SMALL)
    exact = cost.count(space.network(genotype, **SMALL).without_auxiliary()).addmults_paper
    assert space.cost_of(genotype, costs) == exact


# --- every genotype of a tiny space ---

TINY = CellSpace(TINY_NAMES, num_nodes=2, num_concatenated=2)


@pytest.fixture(scope="module")
def costs():
    return functools.cache(lambda name: TINY.costs(measure(name), **SMALL))


@functools.cache
def every_cell(skip_none=True):
    """All (pairs of a cell): two of the edges of each node, and a primitive on each."""
    names = [name for name in TINY.primitive_names if name != "none" or not skip_none]
    nodes = []
    for node in range(TINY.num_nodes):
        sources = itertools.combinations(range(2 + node), 2)
        nodes.append([tuple(zip(picked, both)) for both in sources for picked in itertools.product(names, repeat=2)])
    return [sum(cell, ()) for cell in itertools.product(*nodes)]


def every_genotype(skip_none=True):
    return [
        Genotype(*pair) for pair in itertools.product(every_cell(skip_none), [(2, 3)], every_cell(skip_none), [(2, 3)])
    ]


def softmax(alphas, skip_none=False):
    logits = np.asarray(alphas, "float64").copy()
    if skip_none:
        logits[:, TINY.primitive_names.index("none")] = -np.inf
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def places(pairs):
    """The (edge, primitive) indices of the pairs of a cell."""
    nodes = topology.all_edges(TINY.num_nodes)
    return [
        (dict((source, edge) for edge, source in nodes[i // 2])[source], TINY.primitive_names.index(name))
        for i, (name, source) in enumerate(pairs)
    ]


def random_alphas(seed):
    return [a.astype("float32") for a in np.random.default_rng(seed).normal(size=(2, TINY.num_edges, 3))]


def mean_cost(alphas, costs):
    """The mean over all genotypes: any two edges of a node alike, and each draws a primitive by its alphas."""
    total = costs.fixed
    for logits, table in zip(alphas, costs.choices):
        weights = softmax(logits, skip_none=True)
        cells = [places(pairs) for pairs in every_cell()]
        pairs_of_edges = len({tuple(edge for edge, _ in cell) for cell in cells})
        for cell in cells:
            chance = np.prod([weights[place] for place in cell]) / pairs_of_edges
            total += chance * sum(table[place] for place in cell)
    return total


@pytest.mark.parametrize("name", MEASURES)
def test_the_expected_cost_of_equal_alphas_is_the_mean_over_all_genotypes(name, costs):
    table, genotypes = costs(name), every_genotype()
    assert len(genotypes) == (4 * 12) ** 2
    mean = np.mean([TINY.cost_of(genotype, table) for genotype in genotypes])
    equal = [np.full((TINY.num_edges, 3), 0.7, "float32")] * 2
    assert float(TINY.expected_cost(equal, table)) == pytest.approx(mean, rel=1e-5)
    alphas = random_alphas(3)
    assert float(TINY.expected_cost(alphas, table)) == pytest.approx(mean_cost(alphas, table), rel=1e-5)


def test_the_expected_cost_of_equal_alphas_is_the_mean_of_samples(costs):
    # Within five standard errors: what `sample` draws is drawn alike.
    drawn = [TINY.cost_of(TINY.sample(seed), costs("parameters")) for seed in range(2000)]
    equal = [np.zeros((TINY.num_edges, 3), "float32")] * 2
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert float(TINY.expected_cost(equal, costs("parameters"))) == pytest.approx(np.mean(drawn), abs=5 * error)


def test_the_expected_cost_has_the_precision_of_the_alphas(costs):
    alphas, table = random_alphas(1), costs("parameters")
    with float64():
        precise = TINY.expected_cost([keras.ops.convert_to_tensor(a, "float64") for a in alphas], table)
        assert keras.backend.standardize_dtype(precise.dtype) == "float64"
        assert float(precise) == pytest.approx(mean_cost(alphas, table), rel=1e-12)


def test_the_gradient_of_the_expected_cost_is_that_of_the_mean(costs):
    table, alphas = costs("parameters"), random_alphas(4)
    _, _, slopes = gradient(lambda values: (TINY.expected_cost(values, table), ()), alphas)
    exact, step = [a.astype("float64") for a in alphas], 1e-5
    for logits, slope in zip(exact, slopes):
        for index in np.ndindex(logits.shape):
            ends = []
            for sign in (1, -1):
                logits[index] += sign * step
                ends.append(mean_cost(exact, table))
                logits[index] -= sign * step
            assert slope[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-2)
    assert all(np.all(slope[:, 0] == 0) for slope in slopes)  # `none` is never drawn


# --- extraction within a budget ---


def scored(alphas, costs, skip_none):
    """(score, cost, genotype) of every genotype, where the score is the sum of the softmax weights that it takes."""
    weights = [softmax(logits) for logits in alphas]
    sums = [[sum(w[place] for place in places(pairs)) for pairs in every_cell(skip_none)] for w in weights]
    scores = [normal + reduce for normal, reduce in itertools.product(*sums)]
    return [(s, TINY.cost_of(g, costs), g) for s, g in zip(scores, every_genotype(skip_none))]


@pytest.mark.parametrize("skip_none", (True, False), ids=("without none", "with none"))
@pytest.mark.parametrize("name", MEASURES)
def test_extraction_finds_the_best_genotype_within_any_limit(name, skip_none, costs):
    table, alphas = costs(name), random_alphas(5)
    everything = scored(alphas, table, skip_none)
    numbers = sorted(number for _, number, _ in everything)
    score_of = {as_sets(genotype): score for score, _, genotype in everything}
    for limit in (numbers[0], numbers[len(numbers) // 10], numbers[len(numbers) // 2] + 0.5, numbers[-1]):
        best = max(score for score, number, _ in everything if number <= limit)
        found = TINY.extract(alphas, skip_none, name="found", costs=table, limit=limit)
        assert TINY.cost_of(found, table) <= limit and found.name == "found"
        assert score_of[as_sets(found)] == pytest.approx(best, abs=1e-12)
    assert TINY.extract(alphas, skip_none) == TINY.extract(alphas, skip_none, costs=table, limit=numbers[-1])
    assert score_of[as_sets(TINY.extract(alphas, skip_none))] == pytest.approx(max(everything)[0], abs=1e-12)

    with pytest.raises(ConfigError) as caught:
        TINY.extract(alphas, skip_none, costs=table, limit=numbers[0] - 1)
    assert caught.value.exit_code == 3 and f"{numbers[0]:,.0f}" in caught.value.allowed


def as_sets(genotype):
    """The pairs of each node, in no order."""
    return tuple(tuple(frozenset(node) for node in genotype.cell(reduction)[0]) for reduction in (False, True))


def test_the_stronger_pair_of_a_node_comes_first(costs):
    alphas = random_alphas(6)
    found = TINY.extract(alphas, costs=costs("parameters"), limit=float("inf"))
    for logits, pairs in zip(alphas, (found.normal, found.reduce)):
        strengths = [softmax(logits)[place] for place in places(pairs)]
        assert strengths[0] >= strengths[1] and strengths[2] >= strengths[3]
