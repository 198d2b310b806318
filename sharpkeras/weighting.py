"""From softmax weights to mixing weights: how much of each primitive's output enters the sum.

Both take weights of shape (..., P), whose last axis is the group that the softmax ran over.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

Tensor = Any  # of whichever backend Keras has


def scalar(weights: Tensor) -> Tensor:
    """The weighting of DARTS: output = w_i · op_i(x) (§4.3)."""
    return weights


def max_w(weights: Tensor) -> Tensor:
    """Max-W (Eq. 3): output = (1 - max(w) + w_i) · op_i(x). The gradient flows through the maximum too.

    >>> import numpy as np
    >>> np.asarray(max_w(np.array([0.5, 0.25, 0.25])))
    array([1.  , 0.75, 0.75])
    """
    return 1.0 - ops.max(weights, axis=-1, keepdims=True) + weights


WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {"scalar": scalar, "max_w": max_w}
