"""From softmax weights to mixing weights: how much of each primitive's output enters the sum.

Both take weights of shape (..., P), whose last axis is the group that the softmax ran over.
"""

from keras import ops


def scalar(weights):
    """The weighting of DARTS: output = w_i · op_i(x) (§4.3)."""
    return weights


def max_w(weights):
    """Max-W (Eq. 3): output = (1 - max(w) + w_i) · op_i(x). The gradient flows through the maximum too."""
    return 1.0 - ops.max(weights, axis=-1, keepdims=True) + weights


WEIGHTINGS = {"scalar": scalar, "max_w": max_w}
