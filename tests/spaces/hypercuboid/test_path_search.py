"""Paths out of a HyperCuboid's graph: every strategy against brute force, and the official longest path."""

import itertools
import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharpkeras.errors import ConfigError
from sharpkeras.spaces.hypercuboid import path_search as graphs

GOLDEN = Path(__file__).parents[2] / "golden" / "multichannel_scalar.npz"
FOUND = [name for name in graphs.STRATEGIES if name != "exhaustive"]


def softmax(alphas):
    exponentials = np.exp(alphas - np.max(alphas))
    return exponentials / exponentials.sum()


@st.composite
def cuboids(draw, positions=4, states=3, choices=4):
    """Softmax weights and outcomes of a small HyperCuboid in which every state is reached."""
    num_choices, num_states = draw(st.integers(1, choices)), draw(st.integers(1, states))
    weights, outcomes = [], []
    for _ in range(draw(st.integers(1, positions))):
        size = num_states * num_choices
        # On a grid, so that ties occur, and nothing else lies closer than rounding can tell apart.
        logits = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
        weights.append(softmax(np.reshape(logits, (num_states, num_choices)) / 4))
        after = draw(st.integers(1, min(states, size)))
        rest = draw(st.lists(st.integers(0, after - 1), min_size=size - after, max_size=size - after))
        outcomes.append(np.reshape(draw(st.permutations([*range(after), *rest])), (num_states, num_choices)))
        num_states = after
    return weights, outcomes


def routes(weights, outcomes):
    """Every path as its (state, choice) pairs, by counting through all of them."""
    for state, *picks in itertools.product(range(len(weights[0])), *(range(w.shape[1]) for w in weights)):
        route = []
        for k, targets in zip(picks, outcomes):
            route.append((state, k))
            state = targets[state, k]
        yield tuple(route)


def total(weights, route):
    return sum(w[pair] for w, pair in zip(weights, route))


# --- the graph ---


def test_a_graph_node_by_node():
    weights = [np.array([[0.6, 0.4]]), np.array([[0.1, 0.2], [0.3, 0.4]])]
    graph = graphs.build(weights, [np.array([[1, 0]]), np.array([[0, 0], [0, 0]])])
    path = ["Source", ("stem", 0), ("choice", 0, 0, 0), ("add", 0, 1), ("choice", 1, 1, 1), ("add", 1, 0), "Linear"]
    assert graphs.longest_path(graph) == path and nx.is_path(graph, path)
    assert graphs.choices(path) == [(0, 0), (1, 1)]
    assert graphs.score(graph, path) == 1.0 and nx.path_weight(graph, path, "weight") == 5.0
    assert graphs.count_paths(graph) == 4 and len(graph) == 1 + 1 + 2 + 2 + 4 + 1 + 1
    assert sum("alpha" in edge for *_, edge in graph.edges(data=True)) == 6


def test_a_graph_cannot_be_changed():
    graph = graphs.build([np.ones((1, 1))], [np.zeros((1, 1), int)])
    with pytest.raises(nx.NetworkXError):
        graph.add_edge("Source", "Linear")


@given(cuboids())
@settings(deadline=None)
def test_the_paths_of_the_graph_are_those_of_the_cuboid(cuboid):
    weights, outcomes = cuboid
    graph = graphs.build(*cuboid)
    paths = list(nx.all_simple_paths(graph, "Source", "Linear"))
    assert sorted(tuple(graphs.choices(path)) for path in paths) == sorted(routes(*cuboid))
    assert graphs.count_paths(graph) == len(paths)
    for path in paths:
        assert graphs.score(graph, path) == pytest.approx(total(weights, graphs.choices(path)), abs=1e-12)


def test_no_path_starts_at_a_state_that_nothing_leads_to():
    # From state 1 on, all choices are strong; but position 0 leads to state 0 alone.
    weights = [np.full((1, 2), 0.5), *[np.array([[0.0, 0.0], [0.5, 0.5]])] * 8]
    outcomes = [np.zeros((1, 2), int), *[np.array([[0, 0], [1, 1]])] * 8]
    graph = graphs.build(weights, outcomes)
    for find in (*(graphs.STRATEGIES[name] for name in FOUND), lambda graph: graphs.flow_paths(graph, 1)[0]):
        path = find(graph)
        assert path[0] == "Source" and [state for state, _ in graphs.choices(path)] == [0] * 9
    assert graphs.most_flow_paths(graph) == 2


# --- one path ---


@given(cuboids())
@settings(deadline=None)
def test_longest_exhaustive_and_a_wide_beam_find_the_highest_score(cuboid):
    weights, _ = cuboid
    graph, best = graphs.build(*cuboid), max(total(weights, route) for route in routes(*cuboid))
    for path in (graphs.longest_path(graph), graphs.exhaustive(graph), graphs.beam_search(graph, width=10**6)):
        assert graphs.score(graph, path) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", FOUND)
