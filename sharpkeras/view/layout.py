"""Where the nodes of a directed graph go on paper: in columns, with few crossings and lines that never pass a box."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import networkx
import numpy as np
from scipy.optimize import isotonic_regression

SWEEPS = 24


def columns(graph: networkx.DiGraph, last: Any = None) -> dict[Any, int]:
    """The column of every node: the length of the longest way to it.

    Args:
        graph: a `networkx.DiGraph` without cycles.
        last: a node that gets a column of its own behind all others.
    """
    column = {node: index for index, nodes in enumerate(networkx.topological_generations(graph)) for node in nodes}
    if last is not None:
        column[last] = 1 + max(index for node, index in column.items() if node != last)
    return column


def with_waypoints(
    graph: networkx.DiGraph, column: Mapping[Any, int]
) -> tuple[networkx.DiGraph, dict[Any, int], dict[tuple, list]]:
    """The graph with a waypoint ("via", source, column) in every column that an edge skips.

    Edges that leave one node share their waypoints, so that one line runs on and branches off where it is needed.

    Returns:
        graph: every edge goes from one column to the next.
        column: the column of its nodes.
        ways: the waypoints of each edge of the original graph.
    """
    proper, column, ways = networkx.DiGraph(), dict(column), {}
    proper.add_nodes_from(graph)
    for source, target in graph.edges:
        skipped = range(column[source] + 1, column[target])
        ways[source, target] = [("via", source, index) for index in skipped]
        column.update({waypoint: waypoint[2] for waypoint in ways[source, target]})
        networkx.add_path(proper, [source, *ways[source, target], target])
    return proper, column, ways


def heights(graph: networkx.DiGraph, column: Mapping[Any, int], sizes: Mapping[Any, float]) -> dict[Any, float]:
    """The vertical position of every node, by barycentres: near what it is connected with, and never overlapping.

    Args:
        graph: every edge goes from one column to the next.
        column: the column of every node.
        sizes: the height of every node, its margin included.

    Returns:
        y by node, of the arrangement with the fewest crossings and, among these, the shortest lines.
    """
    stacks: list[list[Any]] = [[] for _ in range(1 + max(column.values()))]
    for node in reversed(list(graph)):  # upwards, so that the first is on top
        stacks[column[node]].append(node)
    y: dict[Any, float] = {}
    for stack in stacks:
        _place(stack, dict(zip(stack, range(len(stack)))), sizes, y)
    best = dict(y)
    for sweep in range(SWEEPS):
        sides = (graph.predecessors,) if sweep % 2 == 0 else (graph.successors,)
        for stack in stacks if sweep % 2 == 0 else reversed(stacks):
            wanted = _barycentres(stack, sides, y)
            _place(sorted(stack, key=wanted.__getitem__), wanted, sizes, y)
        best = min(best, dict(y), key=lambda candidate: _cost(graph, column, candidate))
    for _ in range(SWEEPS):  # now the order stays, and lines get straight
        for stack in stacks:
            wanted = _barycentres(stack, (graph.predecessors, graph.successors), best)
            _place(sorted(stack, key=best.__getitem__), wanted, sizes, best)
    return best


def _barycentres(
    stack: Sequence[Any], sides: Sequence[Callable[[Any], Any]], y: Mapping[Any, float]
) -> dict[Any, float]:
    """The mean position of each node's neighbours, of each side alike."""
    wanted = {}
    for node in stack:
        means = [np.mean([y[other] for other in side(node)]) for side in sides if any(True for _ in side(node))]
        wanted[node] = np.mean(means) if means else y[node]
    return wanted


def _place(stack: Sequence[Any], wanted: Mapping[Any, float], sizes: Mapping[Any, float], y: dict[Any, float]) -> None:
    """Put a column as near to where it is wanted as the sizes allow: an isotonic regression."""
    extents = np.array([sizes[node] for node in stack])
    offsets = np.cumsum(extents) - extents / 2
    targets = np.array([wanted[node] for node in stack]) - offsets
    y.update(zip(stack, isotonic_regression(targets).x + offsets))


def _cost(graph: networkx.DiGraph, column: Mapping[Any, int], y: Mapping[Any, float]) -> tuple[int, float]:
    edges = [(column[a], y[a], y[b]) for a, b in graph.edges]
    crossings = sum(
        one[0] == other[0] and (one[1] - other[1]) * (one[2] - other[2]) < 0
        for index, one in enumerate(edges)
        for other in edges[:index]
    )
    return crossings, sum(abs(start - end) for _, start, end in edges)
