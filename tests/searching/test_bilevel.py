"""The bilevel gradient on quadratic losses, where the exact gradient through one unrolled step is known."""

import keras
import numpy as np
import pytest
from keras import ops
from support.gradients import float64, global_norm, to_numpy

from sharpkeras.engine.step_model import backend_step
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.searching import bilevel
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell.space import CellSpace

RNG = np.random.default_rng(0)
W, A = RNG.normal(size=4), RNG.normal(size=3)
HESSIAN = (lambda m: m @ m.T + np.eye(4))(RNG.normal(size=(4, 4)))
MIXED, DIRECT = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
BUFFER, TARGET = RNG.normal(size=4), RNG.normal(size=4)
RATE, MOMENTUM, L2 = 0.1, 0.9, 0.05


def tensors(*arrays):
    return [ops.convert_to_tensor(array, "float32") for array in arrays]


def loss(weights, alphas, batch):
    """training: wᵀHw/2 + wᵀMα; validation: |w - t|²/2 + wᵀDα + |α|²/2. Weights and alphas are lists of parts."""
    w, a = ops.concatenate(weights), ops.concatenate(alphas)
    hessian, mixed, direct, target = tensors(HESSIAN, MIXED, DIRECT, TARGET)
    if batch == "training":
        value = 0.5 * ops.sum(w * ops.matmul(hessian, w)) + ops.sum(w * ops.matmul(mixed, a))
    else:
        value = 0.5 * ops.sum((w - target) ** 2) + ops.sum(w * ops.matmul(direct, a)) + 0.5 * ops.sum(a**2)
    return value, batch


def second_order(learning_rate=RATE):
    return bilevel.second_order(
        loss,
        backend_gradient,
        tensors(W[:1], W[1:]),
        tensors(A[:2], A[2:]),
        "training",
        "validation",
        tensors(BUFFER[:1], BUFFER[1:]),
        learning_rate,
        MOMENTUM,
        L2,
    )


def backend_gradient(function, argument):
    along = []  # JAX lets no text come along

    def without_text(values):
        value, text = function(values)
        along.append(text)
        return value, ()

    value, _, slope = backend_step().gradient(without_text, argument)
    return value, along[-1], slope


def ahead(learning_rate=RATE):
    return W - learning_rate * (MOMENTUM * BUFFER + HESSIAN @ W + MIXED @ A + L2 * W)


def test_first_order_takes_the_weights_as_they_are():
    value, along, slope = bilevel.first_order(loss, backend_gradient, tensors(W), tensors(A), "validation")
    np.testing.assert_allclose(np.concatenate(to_numpy(slope)), DIRECT.T @ W + A, rtol=1e-5)
    assert along == "validation"
    assert float(value) == pytest.approx(0.5 * np.sum((W - TARGET) ** 2) + W @ DIRECT @ A + 0.5 * A @ A, rel=1e-5)


def test_second_order_is_the_exact_gradient_through_one_step():
    # L_valid(w'(α), α) with w' = w - η(momentum·buffer + Hw + Mα + l2·w): dw'/dα = -ηM.
    w = ahead()
    v = w - TARGET + DIRECT @ A
    expected = DIRECT.T @ w + A - RATE * MIXED.T @ v
    value, along, slope = second_order()
    assert [tuple(part.shape) for part in slope] == [(2,), (1,)]
    # The finite difference of a quadratic loss is exact but for rounding, which ε = r/‖v‖ divides.
    np.testing.assert_allclose(np.concatenate(to_numpy(slope)), expected, rtol=1e-3, atol=1e-3)
    assert along == "validation"
    assert float(value) == pytest.approx(0.5 * np.sum((w - TARGET) ** 2) + w @ DIRECT @ A + 0.5 * A @ A, rel=1e-4)
    assert not np.allclose(expected, DIRECT.T @ W + A, rtol=0.1)  # the two orders do differ here