@given(cuboid=cuboids())
@settings(deadline=None, max_examples=40)
def test_every_strategy_finds_a_whole_path_no_better_than_the_longest(name, cuboid):
    graph = graphs.build(*cuboid)
    path = graphs.STRATEGIES[name](graph)
    assert nx.is_path(graph, path) and path[0] == "Source" and path[-1] == "Linear"
    assert graphs.score(graph, path) <= graphs.score(graph, graphs.longest_path(graph)) + 1e-12


@given(cuboids(), st.integers(1, 4))
@settings(deadline=None)
def test_a_beam_keeps_the_best_beginnings(cuboid, width):
    weights, outcomes = cuboid
    beam = [((state,), 0.0) for state in range(len(weights[0]))]  # (pairs so far, then the state), score
    for w, targets in zip(weights, outcomes):
        grown = [
            ((*pairs, (s, k), targets[s, k]), score + w[s, k]) for (*pairs, s), score in beam for k in range(w.shape[1])
        ]
        beam = sorted(grown, key=lambda entry: -entry[1])
        assume(len(beam) <= width or beam[width - 1][1] - beam[width][1] > 1e-9)  # a tie may be cut either way
        beam = beam[:width]
    graph = graphs.build(*cuboid)
    assert graphs.score(graph, graphs.beam_search(graph, width)) == pytest.approx(beam[0][1], abs=1e-12)


@given(cuboids())
@settings(deadline=None)
def test_top_down_takes_the_strongest_choice_that_those_before_allow(cuboid):
    weights, outcomes = cuboid
    pairs = graphs.choices(graphs.greedy_top_down(graphs.build(*cuboid)))
    allowed = np.full(weights[0].shape, True)  # every stem
    for w, targets, pair in zip(weights, outcomes, pairs):
        assert allowed[pair] and w[pair] == w[allowed].max()
        allowed = np.arange(targets.max() + 1)[:, None] == np.full((1, w.shape[1]), targets[pair])


@given(cuboids())
@settings(deadline=None)
def test_bottom_up_takes_the_strongest_choice_that_those_after_allow(cuboid):
    weights, outcomes = cuboid
    pairs = graphs.choices(graphs.greedy_bottom_up(graphs.build(*cuboid)))
    allowed = np.full(weights[-1].shape, True)  # every final state
    for position in reversed(range(len(weights))):
        w, pair = weights[position], pairs[position]
        assert allowed[pair] and w[pair] == w[allowed].max()
        allowed = outcomes[position - 1] == pair[0]


def test_the_greedy_strategies_are_not_the_longest_path():
    weights = [softmax(np.log([[0.4, 0.35, 0.25]])), softmax(np.log([[0.05, 0.1], [0.15, 0.3], [0.35, 0.05]]))]
    graph = graphs.build(weights, [np.array([[0, 1, 2]]), np.array([[0, 1]] * 3)])
    pairs = {name: graphs.choices(find(graph)) for name, find in graphs.STRATEGIES.items()}
    assert pairs["greedy_top_down"] == [(0, 0), (0, 1)]
    assert pairs["greedy_bottom_up"] == [(0, 2), (2, 0)]
    assert pairs["longest"] == pairs["exhaustive"] == pairs["beam"] == [(0, 1), (1, 1)]


def test_a_beam_needs_a_path():
    with pytest.raises(ConfigError, match="allowed: 1 or more"):
        graphs.beam_search(graphs.build([np.ones((1, 1))], [np.zeros((1, 1), int)]), width=0)


