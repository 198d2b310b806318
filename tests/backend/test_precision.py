"""Mixed precision: what stays float32, the loss scale of float16, and second order where half the bits do not do."""

import contextlib
import random

import keras
import numpy as np
import pytest
from keras import ops
from support.gradients import to_numpy

from sharpkeras.backend import precision
from sharpkeras.engine.step_model import backend_step, values
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell import search_cell, stacked_primitives
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.mixed_op import MixedOp
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.training.training_model import TrainingModel

HALF = ("bfloat16", "float16")
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
NAMES = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
PAIRS = (("sep_conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 0), ("dil_conv_3x3", 2))
GENOTYPE = Genotype(PAIRS, (2, 3), PAIRS, (2, 3))


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def search_model(dtype, order=1, weighting="scalar"):
    random.seed(0)
    with policy(dtype):
        space = CellSpace(NAMES, "darts", weighting, num_nodes=1, num_concatenated=1)
        supernet = space.supernet((8, 8, 3), 5, init_channels=4, num_cells=2)
        return SearchModel(space, supernet, SGD(), Adam(), order)


def training_model(dtype, stem="cifar", side=8, auxiliary=False, optimizer=None):
    random.seed(0)
    with policy(dtype):
        sizes = dict(input_shape=(side, side, 3), num_classes=5, init_channels=4, num_cells=3)
        network = CellNetwork(GENOTYPE, "darts", stem, auxiliary=auxiliary, **sizes)
        return TrainingModel(network, optimizer or SGD(0.05))


def batch(seed, side=8, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, side, side, 3)).astype("float32"), rng.integers(0, 5, size).astype("int32")


def steps(model, batches, step=None):
    """The logs of each step as numbers."""
    step, logs = step or model.compiled_step(), []
    for data in batches:
        logs.append({name: float(value) for name, value in step(data).items()})
    step.sync()
    return logs


def all_variables(model):
    return [variable for group in model.step_variables() for variable in group]


def dtypes(variables):
    return {keras.backend.standardize_dtype(variable.dtype) for variable in variables}


def distance(ours, expected):
    ours, expected = (np.concatenate([np.ravel(part) for part in to_numpy(parts)]) for parts in (ours, expected))
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


# --- what is seen inside ---


class Seen(dict):
    """What went into and came out of functions that are watched: name → set of dtypes."""

    def watch(self, monkeypatch, owner, function, of=lambda arguments, result: {"": result}):
        original = getattr(owner, function)

        def watched(*arguments, **options):
            result = original(*arguments, **options)
            for name, tensors in of(arguments, result).items():
                seen = {keras.backend.standardize_dtype(tensor.dtype) for tensor in keras.tree.flatten(tensors)}
                self.setdefault(function + name, set()).update(seen)
            return result

        monkeypatch.setattr(owner, function, watched)


def norm_dtypes(arguments, result):
    return {" values": [arguments[0], result[0]], " scale and offset": arguments[1:3], " statistics": result[1:]}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("weighting", ("scalar", "max_w"))
def test_a_search_computes_in_half_what_it_should_and_nothing_else(dtype, weighting, monkeypatch):
    seen, model = Seen(), search_model(dtype, weighting=weighting)
    seen.watch(monkeypatch, stacked_primitives.kernels, "batch_normalization", norm_dtypes)
    seen.watch(monkeypatch, stacked_primitives.kernels, "depthwise_conv")
    seen.watch(monkeypatch, stacked_primitives, "convolve")
    weighed = lambda a, result: {" weight": a[1], " values": [a[0], result]}  # noqa: E731
    seen.watch(monkeypatch, stacked_primitives.kernels, "weigh", weighed)
    seen.watch(monkeypatch, CellSpace, "mixing_weights", lambda a, result: {" alphas": a[1], " weights": result})
    half, full = {dtype}, {"float32"}

    loss, (logits, others) = model.supernet_loss(
        values(model.supernet.trainable_variables), values(model.alphas), batch(0)
    )
    assert dtypes([loss, logits, *others]) == full
    expected = {
        "mixing_weights alphas": full,
        "mixing_weights weights": full,
        "weigh weight": full,
        "weigh values": half,
        "batch_normalization values": half,
        "batch_normalization scale and offset": full,
        "batch_normalization statistics": full,
        "depthwise_conv": half,
        "convolve": half,
    }
    assert seen == expected
    seen.clear()
    normalized = lambda a, r: {" weight": [w for w in a[4:] if w is not None], " values": [a[2], r]}  # noqa: E731
    seen.watch(monkeypatch, stacked_primitives.ForwardPass, "normalize", normalized)
    assert dtypes([model(batch(0)[0], training=False)]) == full
    assert seen["normalize weight"] == seen["mixing_weights alphas"] == full
    assert seen["normalize values"] == seen["convolve"] == half
    assert dtypes(v for v in all_variables(model) if "int" not in str(v.dtype)) == full


@pytest.mark.parametrize("training", (True, False))
def test_mixing_weights_are_not_rounded_on_their_way_into_the_cells(training, monkeypatch):
    model, seen = search_model("bfloat16"), []
    for cell in model.supernet.cells:
        cell.functions = None  # what is traced has no numbers to look at
    scales = search_cell.SearchCell._scales
    monkeypatch.setattr(search_cell.SearchCell, "_scales", lambda *a: seen.append(scales(*a)) or scales(*a))
    model(batch(0)[0], training=training)
    weights = to_numpy(model.space.mixing_weights(model.alphas))
    for cell, rows in zip(model.supernet.cells, seen):
        for row, expected in zip(to_numpy(rows), weights[cell.plan.reduction]):  # per edge
            assert np.abs(np.array(row)[:, 0] - expected).max() < 1e-7


@pytest.mark.parametrize("dtype", HALF)
def test_the_slope_of_a_weight_is_as_precise_as_the_weight(dtype):
    outputs, target = (ops.cast(np.random.normal(size=(8, 8, 8, 4)), dtype) for _ in range(2))

    def loss(weight):
        product = stacked_primitives.kernels.weigh(outputs, weight[0])
        return ops.sum(ops.cast(product, "float32") * ops.cast(target, "float32")), ()

    slope = backend_step().gradient(loss, [ops.convert_to_tensor(0.3, "float32")])[2]
    exact = np.sum(to_numpy(ops.cast(outputs, "float32")).astype("float64") * to_numpy(ops.cast(target, "float32")))
    assert float(slope[0]) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("training", (True, False))
def test_a_network_computes_in_half_what_it_should_and_nothing_else(dtype, training):
    network = training_model(dtype, side=32, auxiliary=True).network
    network.drop_path_rate.assign(0.5)
    outputs = network(batch(0, 32, 2)[0], training=training)
    assert dtypes([outputs["logits"], outputs["auxiliary"]]) == {"float32"}
    assert dtypes(network.trainable_variables) == {"float32"}
    by_layer = {layer.name: keras.backend.standardize_dtype(layer.output.dtype) for layer in network.layers[1:]}
    float32 = {name for name, seen in by_layer.items() if seen == "float32"}
    assert float32 == {"global_pooling", "classifier", "auxiliary_head"}
    assert set(by_layer.values()) == {"float32", dtype}


@pytest.mark.parametrize("dtype", HALF)
def test_a_search_is_close_to_float32s(dtype):
    ours, theirs = search_model(dtype), search_model("float32")
    for training in (True, False):
        close = ours(batch(0)[0], training=training), theirs(batch(0)[0], training=training)
        assert 0 < distance([close[0]], [close[1]]) < 20 * ROUNDING[dtype]
    slopes = []
    for model in (ours, theirs):
        weights, alphas = values(model.supernet.trainable_variables), values(model.alphas)
        gradient = model.loss_scale.scaled(backend_step().gradient, []) if model.loss_scale else backend_step().gradient
        slopes.append(gradient(lambda a, m=model, w=weights: m.supernet_loss(w, a, batch(0)), alphas)[2])
    assert 0 < distance(*slopes) < 50 * ROUNDING[dtype]
    # Moving statistics and losses of a whole step.
    data = [(batch(0), batch(1))]
    logs = [steps(model, data)[0] for model in (ours, theirs)]
    for name in ("train_loss", "validation_loss"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=10 * ROUNDING[dtype])
    averages = [model.supernet.non_trainable_variables for model in (ours, theirs)]
    assert distance(*averages) < 10 * ROUNDING[dtype]


@pytest.mark.parametrize(
    "dtype, stem, auxiliary", (("bfloat16", "cifar", True), ("float16", "cifar", True), ("float16", "imagenet", False))
)
def test_a_network_is_close_to_float32s(dtype, stem, auxiliary):
    ours, theirs = (training_model(d, stem, 32, auxiliary) for d in (dtype, "float32"))
    data = batch(0, 32, 16)
    outputs = [model.network(data[0], training=True) for model in (ours, theirs)]
    for name in {"logits", "auxiliary"} & set(outputs[0]):
        assert 0 < distance([outputs[0][name]], [outputs[1][name]]) < 20 * ROUNDING[dtype]
    logs = [steps(model, [data])[0] for model in (ours, theirs)]
    assert logs[0]["train_loss"] == pytest.approx(logs[1]["train_loss"], rel=10 * ROUNDING[dtype])


def test_moving_statistics_are_not_rounded():
    """They move by the difference of two starts that half precision cannot tell apart."""
    ends = []
    for start in (1.0, 1.0 + 2.0**-14):
        model = search_model("bfloat16")
        averages = [v for v in model.supernet.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        for variable in averages:
            variable.assign(np.full(variable.shape, start))
        weights, alphas = values(model.supernet.trainable_variables), values(model.alphas)
        ends.append(to_numpy(model.supernet_loss(weights, alphas, batch(0))[1][1]))
    for low, high in zip(*ends):
        np.testing.assert_allclose(high - low, 0.9 * 2.0**-14, atol=2.0**-20)


@pytest.mark.parametrize("dtype", HALF)
def test_the_fast_cell_is_the_clear_one_in_half_precision(dtype):
    names = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")  # no kernels to share
    x, weights = batch(0)[0], np.array([0.5, 0.3, 0.2], "float32")
    with policy(dtype):
        clear = MixedOp(names, 3, ops="darts")
        outputs = clear(ops.cast(x, dtype), weights, training=True)
    with policy("float32"):
        expected = MixedOp(names, 3, ops="darts")(x, weights, training=True)
    assert dtypes([outputs]) == {dtype}
    assert 0 < distance([ops.cast(outputs, "float32")], [expected]) < 4 * ROUNDING[dtype]


def test_the_rate_of_drop_path_is_not_rounded():
    network = training_model("bfloat16").network
    network.drop_path_rate.assign(0.2)
    seen = []
    layer = network.get_layer("drop_path")
    call = layer.call
    layer.call = lambda inputs, training=None: seen.append(float(layer.rate)) or call(inputs, training=training)
    layer(ops.ones((1, 2, 2, 1)), training=True)
    assert seen == [pytest.approx(0.2, rel=1e-6)]


# --- ten steps, and what an overflow leaves ---


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("dtype", HALF)
def test_ten_bilevel_steps_move_the_alphas_which_stay_float32(dtype, order):
    model = search_model(dtype, order)
    before = [a.numpy() for a in model.alphas]
    logs = steps(model, [(batch(2 * i), batch(2 * i + 1)) for i in range(10)])
    assert all(np.isfinite(value) for log in logs for value in log.values())
    assert dtypes(model.alphas) == {"float32"}
    for variable, old in zip(model.alphas, before):
        moved = np.abs(variable.numpy() - old)
        assert moved.min() > 1e-5 and moved.max() < 0.05  # ten steps of Adam at 3e-4
    scaling = {"loss_scale", "skipped", "skipped_in_a_row"}
    assert scaling & set(logs[0]) == (scaling if dtype == "float16" else set())
    assert all(log.get("skipped", 0) == 0 for log in logs)


@pytest.mark.parametrize("order", (1, 2))
def test_an_overflow_moves_neither_optimizer_and_halves_the_scale(order):
    model = search_model("float16", order)
    step, data = model.compiled_step(), [(batch(0), batch(1))]
    steps(model, data, step)  # so that there is something in all buffers
    scale, huge = model.loss_scale, 2.0**60
    scale.scale.assign(huge)
    own = {id(v) for v in (scale.scale, scale.good_steps, scale.skipped_in_a_row)}
    before = {v.path + str(i): v.numpy() for i, v in enumerate(all_variables(model)) if id(v) not in own}
    logs = steps(model, 2 * data, step)
    after = {v.path + str(i): v.numpy() for i, v in enumerate(all_variables(model)) if id(v) not in own}
    assert {name for name in before if not np.array_equal(before[name], after[name])} == set()
    for optimizer in model.optimizers:
        assert int(optimizer.iterations.numpy()) == 1
    assert [log["loss_scale"] for log in logs] == [huge, huge / 2]
    assert [log["skipped"] for log in logs] == [1, 1]
    assert [log["skipped_in_a_row"] for log in logs] == [1, 2]
    assert float(scale.scale) == huge / 4

    scale.scale.assign(precision.INITIAL_SCALE)
    assert steps(model, data, step)[0]["skipped"] == 0
    assert int(scale.skipped_in_a_row) == 0 and int(scale.good_steps) == 1
    assert int(model.arch_optimizer.iterations.numpy()) == 2


def test_alphas_do_not_move_when_the_weights_gradient_alone_overflows():
    model = search_model("float16")
    images, labels = batch(0)
    alphas = [a.numpy() for a in model.alphas]
    logs = steps(model, [((images * 1e6, labels), batch(1))])  # above 65504
    assert logs[0]["skipped"] == 1 and np.isfinite(logs[0]["validation_loss"])
    for variable, old in zip(model.alphas, alphas):
        np.testing.assert_array_equal(variable.numpy(), old)


def adapted(finite, scale, good_steps, skipped_in_a_row):
    state = precision.LossScale(keras.Model())
    for variable, value in zip(
        (state.scale, state.good_steps, state.skipped_in_a_row), (scale, good_steps, skipped_in_a_row)
    ):
        variable.assign(value)
    logs = state.adapt(ops.convert_to_tensor(finite))
    assert (float(logs["loss_scale"]), float(logs["skipped"])) == (scale, not finite)
    assert int(logs["skipped_in_a_row"]) == int(state.skipped_in_a_row)
    return float(state.scale), int(state.good_steps), int(state.skipped_in_a_row)


def test_the_scale_doubles_after_2000_good_steps_and_never_falls_below_1():
    assert adapted(True, 8.0, 5, 3) == (8.0, 6, 0)
    assert adapted(True, 8.0, 1998, 0) == (8.0, 1999, 0)
    assert adapted(True, 8.0, 1999, 0) == (16.0, 0, 0)
    assert adapted(False, 8.0, 1999, 3) == (4.0, 0, 4)
    assert adapted(False, 1.0, 0, 199) == (1.0, 0, 200)


def test_the_loss_scale_is_in_the_checkpoint_under_float16_alone():
    scale = search_model("float16").loss_scale
    assert search_model("bfloat16").loss_scale is search_model("float32").loss_scale is None
    model = training_model("float16")
    own = {id(v) for v in (model.loss_scale.scale, model.loss_scale.good_steps, model.loss_scale.skipped_in_a_row)}
    assert own <= {id(v) for v in model.step_variables()[1]}
    assert float(scale.scale) == 2.0**15


def test_the_scale_changes_no_gradient():
    model = search_model("float16")
    weights, alphas = values(model.supernet.trainable_variables), values(model.alphas)
    slopes = []
    for scale in (2.0**10, 2.0**15):
        model.loss_scale.scale.assign(scale)
        finite = []
        gradient = model.loss_scale.scaled(backend_step().gradient, finite)
        value, (logits, _), slope = gradient(lambda a: model.supernet_loss(weights, a, batch(0)), alphas)
        assert bool(finite[0]) and dtypes([value, logits, *slope]) == {"float32"}
        slopes.append(slope)
    assert distance(*slopes) < 4 * ROUNDING["float16"]  # but for what the smaller one loses to underflow


def test_training_under_float16_skips_a_batch_that_overflows():
    model = training_model("float16", optimizer=SGD(0.05, gradient_accumulation_steps=2, use_ema=True))
    good, bad = batch(0), (batch(0)[0] * 1e6, batch(0)[1])
    other = training_model("float16", optimizer=SGD(0.05, gradient_accumulation_steps=2, use_ema=True))
    assert [log["skipped"] for log in steps(model, [good, bad, batch(1)])] == [0, 1, 0]
    assert [log["skipped"] for log in steps(other, [good, batch(1)])] == [0, 0]
    assert int(model.weight_optimizer.iterations) == 1  # a skipped batch is none of the two
    for ours, theirs in zip(model.network.variables, other.network.variables):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-3)


# --- second order ---


@pytest.mark.parametrize("dtype", HALF)
def test_a_loss_in_full_precision_is_float32s(dtype):
    ours, theirs = search_model(dtype), search_model("float32")
    for model in (ours, theirs):
        for variable, seed in zip(model.supernet.trainable_variables, range(1000)):
            variable.assign(variable + 1e-3 * np.random.default_rng(seed).normal(size=variable.shape))
    results = []
    for model in (ours, theirs):
        weights, alphas = values(model.supernet.trainable_variables), values(model.alphas)
        gradient = backend_step().gradient
        with precision.full_precision(model.supernet):
            value, _, slope = gradient(lambda a, m=model, w=weights: m.supernet_loss(w, a, batch(0)), alphas)
        results.append([value, *slope])
    assert distance(*results) < 1e-6
    layers = [layer for layer in ours.supernet._flatten_layers() if layer.compute_dtype == dtype]
    assert len(layers) > 20  # and the policies are back


@pytest.mark.parametrize("dtype, noise", (("bfloat16", 0.1), ("float16", 0.01)))
def test_the_alphas_gradient_of_second_order_is_float32s(dtype, noise, monkeypatch):
    """As the step computes it, and as half precision would."""
    model, theirs = search_model(dtype, 2), search_model("float32", 2)
    gradient = model.loss_scale.scaled(backend_step().gradient, []) if model.loss_scale else backend_step().gradient

    def slope(of):
        return of._architecture_gradient(gradient, batch(0), batch(1))[2]

    expected = slope(theirs)
    assert distance(slope(model), expected) < 1e-3
    monkeypatch.setattr("sharpkeras.searching.search_model.full_precision", lambda supernet: contextlib.nullcontext())
    assert distance(slope(model), expected) > noise


def test_full_precision_changes_nothing_in_float32():
    model = search_model("float32")
    policies = [layer.dtype_policy for layer in model.supernet._flatten_layers()]
    with precision.full_precision(model.supernet):
        assert all(a is b.dtype_policy for a, b in zip(policies, model.supernet._flatten_layers()))