def test_second_order_agrees_with_the_slope_of_the_unrolled_loss():
    def unrolled(a):
        w = W - RATE * (MOMENTUM * BUFFER + HESSIAN @ W + MIXED @ a + L2 * W)
        return 0.5 * np.sum((w - TARGET) ** 2) + w @ DIRECT @ a + 0.5 * a @ a

    step = 1e-5
    expected = [(unrolled(A + step * e) - unrolled(A - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(np.concatenate(to_numpy(second_order()[2])), expected, rtol=1e-3, atol=1e-3)


def test_at_learning_rate_zero_second_order_is_first_order():
    first = bilevel.first_order(loss, backend_gradient, tensors(W), tensors(A), "validation")[2]
    second = second_order(learning_rate=0.0)[2]
    np.testing.assert_allclose(np.concatenate(to_numpy(second)), to_numpy(first)[0], rtol=1e-6)


def test_global_norm():
    arrays = [RNG.normal(size=(2, 3)), RNG.normal(size=5)]
    assert float(bilevel.global_norm(tensors(*arrays))) == pytest.approx(global_norm(arrays), rel=1e-6)


# --- the model around it ---

NAMES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(1)
    return [
        tuple(
            (rng.normal(size=(6, 8, 8, 3)).astype("float32"), rng.integers(0, 5, 6).astype("int32")) for _ in range(2)
        )
        for _ in range(2)
    ]


def search_model(order=1, learning_rate=0.025):
    keras.utils.set_random_seed(0)
    space = CellSpace(NAMES, "darts", num_nodes=1, num_concatenated=1)
    supernet = space.supernet((8, 8, 3), 5, init_channels=2, num_cells=3)
    return SearchModel(space, supernet, SGD(learning_rate), Adam(), order)


def one_step(model, data):
    step = model.compiled_step()
    logs = step(data)
    step.sync()
    return {name: float(value) for name, value in logs.items()}


def state(model):
    return [v.numpy() for group in model.step_variables() for v in group if "seed" not in v.name]


@pytest.mark.parametrize("order", (1, 2))
def test_a_step_moves_alphas_weights_and_averages(order, batches):
    model = search_model(order)
    groups = {
        "alphas": model.alphas,
        "weights": model.supernet.trainable_variables,
        "averages": model.supernet.non_trainable_variables,
        "buffers": model.weight_optimizer.buffers,
        "moments": model.arch_optimizer.means,
    }
    before = {name: [v.numpy() for v in group] for name, group in groups.items()}
    logs = one_step(model, batches[0])
    norms = {"alpha_norm", "alpha_gradient_norm", "weight_gradient_norm", "image_rms"}
    assert set(logs) == {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy", *norms}
    assert all(np.isfinite(value) for value in logs.values()) and 0 <= logs["train_accuracy"] <= 1
    for name, group in groups.items():
        assert all(not np.array_equal(v.numpy(), old) for v, old in zip(group, before[name])), name


def test_alphas_come_first_and_from_the_validation_batch(batches):
    training, validation = batches[0]
    model, other = search_model(), search_model()
    one_step(model, (training, validation))
    one_step(other, (batches[1][0], validation))  # another training batch: the first alphas are the same
    for ours, theirs in zip(model.alphas, other.alphas):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-7)
    other = search_model()
    one_step(other, (training, batches[1][1]))
    assert any(
        not np.allclose(ours.numpy(), theirs.numpy(), atol=1e-6) for ours, theirs in zip(model.alphas, other.alphas)
    )


def test_averages_follow_the_training_batch_alone(batches):
    training, validation = batches[0]
    model, other = search_model(learning_rate=0.0), search_model(learning_rate=0.0)
    model.arch_optimizer.learning_rate = other.arch_optimizer.learning_rate = 0.0
    one_step(model, (training, validation))
    one_step(other, (training, batches[1][1]))
    for ours, theirs in zip(model.supernet.non_trainable_variables, other.supernet.non_trainable_variables):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_the_same_seed_gives_the_same_steps(batches):
    ours, theirs = search_model(), search_model()
    assert one_step(ours, batches[0]) == pytest.approx(one_step(theirs, batches[0]), rel=1e-6)
    for a, b in zip(state(ours), state(theirs)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_float64_policy_reaches_alphas_optimizers_and_logs(batches):
    with float64():
        model = search_model(order=2)
        logs = model.compiled_step()(batches[0])
        kept = [*model.alphas, *model.supernet.trainable_variables, *model.weight_optimizer.buffers]
        kept += [*model.arch_optimizer.means, *model.arch_optimizer.squares]
        numbers = [*kept, *(logs[name] for name in ("train_loss", "validation_loss", "alpha_gradient_norm"))]
        assert {keras.backend.standardize_dtype(number.dtype) for number in numbers} == {"float64"}


def test_an_order_is_1_or_2():
    with pytest.raises(ValueError, match="expected order 1 or 2, received 3"):
        search_model(order=3)