def test_too_many_paths_are_counted_not_tried():
    graph = graphs.build([np.full((4, 8), 1 / 32)] * 8, [np.tile(np.arange(8) // 2, (4, 1))] * 8)  # MultiChannelNet
    assert graphs.count_paths(graph) == 4 * 8**8
    with pytest.raises(ConfigError, match="67,108,864 paths"):
        graphs.exhaustive(graph)


# --- several paths ---


def best_sets(weights, outcomes):
    """Per number of paths without a common choice the highest total score, from all sets; index 0 is no path."""
    best = [0.0]
    every = [(set(enumerate(route)), total(weights, route)) for route in routes(weights, outcomes)]
    sets = [(used, score, index) for index, (used, score) in enumerate(every)]
    while sets:
        best.append(max(score for _, score, _ in sets))
        sets = [
            (used | other, score + more, index)
            for used, score, last in sets
            for index, (other, more) in enumerate(every[last + 1 :], last + 1)
            if not used & other
        ]
    return best


@given(cuboids(positions=3, states=2, choices=3))
@settings(deadline=None)
def test_flow_paths_are_the_best_set_of_paths_without_a_common_choice(cuboid):
    graph, best = graphs.build(*cuboid), best_sets(*cuboid)
    assert graphs.most_flow_paths(graph) == len(best) - 1
    for demand in range(1, len(best)):
        paths = graphs.flow_paths(graph, demand)
        used = [pair for path in paths for pair in enumerate(graphs.choices(path))]
        scores = [graphs.score(graph, path) for path in paths]
        assert len(paths) == demand and all(nx.is_path(graph, path) for path in paths)
        assert all(path[0] == "Source" and path[-1] == "Linear" for path in paths)
        assert len(set(used)) == len(used)
        assert sum(scores) == pytest.approx(best[demand], abs=1e-12)
        assert all(stronger >= weaker - 1e-12 for stronger, weaker in itertools.pairwise(scores))
    with pytest.raises(ConfigError, match=f"allowed: 1 to {len(best) - 1};"):
        graphs.flow_paths(graph, len(best))


def test_the_narrowest_position_and_what_joins_two_of_them_limit_the_paths():
    # Four of five choices lead to state 0, which goes on by two; only the fifth leads to state 1.
    weights = [np.full((1, 5), 1 / 5), np.full((2, 2), 1 / 4)]
    graph = graphs.build(weights, [np.array([[0, 0, 0, 0, 1]]), np.array([[0, 0], [0, 0]])])
    with pytest.raises(ConfigError, match="1 to 3; the narrowest position has 4 choices"):
        graphs.flow_paths(graph, 4)


@given(cuboids())
@settings(deadline=None)
def test_one_flow_path_is_the_longest_path(cuboid):
    graph = graphs.build(*cuboid)
    (path,) = graphs.flow_paths(graph, 1)
    assert graphs.score(graph, path) == pytest.approx(graphs.score(graph, graphs.longest_path(graph)), abs=1e-12)


def cost(paths):
    """A made-up resource: choice k costs 1 + k, a state that several paths pass costs once."""
    nodes = set().union(*paths)
    return sum(1 + node[3] for node in nodes if node[0] == "choice") + sum(node[0] == "add" for node in nodes)


@given(cuboids(), st.integers(2, 40), st.none() | st.integers(1, 4))
@settings(deadline=None)
def test_a_budget_holds_the_paths_found_and_not_one_more(cuboid, limit, max_demand):
    graph = graphs.build(*cuboid)
    try:
        paths = graphs.within_budget(graph, cost, limit, max_demand)
    except ConfigError as error:
        alone = cost(graphs.flow_paths(graph, 1))
        assert error.seen == alone > limit and error.allowed == f"at most {limit}"
        return
    assert cost(paths) <= limit and paths == graphs.flow_paths(graph, len(paths))
    if len(paths) < graphs.most_flow_paths(graph) and len(paths) != max_demand:
        assert cost(graphs.flow_paths(graph, len(paths) + 1)) > limit
    assert max_demand is None or len(paths) <= max_demand


# --- the official code ---


def official_names(path, filters, primitives):
    """A path in the node names of the official graph."""
    pairs, adds = graphs.choices(path), [state for kind, *_, state in path[1:-1] if kind == "add"]
    names = ["Source", f"Conv3x3_{pairs[0][0]}", f"BatchNorm_{pairs[0][0]}"]
    for position, ((state, k), after) in enumerate(zip(pairs, adds)):
        stage, stride, c_out, primitive = position // 2, position % 2 + 1, *divmod(k, len(primitives))
        layer = f"layer_{stage}_stride_{stride}_c_in_{filters[state]}_c_out_{filters[c_out]}"
        names.append(f"{layer}_op_type_{primitives[primitive]}")
        names.append(f"layer_{stage}_add_c_out_{filters[after]}_stride_{stride}")
    return [*names, f"SharpSepConv{filters[adds[-1]]}", "add-SharpSep", "global_pooling", "Linear"]


def test_the_official_longest_path():
    with np.load(GOLDEN, allow_pickle=False) as golden:
        meta, alphas = json.loads(str(golden["meta"])), golden["alphas"].astype("float64")
    filters, primitives = meta["channel_choices"], meta["primitives"]
    grids = [alphas[stride, stage] for stage in range(meta["layers"]) for stride in (0, 1)]  # (c_in, c_out, primitive)
    weights = [softmax(grid).reshape(len(filters), -1) for grid in grids]
    targets = np.tile(np.repeat(np.arange(len(filters)), len(primitives)), (len(filters), 1))
    graph = graphs.build(weights, [targets] * len(grids))
    for name in ("longest", "exhaustive", "beam"):
        path = graphs.STRATEGIES[name](graph)
        assert official_names(path, filters, primitives) == meta["longest_path"]
    assert official_names(graphs.flow_paths(graph, 1)[0], filters, primitives) == meta["longest_path"]
