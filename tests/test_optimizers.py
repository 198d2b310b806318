"""SGD and Adam against PyTorch's update rules, ten lines of NumPy each."""

import keras
import numpy as np
import pytest

from sharpkeras.optimizers import SGD, Adam
from sharpkeras.schedule import CosinePowerAnnealing

SHAPES = ((3, 2), (4,))
RATES = (0.5, 0.1, 0.1, 0.02, 0.3)


def clipped(gradients, largest):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [g * min(1.0, largest / norm) for g in gradients] if largest else gradients


def pytorch_sgd(weights, steps, momentum, l2, largest=None):
    buffers = [np.zeros_like(w) for w in weights]
    for rate, gradients in steps:
        for i, g in enumerate(clipped(gradients, largest)):
            buffers[i] = momentum * buffers[i] + g + l2 * weights[i]
            weights[i] = weights[i] - rate * buffers[i]
    return weights


def pytorch_adam(weights, steps, beta_1, beta_2, epsilon, l2, largest=None):
    means, squares = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step, (rate, gradients) in enumerate(steps, 1):
        for i, g in enumerate(clipped(gradients, largest)):
            g = g + l2 * weights[i]
            means[i] = beta_1 * means[i] + (1 - beta_1) * g
            squares[i] = beta_2 * squares[i] + (1 - beta_2) * g**2
            root = np.sqrt(squares[i] / (1 - beta_2**step)) + epsilon
            weights[i] = weights[i] - rate * means[i] / (1 - beta_1**step) / root
    return weights


def problem(scale=1.0):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    steps = [(rate, [scale * rng.normal(size=shape) for shape in SHAPES]) for rate in RATES]
    return weights, steps


def run(optimizer, weights, steps):
    variables = [keras.Variable(w, dtype="float32") for w in weights]
    optimizer.build(variables)
    for rate, gradients in steps:
        optimizer.learning_rate.assign(rate)
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients], variables)
    return [v.numpy() for v in variables]


def assert_same(ours, expected):
    """To float32's rounding; Adam divides by 1 - 0.999 in its first steps."""
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("momentum, l2", ((0.9, 3e-2), (0.0, 0.0), (0.9, 0.0), (0.0, 0.1)))
def test_sgd_is_pytorchs_at_changing_rates(momentum, l2):
    weights, steps = problem()
    ours = run(SGD(0.1, momentum, l2, global_clipnorm=None), weights, steps)
    assert_same(ours, pytorch_sgd(list(weights), steps, momentum, l2))


def test_sgd_parts_from_keras_own_as_soon_as_the_rate_changes():
    weights, steps = problem()
    ours = run(SGD(0.1, 0.9, 0.0, global_clipnorm=None), weights, steps)
    keras_own = run(keras.optimizers.SGD(0.1, 0.9), weights, steps)
    assert not np.allclose(ours[0], keras_own[0], rtol=1e-2)


@pytest.mark.parametrize("scale", (0.01, 100.0))
def test_sgd_clips_the_raw_gradient_before_l2(scale):
    weights, steps = problem(scale)
    ours = run(SGD(0.1, 0.9, l2=0.3, global_clipnorm=2.0), weights, steps)
    assert_same(ours, pytorch_sgd(list(weights), steps, 0.9, 0.3, largest=2.0))


@pytest.mark.parametrize("beta_1, l2, epsilon", ((0.5, 1e-3, 1e-8), (0.9, 0.0, 1e-3), (0.5, 0.2, 1e-8)))
def test_adam_is_pytorchs_at_changing_rates(beta_1, l2, epsilon):
    weights, steps = problem(1e-2)
    ours = run(Adam(0.1, beta_1, 0.999, epsilon, l2), weights, steps)
    assert_same(ours, pytorch_adam(list(weights), steps, beta_1, 0.999, epsilon, l2))


def test_adam_of_the_search_has_the_papers_settings():
    config = Adam().get_config()
    assert [config[name] for name in ("learning_rate", "beta_1", "beta_2", "epsilon", "l2")] == pytest.approx(
        [3e-4, 0.5, 0.999, 1e-8, 1e-3]
    )
    config = SGD().get_config()
    assert [config[name] for name in ("learning_rate", "momentum", "l2", "global_clipnorm")] == pytest.approx(
        [0.025, 0.9, 3e-4, 5.0]
    )


@pytest.mark.parametrize(
    "optimizer",
    (
        SGD(0.1, 0.8, 0.01, 2.0),
        Adam(0.2, 0.4, 0.9, 1e-6, 0.02),
        SGD(CosinePowerAnnealing(0.2, 0.0, 5), global_clipnorm=None),
    ),
    ids=("sgd", "adam", "schedule"),
)
def test_an_optimizer_comes_back_from_its_config(optimizer):
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    weights, steps = problem()
    if isinstance(optimizer._learning_rate, CosinePowerAnnealing):
        variables = [[keras.Variable(w, dtype="float32") for w in weights] for _ in range(2)]
        for own, values in zip((optimizer, again), variables):
            for _, gradients in steps:
                own.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients], values)
        assert_same([v.numpy() for v in variables[0]], [v.numpy() for v in variables[1]])
    else:
        assert again.get_config() == optimizer.get_config()
        assert_same(run(optimizer, weights, steps), run(again, weights, steps))


@pytest.mark.parametrize("make", (SGD, Adam))
def test_buffers_start_at_zero_and_are_variables(make):
    variable, optimizer = keras.Variable(np.ones(3)), make()
    optimizer.build([variable])
    optimizer.build([variable])  # a second time changes nothing
    buffers = optimizer.buffers if make is SGD else optimizer.means + optimizer.squares
    assert all(not np.any(buffer.numpy()) for buffer in buffers)
    assert {id(buffer) for buffer in buffers} <= {id(v) for v in optimizer.variables}
