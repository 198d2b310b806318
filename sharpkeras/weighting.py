"""From softmax weights to mixing weights: how much of each primitive's output enters the sum.

Both take weights of shape (..., P), whose last axis is the group that the softmax ran over.
"""

from typing import Any


def scalar(weights: Any) -> Any:
    """The weighting of DARTS: output = w_i · op_i(x) (§4.3).

    >>> scalar([0.25, 0.5, 0.25])
    [0.25, 0.5, 0.25]
    """
    return weights


def max_w(weights: Any) -> Any:
    """Max-W (Eq. 3): output = (1 - max(w) + w_i) · op_i(x). The gradient flows through the maximum too.

    >>> import numpy as np
    >>> np.asarray(max_w(np.array([0.25, 0.5, 0.25]))).tolist()
    [0.75, 1.0, 0.75]
    """
    from keras import ops  # the names of the table are read without Keras

    return 1.0 - ops.max(weights, axis=-1, keepdims=True) + weights


WEIGHTINGS = {"scalar": scalar, "max_w": max_w}
