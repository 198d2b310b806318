"""Collapse watch: whether a search drifts to primitives without weights (§4.3).

"During the early epochs of training, DARTS reliably produces models composed entirely of max pools and skip connects."
Each epoch says how far that goes, so that a Scalar and a Max-W search can be laid side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import entr, softmax

FREE_KINDS = ("skip", "pool", "none")
# The largest weight of a choice over that of equal ones, mean over all choices, below which nothing is called learned.
# The digits' search of 12 epochs ends at 1.13, after three of them it has 1.05; the alphas begin with 1.001.
LEARNED = 1.05
COLLAPSED_SHARE = 0.75  # of the edges won by what has no weights; by chance it is about a half in the darts space


def watch(decisions: dict[str, list]) -> dict[str, float]:
    """Shares of the winning primitives by kind, and the entropies of the alphas.

    Args:
        decisions: name → what was to be decided, each the logits (P,) and the kind of each of the P primitives: "none",
            "skip", "pool" or "conv". In a cell space an edge, by the kind of its cell; in a HyperCuboid a position.

    Returns:
        skip_share, pool_share, none_share: of all decisions, by the primitive with the largest logit.
        entropy_NAME: of the softmax, in nats, mean over the decisions of that name; ln P where nothing was learned.
    """
    winners = np.array([kinds[np.argmax(logits)] for logits, kinds in _all(decisions)])
    shares = {f"{kind}_share": float(np.mean(winners == kind)) for kind in FREE_KINDS}
    entropies = {
        f"entropy_{name}": float(np.mean([entr(softmax(logits)).sum() for logits, _ in made]))
        for name, made in decisions.items()
    }
    return {**shares, **entropies}


def warning(row: dict[str, Any], decisions: dict[str, list]) -> str | None:
    """Warning for an epoch's `watch` of these decisions; None without collapse."""
    free = sum(row[f"{kind}_share"] for kind in FREE_KINDS)
    if free < COLLAPSED_SHARE:
        return None
    parts = ", ".join(f"{kind} {row[f'{kind}_share']:.0%}" for kind in FREE_KINDS)
    uniform = np.mean([np.log(len(kinds)) for _, kinds in _all(decisions)])
    entropy = np.mean([row[f"entropy_{name}"] for name in decisions]) / uniform
    sure = f"entropy of the alphas {entropy:.2f} of that of a uniform choice"
    return f"collapse: {free:.0%} of the edges are won by primitives without weights ({parts}; {sure})"


def unlearned(decisions: Mapping[str, Sequence[Any]]) -> str | None:
    """Warning for alphas that have hardly moved since the beginning; None otherwise."""
    largest = np.mean([len(logits) * softmax(logits).max() for logits, _ in _all(decisions)])
    if largest >= LEARNED:
        return None
    return (
        "the alphas are almost what they were at the beginning: the largest weight of a choice is "
        f"{largest:.3f} times that of equal ones, in the mean; this architecture is little more than chance; more "
        "`epochs` or images, or a higher `arch_learning_rate`"
    )


def _all(decisions: Mapping[str, Sequence[Any]]) -> list[Any]:
    return [decision for made in decisions.values() for decision in made]
