"""The best architecture within a hard budget, exactly: the "specific budget" that §5 of the paper leaves for later.

Each choice has a score, its softmax weight, and a cost that adds up: AddMults, parameters or milliseconds. The choices
of an architecture stand in a row, as slabs of options between states; an architecture is a path through them. Wanted is
the path with the greatest sum of scores among those whose sum of costs is within the limit.

Label setting finds it: behind each slab every state keeps its Pareto front, the paths into it whose score no other
reaches at the same or a lower cost. It stays small unless scores are nearly proportional to costs that all differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sharpkeras.errors import ConfigError, ResourceError

ROUNDING = 1e-12  # by more than this, relative, the same costs summed in another order do not differ in float64
MOST_LABELS = 20_000_000  # at once, about 2 GB


class Slab(NamedTuple):
    """N options, each leading from a state of one layer to a state of the next; arrays (N,).

    sources, targets: the two states, numbered from 0 in each layer; the targets of a slab are the sources of the next.
    scores: the more the better.
    costs: 0 or more. Sums are in float64, which is exact for whole numbers below 2^53.
    """

    sources: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    costs: np.ndarray


class Labels(NamedTuple):
    """M paths from the first layer to a state of one layer, with their sums; arrays (M,).

    parents: the label of the layer before that the path continues.
    options: the option of the slab between by which it does.
    """

    states: np.ndarray
    costs: np.ndarray
    scores: np.ndarray
    parents: np.ndarray
    options: np.ndarray


def best_within(slabs: Sequence[Slab], limit: float | None = None) -> list[int]:
    """The path with the greatest sum of scores that costs at most `limit` in sum; of equally good ones the cheapest.

    Example: twice in a row the options (score, cost) = (0.5, 9), (0.4, 4), (0.1, 1), within 10: the middle one twice
    has 0.8 for 8, where the strongest first leaves room for the weakest alone and has 0.6 for 10.

    Args:
        slabs: a Slab for each choice, in the order in which the sums run.
        limit: in the unit of the costs; None for no limit.

    Returns:
        The index of the chosen option in each slab.

    Raises:
        ConfigError: if nothing is within the limit, with the least cost that is possible; if no path leads through; for
            a score or a cost that is not finite or a cost below 0.
        ResourceError: if the fronts outgrow the memory.
    """
    least = cheapest(slabs)
    if limit is None:
        limit = np.inf
    if not least <= limit:
        raise ConfigError(
            "no architecture is within the budget",
            seen=f"a limit of {limit:,}",
            allowed=f"at least {least:,}, what the cheapest architecture costs",
            next_step="raise the limit, or make every choice cheaper with fewer layers or channels",
        )
    layers = _fronts(slabs, limit)
    label = np.lexsort((layers[-1].costs, -layers[-1].scores))[0]
    chosen = []
    for labels in reversed(layers):
        chosen.append(int(labels.options[label]))
        label = labels.parents[label]
    return chosen[::-1]


def cheapest(slabs: Sequence[Slab]) -> float:
    """The least sum of costs of any path: the smallest limit for `best_within`, whose other errors it raises."""
    _check(slabs)
    if np.isinf(_least_ahead(slabs)[0].min()):
        raise ConfigError("no path leads through the slabs", allowed="each slab goes on from where the one before ends")
    blind = [slab._replace(scores=np.zeros(len(slab.scores))) for slab in slabs]  # each front is its cheapest path
    least = _fronts(blind, np.inf)[-1].costs.min().item()
    return int(least) if least.is_integer() else least


def pair_options(scores: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What a node of a cell can be: two of its n incoming edges, as DARTS keeps two, with a primitive on each.

    Args:
        scores: softmax weights (n, P); below 0 what is not to be chosen, such as `none`.
        costs: (n, P).

    Returns:
        edges (N, 2), the lower one first, their primitives (N, 2), and the sums over both: scores (N,), costs (N,).
    """
    scores, costs = np.asarray(scores), np.asarray(costs)
    edges, primitives = np.nonzero(scores >= 0)  # (M,)
    pairs = np.argwhere(edges[:, None] < edges)  # (N, 2)
    edges, primitives = edges[pairs], primitives[pairs]
    return edges, primitives, scores[edges, primitives].sum(-1), costs[edges, primitives].sum(-1)


def _check(slabs: Sequence[Any]) -> None:
    for number, (_, _, scores, costs) in enumerate(slabs):
        good = np.isfinite(scores) & np.isfinite(costs) & np.greater_equal(costs, 0)
        if not good.all():
            i = np.argmin(good)
            raise ConfigError(
                "a score or a cost that cannot be added up",
                where=f"slab {number}, option {i}",
                seen=f"score {scores[i]}, cost {costs[i]}",
                allowed="finite numbers, a cost of 0 or more",
            )


def _least_ahead(slabs: Sequence[Any]) -> Any:
    """The least cost from each state of each layer to the end: (L + 1, S), inf where no path leads there."""
    num_states = 1 + max(np.max(states, initial=0) for slab in slabs for states in (slab.sources, slab.targets))
    least = np.full((len(slabs) + 1, num_states), np.inf)
    least[-1] = 0
    for layer, slab in reversed(list(enumerate(slabs))):
        np.minimum.at(least[layer], slab.sources, slab.costs + least[layer + 1][slab.targets])
    return least


def _fronts(slabs: Sequence[Any], limit: float) -> Any:
    """Labels behind each slab: the Pareto front of every state, of the paths that can still end within the limit."""
    least_ahead = _least_ahead(slabs)
    nothing = np.zeros(least_ahead.shape[1])
    labels = Labels(np.arange(len(nothing)), nothing, nothing, nothing, nothing)
    layers = []
    for slab, ahead in zip(slabs, least_ahead[1:]):
        labels = _extended(labels, slab)
        in_the_end = labels.costs + ahead[labels.states]
        labels = _taken(labels, (labels.costs <= limit) & (in_the_end <= limit * (1 + ROUNDING)))
        labels = _taken(labels, _front(labels))
        layers.append(labels)
    return layers


def _extended(labels: "Labels", slab: Any) -> "Labels":
    """Every label, continued by every option of its state."""
    first = np.searchsorted(labels.states, slab.sources)
    counts = np.searchsorted(labels.states, slab.sources, side="right") - first  # (N,) labels that an option continues
    if counts.sum() > MOST_LABELS:
        raise ResourceError(
            "too many architectures of which none beats another in both score and cost",
            seen=f"{counts.sum():,} at once",
            allowed=f"{MOST_LABELS:,}",
            next_step="round the costs up to fewer digits: then many are equal, and the limit still holds",
        )
    options = np.repeat(np.arange(len(counts)), counts)  # (M,)
    nth = np.arange(len(options)) - (np.cumsum(counts) - counts)[options]  # (M,) 0, 1, … for each option
    parents = first[options] + nth
    costs = labels.costs[parents] + slab.costs[options]
    scores = labels.scores[parents] + slab.scores[options]
    return Labels(slab.targets[options], costs, scores, parents, options)


def _front(labels: "Labels") -> np.ndarray:
    """The indices of the labels whose score no other of their state reaches at the same or a lower cost, by state."""
    order = np.lexsort((-labels.scores, labels.costs, labels.states))
    front = []
    for of_state in np.split(order, np.flatnonzero(np.diff(labels.states[order])) + 1):
        best = np.maximum.accumulate(labels.scores[of_state])
        front.append(of_state[np.append(True, best[1:] > best[:-1])])
    return np.concatenate(front)


def _taken(labels: "Labels", which: np.ndarray) -> "Labels":
    return Labels(*(column[which] for column in labels))
