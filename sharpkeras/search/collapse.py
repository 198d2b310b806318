"""The collapse watch: whether a search drifts to what has no weights (§4.3).

"During the early epochs of training, DARTS reliably produces models composed entirely of max pools and skip connects."
Each epoch says how far that goes, so that a Scalar and a Max-W search can be laid side by side.
"""

import numpy as np
from scipy.special import entr, softmax

FREE_KINDS = ("skip", "pool", "none")
UNLEARNED_SPREAD = 3e-3  # of an edge's alphas, as a standard deviation; they begin with 1e-3
COLLAPSED_SHARE = 0.75  # of the edges won by what has no weights; by chance it is about a half in the darts space


def watch(alphas, kinds):
    """What wins on the edges, and how sure the alphas are.

    Args:
        alphas: two arrays (E, P), normal and reduction cells.
        kinds: the kind of each of the P primitives: "none", "skip", "pool" or "conv".

    Returns:
        skip_share, pool_share, none_share: of the 2·E edges, by the primitive with the largest alpha.
        entropy_normal, entropy_reduce: of the softmax, in nats, mean over the edges; ln P where nothing was learned.
    """
    winners = np.array(kinds)[np.concatenate([np.argmax(cell, axis=-1) for cell in alphas])]  # (2·E,)
    shares = {f"{kind}_share": float(np.mean(winners == kind)) for kind in FREE_KINDS}
    entropies = [float(entr(softmax(cell, axis=-1)).sum(axis=-1).mean()) for cell in alphas]
    return {**shares, "entropy_normal": entropies[0], "entropy_reduce": entropies[1]}


def warning(row, num_primitives):
    """The sentence to say of an epoch's `watch`, None while all is well."""
    free = sum(row[f"{kind}_share"] for kind in FREE_KINDS)
    if free < COLLAPSED_SHARE:
        return None
    parts = ", ".join(f"{kind} {row[f'{kind}_share']:.0%}" for kind in FREE_KINDS)
    entropy = (row["entropy_normal"] + row["entropy_reduce"]) / 2 / np.log(num_primitives)
    sure = f"entropy of the alphas {entropy:.2f} of that of a uniform choice"
    return f"collapse: {free:.0%} of the edges are won by primitives without weights ({parts}; {sure})"


def chance(alphas):
    """The sentence to say when the alphas, as above, have hardly left their random beginning; None otherwise."""
    spread = np.mean([np.std(cell, axis=-1).mean() for cell in alphas])
    if spread >= UNLEARNED_SPREAD:
        return None
    return (
        f"the alphas have hardly left their random beginning (spread {spread:.1g} on an edge): this genotype is "
        "chance; search longer, or with a higher --arch-learning-rate"
    )
