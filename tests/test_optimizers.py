"""SGD and Adam against PyTorch's update rules, ten lines of NumPy each."""

import gc

import keras
import numpy as np
import pytest

from sharpkeras.optimizers import SGD, Adam
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.training.training_model import TrainingModel

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


# --- gradient accumulation and the moving average of the weights ---


def apply(optimizer, weights, gradients):
    """The weights and the averages after each call."""
    variables = [keras.Variable(w, dtype="float32") for w in weights]
    optimizer.build(variables)
    states = []
    for parts in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in parts], variables)
        states.append([[v.numpy() for v in group] for group in (variables, optimizer.averages)])
    return states


def problem_in_calls(calls):
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    return weights, [[rng.normal(size=shape) for shape in SHAPES] for _ in range(calls)]


@pytest.mark.parametrize("calls", (2, 3))
def test_accumulated_gradients_make_one_step_of_their_mean(calls):
    weights, gradients = problem_in_calls(4 * calls)
    schedule = CosinePowerAnnealing(0.5, 0.0, 4)
    largest = 0.8  # below the norm of the means, which is below that of the gradients
    ours = apply(SGD(schedule, 0.9, 0.1, largest, gradient_accumulation_steps=calls), weights, gradients)
    for step in range(4):
        means = [
            [np.mean(parts, axis=0) for parts in zip(*gradients[calls * i : calls * (i + 1)])] for i in range(step + 1)
        ]
        rates = [float(schedule(i)) for i in range(step + 1)]  # counted in steps, not in calls
        expected = pytorch_sgd(list(weights), list(zip(rates, means)), 0.9, 0.1, largest)
        assert_same(ours[calls * (step + 1) - 1][0], expected)
        for call in range(calls - 1):  # nothing moves in between
            before = ours[calls * step - 1][0] if step else [w.astype("float32") for w in weights]
            for variable, old in zip(ours[calls * step + call][0], before):
                np.testing.assert_array_equal(variable, old)


def test_the_learning_rate_that_is_reported_is_that_of_the_step():
    weights, gradients = problem_in_calls(5)
    optimizer = SGD(CosinePowerAnnealing(0.5, 0.0, 4), gradient_accumulation_steps=2)
    apply(optimizer, weights, gradients)
    assert float(optimizer.learning_rate) == pytest.approx(float(CosinePowerAnnealing(0.5, 0.0, 4)(2)))
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize("calls", (None, 3))
def test_the_average_follows_the_weights_once_a_step(calls):
    weights, gradients = problem_in_calls(12)
    optimizer = SGD(0.1, use_ema=True, ema_momentum=0.7, gradient_accumulation_steps=calls)
    states, average = apply(optimizer, weights, gradients), None
    for call, (now, averages) in enumerate(states, 1):
        if call % (calls or 1) == 0:
            average = now if average is None else [0.7 * a + 0.3 * w for a, w in zip(average, now)]
        if average is not None:
            assert_same(averages, average)
    assert not np.allclose(average[0], states[-1][0][0], atol=1e-3)


def test_without_an_average_there_is_none():
    assert apply(SGD(0.1), *problem_in_calls(1))[0][1] == []


def test_accumulation_and_average_come_back_from_their_config():
    optimizer = SGD(0.1, gradient_accumulation_steps=4, use_ema=True, ema_momentum=0.5)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def linear_model(**options):
    """A network without BatchNorm, so that the gradient of a batch is the mean of those of its parts."""
    keras.utils.set_random_seed(0)
    images = keras.Input((2, 2, 3))
    network = keras.Model(images, {"logits": keras.layers.Dense(5)(keras.layers.Flatten()(images))})
    return TrainingModel(network, SGD(0.1, **options))


def train(model, batches):
    step = model.compiled_step()
    for batch in batches:
        step(batch)
    step.sync()
    return [variable.numpy() for variable in model.network.trainable_variables]


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(2)
    return [(rng.normal(size=(4, 2, 2, 3)).astype("float32"), rng.integers(0, 5, 4).astype("int32")) for _ in range(8)]


def test_accumulated_batches_are_one_large_batch(batches):
    ours = train(linear_model(gradient_accumulation_steps=2), batches)
    large = [tuple(np.concatenate(parts) for parts in zip(*batches[i : i + 2])) for i in range(0, 8, 2)]
    assert_same(ours, train(linear_model(), large))


def test_a_checkpoint_holds_what_is_accumulated_and_averaged(batches):
    def model():
        return linear_model(gradient_accumulation_steps=3, use_ema=True)

    through, first, second = model(), model(), model()
    expected = train(through, batches)
    train(first, batches[:4])  # in the midst of a step
    for ours, theirs in zip(second.step_variables(), first.step_variables()):
        for variable, other in zip(ours, theirs):
            variable.assign(other.numpy())
    assert_same(train(second, batches[4:]), expected)
    assert_same(*([a.numpy() for a in m.weight_optimizer.averages] for m in (second, through)))


def test_the_averaged_weights_are_lent(batches):
    model = linear_model(use_ema=True, ema_momentum=0.5)
    own = train(model, batches)
    images = batches[0][0]
    with model.averaged_weights():
        assert_same(model.network.get_weights(), [a.numpy() for a in model.weight_optimizer.averages])
        averaged = model.logits([(images, None, 4)])
    assert not np.allclose(averaged, model.logits([(images, None, 4)]), atol=1e-4)
    with pytest.raises(KeyError), model.averaged_weights():
        raise KeyError
    for variable, value in zip(model.network.trainable_variables, own):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_lending_the_averaged_weights_does_nothing_without_an_average(batches):
    model = linear_model()
    own = train(model, batches)
    with model.averaged_weights():
        for variable, value in zip(model.network.trainable_variables, own):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_fit_leaves_the_weights_and_does_not_put_the_average_in_their_place(batches):
    model = linear_model(use_ema=True, ema_momentum=0.5)
    model.compile()
    images, labels = (np.concatenate(parts) for parts in zip(*batches))
    model.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    assert_same(model.network.get_weights(), train(linear_model(use_ema=True, ema_momentum=0.5), batches))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")
@pytest.mark.parametrize("optimizer", [SGD(), Adam()], ids=["sgd", "adam"])
def test_a_model_that_is_gone_leaves_no_graph(optimizer):
    """A process that searches again and again, such as a notebook, must not grow by the graph of each step."""

    def graphs():
        gc.collect()
        return sum(type(found).__name__ == "FuncGraph" for found in gc.get_objects())

    before = graphs()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 2)))
    assert graphs() > before
    del model, optimizer
    keras.backend.clear_session()
    assert graphs() <= before
