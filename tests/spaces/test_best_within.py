"""The best path within a budget: against all paths and integer programming; without a limit against DARTS' rule."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize

from sharpkeras.errors import ConfigError, ResourceError
from sharpkeras.spaces.best_within import Slab, _fronts, best_within, cheapest, pair_options

WHOLE = st.integers(0, 12)  # few values, for many ties
MILLISECONDS = st.floats(0, 10, allow_subnormal=False)
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))


def paths(slabs):
    """(score, cost, options) of every path, the sums in the order of the slabs."""
    for chosen in itertools.product(*(range(len(slab.scores)) for slab in slabs)):
        taken = list(zip(slabs, chosen))
        if all(a.targets[i] == b.sources[j] for (a, i), (b, j) in itertools.pairwise(taken)):
            yield sum(slab.scores[i] for slab, i in taken), sum(slab.costs[i] for slab, i in taken), list(chosen)


def score_and_cost(slabs, chosen):
    return tuple(sum(column[i] for column, i in zip(columns, chosen)) for columns in zip(*(slab[2:] for slab in slabs)))


def one_state(scores, costs):
    nowhere = np.zeros(len(scores), int)
    return Slab(nowhere, nowhere, np.asarray(scores), np.asarray(costs))


@st.composite
def chains(draw, num_states=3):
    costs = draw(st.sampled_from([WHOLE, MILLISECONDS]))
    state = st.integers(0, num_states - 1)
    option = st.tuples(state, state, SCORES, costs)
    slabs = draw(st.lists(st.lists(option, min_size=1, max_size=6), min_size=1, max_size=4))
    return [Slab(*(np.array(column) for column in zip(*options))) for options in slabs]


def check_against_all_paths(slabs, data):
    every = list(paths(slabs))
    assume(every)
    least = min(cost for _, cost, _ in every)
    assert cheapest(slabs) == least
    # a limit that a path meets exactly, or any other; below the least too
    limit = data.draw(st.one_of(st.sampled_from([cost for _, cost, _ in every]), MILLISECONDS, st.none()), "limit")
    within = [(score, -cost) for score, cost, _ in every if limit is None or cost <= limit]
    if not within:
        with pytest.raises(ConfigError, match="budget") as caught:
            best_within(slabs, limit)
        assert f"{cheapest(slabs):,}" in caught.value.allowed
        return
    chosen = best_within(slabs, limit)
    assert chosen in [options for _, _, options in every]
    score, cost = score_and_cost(slabs, chosen)
    assert (score, -cost) == max(within)  # to the last bit, and so never above the limit


@settings(max_examples=300, deadline=None)
@given(chains(), st.data())
def test_best_of_all_paths(slabs, data):
    check_against_all_paths(slabs, data)


@settings(max_examples=150, deadline=None)
@given(chains(num_states=1), st.data())
def test_best_of_all_combinations_without_states(slabs, data):
    check_against_all_paths(slabs, data)


def cell_like(generator, num_primitives=8, top=10**8):
    """Softmax weights and whole costs of the eight nodes of two cells: a list of (scores, costs), each (2 + i, P)."""
    for num_edges in (2, 3, 4, 5) * 2:
        weights = np.exp(generator.normal(size=(num_edges, num_primitives)))
        weights /= weights.sum(-1, keepdims=True)
        weights[:, 0] = -1  # `none`
        yield weights, generator.integers(0, top, weights.shape)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_without_a_limit_it_is_the_rule_of_darts(seed):
    """Of each edge the strongest primitive, of each node the two edges whose strongest is strongest."""
    nodes = list(cell_like(np.random.default_rng(seed)))
    options = [pair_options(*node) for node in nodes]
    chosen = best_within([one_state(scores, costs) for _, _, scores, costs in options])
    for (weights, _), (edges, primitives, _, _), i in zip(nodes, options, chosen):
        kept = np.sort(np.argsort(weights.max(-1))[-2:])
        np.testing.assert_array_equal(edges[i], kept)
        np.testing.assert_array_equal(primitives[i], weights[kept].argmax(-1))


def test_pairs_are_of_different_edges_and_leave_out_what_is_not_allowed():
    scores = np.array([[-1, 0.3, 0.7], [-np.inf, 0.6, 0.4], [-1, 0.0, -1]])
    costs = np.array([[0, 10, 20], [0, 1, 2], [0, 100, 200]])
    found = {}
    for (a, b), (p, q), score, cost in zip(*pair_options(scores, costs)):
        assert (a, p, b, q) not in found
        found[a, p, b, q] = score, cost
    expected = {
        (a, p, b, q): (scores[a, p] + scores[b, q], costs[a, p] + costs[b, q])
        for a, b in itertools.combinations(range(3), 2)
        for p, q in itertools.product((1, 2), repeat=2)
        if scores[a, p] >= 0 and scores[b, q] >= 0
    }
    assert found == expected and len(found) == 4 + 2 + 2


def test_the_example():
    slabs = [one_state([0.5, 0.4, 0.1], [9, 4, 1])] * 2
    assert best_within(slabs, 10) == [1, 1]
    assert sorted(best_within(slabs, 7)) == [1, 2]
    assert best_within(slabs) == [0, 0]


def by_integer_programming(slabs, limit):
    """The greatest score: x in {0, 1} for each option, as much flow out of a state as into it, within the limit."""
    sizes = [len(slab.scores) for slab in slabs]
    columns = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rows, right = [np.isin(np.arange(sum(sizes)), columns[0])], [1]
    for slab, after, here, there in zip(slabs, slabs[1:], columns, columns[1:]):
        for state in np.union1d(slab.targets, after.sources):
            row = np.zeros(sum(sizes))
            row[here[slab.targets == state]], row[there[after.sources == state]] = 1, -1
            rows.append(row)
            right.append(0)
    costs = np.concatenate([slab.costs for slab in slabs])
    solved = optimize.milp(
        -np.concatenate([slab.scores for slab in slabs]),
        integrality=np.ones(sum(sizes)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(np.array(rows, float), right, right),
            optimize.LinearConstraint(costs / costs.max(), ub=limit / costs.max()),
        ],
        options={"mip_rel_gap": 0},
    )
    assert solved.success
    return -solved.fun


def cuboid_like(generator, num_layers=6, num_states=4, num_choices=8):
    sources = np.repeat(np.arange(num_states), num_choices)
    for _ in range(num_layers):
        weights = np.exp(generator.normal(size=len(sources)))
        targets = np.tile(np.arange(num_choices) % num_states, num_states)
        yield Slab(sources, targets, weights / weights.sum(), generator.integers(0, 1000, len(sources)))


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("space", ["cells", "cuboid"])
def test_integer_programming_finds_nothing_better(space, share):
    generator = np.random.default_rng(7)
    if space == "cuboid":
        slabs = list(cuboid_like(generator))
    else:
        slabs = [one_state(*pair_options(*node)[2:]) for node in cell_like(generator, num_primitives=6, top=1000)]
    least, dearest = cheapest(slabs), score_and_cost(slabs, best_within(slabs))[1]
    limit = int(least + share * (dearest - least))
    score, cost = score_and_cost(slabs, best_within(slabs, limit))
    assert cost <= limit < dearest
    assert score == pytest.approx(by_integer_programming(slabs, limit), abs=1e-9)


def test_sums_of_whole_costs_are_exact():
    """One above the limit is above the limit, where float32 could not tell."""
    slabs = [one_state([1.0, 0.5], [2**40 + 1, 2**40])] * 2
    assert best_within(slabs, 2**41 + 2) == [0, 0]
    assert sorted(best_within(slabs, 2**41 + 1)) == [0, 1]
    assert best_within(slabs, 2**41) == [1, 1]
    assert isinstance(cheapest(slabs), int)
    with pytest.raises(ConfigError, match="at least 2,199,023,255,552"):
        best_within(slabs, 2**41 - 1)


def test_a_limit_that_rounding_would_miss():
    """0.3 + 0.2 + 0.1 is 0.6 from left to right, and more from right to left."""
    assert 0.3 + (0.2 + 0.1) > 0.6
    slabs = [one_state([1.0], [cost]) for cost in (0.3, 0.2, 0.1)]
    assert cheapest(slabs) == 0.6
    assert best_within(slabs, 0.6) == [0, 0, 0]


def test_nothing_beaten_stays_in_a_front():
    slabs = [one_state(*pair_options(*node)[2:]) for node in cell_like(np.random.default_rng(3), top=5)]
    for labels in _fronts(slabs, 30):
        assert (np.diff(labels.costs) > 0).all() and (np.diff(labels.scores) > 0).all()


def test_slabs_that_do_not_meet():
    slabs = [Slab(*np.array([[0], [0], [1], [1]])), Slab(*np.array([[1], [0], [1], [1]]))]
    with pytest.raises(ConfigError, match="no path leads through"):
        best_within(slabs)


def test_a_node_with_a_single_edge_has_no_options():
    edges, primitives, scores, costs = pair_options(np.ones((1, 3)), np.ones((1, 3)))
    assert edges.shape == primitives.shape == (0, 2)
    with pytest.raises(ConfigError, match="no path leads through"):
        best_within([one_state(scores, costs)])


@pytest.mark.parametrize("score, cost", [(np.nan, 1), (-np.inf, 1), (1, np.nan), (1, np.inf), (1, -1)])
def test_what_can_not_be_added_up(score, cost):
    slabs = [one_state([1], [1]), one_state([1, score], [1, cost])]
    for function in (best_within, cheapest):
        with pytest.raises(ConfigError, match="slab 1, option 1"):
            function(slabs)


def test_fronts_that_outgrow_the_memory(monkeypatch):
    monkeypatch.setattr("sharpkeras.spaces.best_within.MOST_LABELS", 10)
    powers = [one_state([2**i, 0], [2**i, 0]) for i in range(5)]  # every path has a score and a cost of its own
    with pytest.raises(ResourceError, match="round the costs"):
        best_within(powers)
    assert best_within([slab._replace(costs=np.zeros(2)) for slab in powers]) == [0] * 5
