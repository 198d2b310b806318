"""The bilevel update of DARTS as algebra: α minimises the validation loss where w minimises the training loss.

Nothing here knows a framework. `loss(weights, alphas, batch)` returns a scalar and an aux value, which is not
differentiated; `gradient(function, argument)` returns (value, aux, gradients) of such a function of a list of tensors.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from sharpkeras.engine.step_model import global_norm

FINITE_DIFFERENCE_R = 0.01  # ε = r / ‖v‖


def first_order(loss: Callable, gradient: Callable, weights: list, alphas: list, validation: Any) -> tuple:
    """∇α L_valid(w, α), the weights taken as they are.

    Returns:
        The validation loss, its aux value, and the gradients, a list like `alphas`.
    """
    return gradient(lambda a: loss(weights, a, validation), alphas)


def second_order(
    loss: Callable,
    gradient: Callable,
    weights: list,
    alphas: list,
    training: Any,
    validation: Any,
    buffers: list,
    learning_rate: Any,
    momentum: float,
    l2: float,
) -> tuple:
    """∇α L_valid(w', α) through one unrolled step of SGD, the Hessian-vector product by a finite difference.

    w' = w - η·(momentum·buffer + ∇w L_train(w, α) + l2·w), without clipping;
    v = ∇w' L_valid(w', α); ε = r / ‖v‖;
    result: ∇α L_valid(w', α) - η·[∇α L_train(w + εv, α) - ∇α L_train(w - εv, α)] / (2ε).

    Args:
        buffers: SGD's momentum buffers, a list like `weights`.
        learning_rate: η, of this step, a scalar of any float type.

    Returns:
        As `first_order`; the loss is the one at w'.
    """
    learning_rate = ops.cast(learning_rate, weights[0].dtype)
    _, _, gradients = gradient(lambda w: loss(w, alphas, training), weights)
    ahead = [w - learning_rate * (momentum * b + g + l2 * w) for w, b, g in zip(weights, buffers, gradients)]
    value, aux, both = gradient(
        lambda joined: loss(joined[: len(weights)], joined[len(weights) :], validation), [*ahead, *alphas]
    )
    direction, direct = both[: len(weights)], both[len(weights) :]
    epsilon = FINITE_DIFFERENCE_R / global_norm(direction)
    plus, minus = (
        gradient(lambda a, w=shifted: loss(w, a, training), alphas)[2]
        for shifted in (
            [w + epsilon * v for w, v in zip(weights, direction)],
            [w - epsilon * v for w, v in zip(weights, direction)],
        )
    )
    implicit = [(p - m) / (2.0 * epsilon) for p, m in zip(plus, minus)]
    return value, aux, [d - learning_rate * i for d, i in zip(direct, implicit)]
