"""Paths out of a HyperCuboid (§4.1): its choices as a directed acyclic graph, and the ways to choose among them.

Source → stem → choice → add → choice → … → add → Linear. Only an edge choice → add carries a softmax weight; all other
edges weigh 1. Every path is equally long, so that these constants favour none.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from sharpkeras.errors import ConfigError

Node = Any  # SOURCE, ("stem", s), ("choice", position, s, k), ("add", position, s) or SINK

SOURCE = "Source"
SINK = "Linear"
BEAM_WIDTH = 16
MAX_PATHS = 200_000  # which `exhaustive` tries in seconds

# networkx vouches for its simplex on integers only: a rounded sum can turn the sign of a pivot. Steps of 2⁻⁵³ are no
# coarser than those of float64 just below 1, and Python's integers do not overflow.
COST_SCALE = 2**53


def build(weights: Sequence[np.ndarray], outcomes: Sequence[np.ndarray]) -> nx.DiGraph:
    """The graph of a HyperCuboid (Fig. 6), frozen.

    Nodes are SOURCE, ("stem", s), ("choice", position, s, k), ("add", position, s) and SINK. A state that no choice
    leads to has no nodes: a longest path could otherwise start there.

    Args:
        weights: per position the softmax weights of its choices, (S, K).
        outcomes: per position the state after it that a choice leads to, integers, (S, K).
    """
    graph = nx.DiGraph()
    states: dict[int, Node] = {state: ("stem", state) for state in range(len(weights[0]))}
    graph.add_edges_from(((SOURCE, stem) for stem in states.values()), weight=1.0)
    for position, (slab, targets) in enumerate(zip(weights, outcomes)):
        reached: dict[int, Node] = {}
        for state, node in states.items():
            for k, (weight, target) in enumerate(zip(slab[state].tolist(), targets[state].tolist())):
                choice, reached[target] = ("choice", position, state, k), ("add", position, target)
                graph.add_edge(node, choice, weight=1.0)
                graph.add_edge(choice, reached[target], weight=weight, alpha=True)
        states = dict(sorted(reached.items()))
    graph.add_edges_from(((add, SINK) for add in states.values()), weight=1.0)
    return nx.freeze(graph)


def score(graph: nx.DiGraph, nodes: Sequence[Node]) -> float:
    """The sum of the softmax weights along a path (§4.1), or along a part of one."""
    edges = (graph.edges[edge] for edge in pairwise(nodes))
    return sum(edge["weight"] for edge in edges if "alpha" in edge)


def choices(nodes: Sequence[tuple]) -> list[tuple[int, int]]:
    """What a path picks: (state, choice) per position."""
    return [node[2:] for node in nodes if node[0] == "choice"]


def count_paths(graph: nx.DiGraph) -> int:
    """How many paths lead from SOURCE to SINK."""
    counts: dict[Node, int] = {}
    for node in nx.topological_sort(graph):
        counts[node] = sum(counts[before] for before in graph.predecessors(node)) or 1
    return counts[SINK]


# --- one path ---


def longest_path(graph: nx.DiGraph) -> list[Node]:
    """The path of the highest score: "an optimal path … which maximizes the total path score" (§4.1)."""
    return nx.dag_longest_path(graph)


def beam_search(graph: nx.DiGraph, width: int = BEAM_WIDTH, start: Node = SOURCE, end: Node = SINK) -> list[Node]:
    """The best path that is left if after each position only the `width` best beginnings are kept.

    Raises:
        ConfigError: for a width below 1.
    """
    if width < 1:
        raise ConfigError("a beam without a path", where="width", seen=width, allowed="1 or more")
    beam = [[start]]
    while beam[0][-1] != end:
        beam = [[*nodes, after] for nodes in beam for after in graph[nodes[-1]]]
        if "alpha" in graph.edges[beam[0][-2:]]:  # on the constants between all tie, and a cut would be arbitrary
            beam = heapq.nlargest(width, beam, key=partial(score, graph))
    return max(beam, key=partial(score, graph))


def greedy_top_down(graph: nx.DiGraph) -> list[Node]:
    """At every position the strongest choice for the state that the ones before led to; the first one picks the stem.

    The official greedy paths are other ones: that routine compares the constants too and takes the first of a tie.
    """
    return beam_search(graph, width=1)


def greedy_bottom_up(graph: nx.DiGraph) -> list[Node]:
    """From the last position back: the strongest choice that leads to the state which the ones after it start from."""
    return beam_search(graph.reverse(copy=False), width=1, start=SINK, end=SOURCE)[::-1]


def exhaustive(graph: nx.DiGraph) -> list[Node]:
    """The path of the highest score, by trying each: what tests hold the other strategies to.

    Raises:
        ConfigError: for a graph of more than MAX_PATHS paths.
    """
    if (count := count_paths(graph)) > MAX_PATHS:
        raise ConfigError(
            "too many paths to try each",
            seen=f"{count:,} paths",
            allowed=f"at most {MAX_PATHS:,}",
            next_step='take the strategy "longest": it finds a path of the same score',
        )
    return max(nx.all_simple_paths(graph, SOURCE, SINK), key=partial(score, graph))


STRATEGIES: dict[str, Callable[[nx.DiGraph], list[Node]]] = {  # name → graph → the nodes of a path
    "longest": longest_path,
    "greedy_top_down": greedy_top_down,
    "greedy_bottom_up": greedy_bottom_up,
    "beam": beam_search,
    "exhaustive": exhaustive,
}


# --- several paths ---


def flow_paths(graph: nx.DiGraph, demand: int) -> list[list[Node]]:
    """The `demand` paths of the highest total score of which no two share a choice: a multi-path sub-graph (§5).

    A flow of minimal cost: each choice carries one unit at most and costs its negative softmax weight. The paths may
    share states. Which beginning goes on with which end where they do is free; the strongest path is split off first.

    Returns:
        a list of paths, strongest first.

    Raises:
        ConfigError: when so many paths without a common choice do not exist.
    """
    network = _flow_network(graph)
    network.add_node(SOURCE, demand=-demand)
    network.add_node(SINK, demand=demand)
    try:
        _, flow = nx.network_simplex(network)
    except nx.NetworkXUnfeasible:
        narrowest = min(Counter(node[1] for node in graph if node[0] == "choice").values())
        raise ConfigError(
            "there are not so many paths without a common choice",
            seen=demand,
            allowed=f"1 to {most_flow_paths(graph)}; the narrowest position has {narrowest} choices",
        ) from None
    paths = []
    for _ in range(demand):
        # A new graph in the old order: the nodes of a networkx view come in the order of a set, and decide ties.
        used = nx.DiGraph(edge for edge in graph.edges(data=True) if flow[edge[0]][edge[1]])
        paths.append(longest_path(used))
        for before, after in pairwise(paths[-1]):
            flow[before][after] -= 1
    return paths


def most_flow_paths(graph: nx.DiGraph) -> int:
    """How many paths can be had of which no two share a choice."""
    return nx.maximum_flow_value(_flow_network(graph), SOURCE, SINK)


def within_budget(
    graph: nx.DiGraph, cost_of: Callable[[list[list[Node]]], float], limit: float, max_demand: int | None = None
) -> list[list[Node]]:
    """The largest multi-path sub-graph within a budget, by iterative search (§5): one path, two, … while they fit.

    Args:
        cost_of: a function, list of paths → their cost together, for example in parameters.
        limit: the highest cost allowed.
        max_demand: how many paths to try at most; None for as many as there are.

    Returns:
        a list of paths, strongest first. One path more would cost too much, or there is none.

    Raises:
        ConfigError: when the longest path alone costs more than the limit.
    """
    paths = flow_paths(graph, 1)
    if (cost := cost_of(paths)) > limit:
        raise ConfigError("the longest path alone exceeds the budget", seen=cost, allowed=f"at most {limit}")
    most = most_flow_paths(graph)
    for demand in range(2, (most if max_demand is None else min(most, max_demand)) + 1):
        more = flow_paths(graph, demand)
        if cost_of(more) > limit:
            break
        paths = more
    return paths


def _flow_network(graph: Any) -> Any:
    """The graph's edges as pipes; those without a capacity hold any flow, at no cost."""
    network = nx.DiGraph()
    for before, after, edge in graph.edges(data=True):
        pipe = {"capacity": 1, "weight": -round(edge["weight"] * COST_SCALE)} if "alpha" in edge else {}
        network.add_edge(before, after, **pipe)
    return network
