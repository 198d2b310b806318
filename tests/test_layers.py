"""Layers against NumPy brute force in PyTorch's terms, and one contract for every primitive."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from support.gradients import gradient
from support.keras_settings import hostile_keras

from sharpkeras import layers, primitives
from sharpkeras.backend import fused_ops
from sharpkeras.spaces.cell.mixed_op import MixedOp
from sharpkeras.spaces.cell.network import AuxiliaryHead
from sharpkeras.spaces.cell.space import CellSpace

CHANNELS = 4
SIZES = ((8, 8), (7, 7), (7, 8))

LAYERS = [
    layers.Conv2D(6, 3, 2),
    layers.DepthwiseConv2D(5, 2, 2),
    layers.BatchNormalization(),
    layers.BatchNormalization(1e-3, center=False, scale=False),
    layers.MaxPool(3, 2),
    layers.AveragePool(3, 2),
    layers.AveragePool(3, 2, counted_padding=False),
    layers.Zero(2),
    layers.Identity(),
    layers.SharpSepConv(6, 5, 2, 2, mid_filters=3),
    layers.SharpSepConv(6, mid_multiplier=2, affine=False),
    layers.DilConv(6, 3, 2),
    layers.SplitConv(6, 7, 2, epsilon=1e-3),
    layers.ConvBNReLU(6, 3, 2),
    layers.ReLUConvBN(6),
    layers.ResizablePool(6, "average", strides=2),
    layers.ResizablePool(CHANNELS, "max"),
    layers.FactorizedReduce(6),
    layers.DropPath(0.3, seed=5),
    layers.DropPath(0.3, seed=5, assignable=True),
]
HALVES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def images(size=(8, 8), channels=CHANNELS, batch=2):
    return np.random.normal(size=(batch, *size, channels)).astype("float32")


def randomized(layer):
    """`layer` with every weight drawn anew, variances above 0."""
    layer.set_weights(
        [np.random.uniform(0.5, 1.5, w.shape) * (1 if "moving" in w.path else 0.5) for w in layer.weights]
    )
    return layer


# --- the way through a config ---


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_comes_back_from_its_config(layer):
    x = images()
    layer(x)
    randomized(layer)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    again(x)
    again.set_weights(layer.get_weights())
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    for training in (False, True):
        np.testing.assert_array_equal(layer(x, training=training), again(x, training=training))


def made_again(layer, **changes):
    return type(layer).from_config(layer.get_config() | changes)


def parts_of(layer):
    return list(layer._flatten_layers())


def as_model(layer, height=None, width=None):
    images = keras.Input((height, width, CHANNELS))
    return keras.Model(images, layer(images))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_takes_images_of_unknown_size_and_is_saved(layer, tmp_path):
    model = as_model(made_again(layer))
    randomized(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    plain = model.layers[-1]
    for size, batch in (((8, 8), 1), ((7, 9), 3)):
        x = images(size, batch=batch)
        for training in (False, True):
            outputs = model(x, training=training)
            np.testing.assert_array_equal(outputs, loaded(x, training=training))
            assert tuple(outputs.shape) == tuple(plain.compute_output_shape(x.shape))
        np.testing.assert_array_equal(model(x), plain(x))


FREEZABLE = [layer for layer in LAYERS if isinstance(layer, (layers.BatchNormalization, layers.Composite))]
COMPOSITES = [layer for layer in FREEZABLE if isinstance(layer, layers.Composite)]


@pytest.mark.parametrize("layer", FREEZABLE, ids=lambda layer: type(layer).__name__)
def test_a_frozen_layer_stays_as_it_is(layer, tmp_path):
    """Whenever and however it was frozen; its statistics moved in every way but the first."""
    x = images(batch=8) * 2 + 3
    late, early = as_model(made_again(layer)), keras.Sequential([made_again(layer)])
    late.layers[-1].trainable = early.layers[-1].trainable = False
    early(x)
    late.save(tmp_path / "model.keras")
    inside = as_model(keras.Sequential([keras.Input((None, None, CHANNELS)), made_again(layer, trainable=False)]))
    ways = {
        "built, then frozen": late,
        "frozen, then built": early,
        "in the constructor": as_model(made_again(layer, trainable=False)),
        "cloned": keras.models.clone_model(late),
        "loaded": keras.saving.load_model(tmp_path / "model.keras"),
        "inside": inside,
    }
    for way, model in ways.items():
        before = model.get_weights()
        np.testing.assert_array_equal(model(x, training=True), model(x, training=False), way)
        for old, new in zip(before, model.get_weights()):
            np.testing.assert_array_equal(old, new, way)
        assert not model.trainable_variables, way
    late.layers[-1].trainable = True
    before = late.get_weights()
    late(x, training=True)
    assert not before or any(np.any(old != new) for old, new in zip(before, late.get_weights()))


@pytest.mark.parametrize("layer", COMPOSITES, ids=lambda layer: type(layer).__name__)
def test_a_frozen_part_of_a_layer_stays_as_it_is(layer, tmp_path):
    """The moving statistics of a BatchNorm that alone was frozen drifted in a loaded model."""
    x, model = images(batch=8) * 2 + 3, as_model(made_again(layer))
    model(x)
    norms = [part for part in parts_of(model.layers[-1]) if isinstance(part, layers.BatchNormalization)]
    for norm in norms:
        norm.trainable = False
    model.save(tmp_path / "model.keras")
    for way in (model, keras.models.clone_model(model), keras.saving.load_model(tmp_path / "model.keras")):
        parts = parts_of(way.layers[-1])
        frozen = [part for part in parts if not part.trainable]
        assert [type(part) for part in frozen] == [type(norm) for norm in norms]
        before = [part.get_weights() for part in frozen]
        way(x, training=True)
        keras.tree.map_structure(np.testing.assert_array_equal, before, [part.get_weights() for part in frozen])
        assert len(way.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_policy_reaches_all_parts_and_stays(layer, half, tmp_path):
    model = as_model(made_again(layer, dtype=HALVES[half]))
    model.save(tmp_path / "model.keras")
    by_object = as_model(made_again(layer, dtype=keras.DTypePolicy(HALVES[half])))
    later = made_again(layer)
    later.dtype_policy = HALVES[half]
    loaded, cloned = keras.saving.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)
    for way in (model, by_object, as_model(later), loaded, cloned):
        assert {part.compute_dtype for part in parts_of(way.layers[-1])} == {half}
        assert {part.variable_dtype for part in parts_of(way.layers[-1])} == {"float32"}
        assert keras.backend.standardize_dtype(way(images()).dtype) == half
    assert {part.compute_dtype for part in parts_of(made_again(layer))} == {"float32"}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_no_setting_of_keras_changes_a_layer(layer):
    config = {name: value for name, value in layer.get_config().items() if name not in ("dtype", "data_format")}
    plain, x = type(layer).from_config(config), images()
    plain(x)
    weights = randomized(plain).get_weights()
    expected = [plain(x, training=training) for training in (False, True)]
    with hostile_keras():
        other = type(layer).from_config(config)
        other(x)
        other.set_weights(weights)
        for training in (False, True):
            np.testing.assert_array_equal(other(x, training=training), expected[training])
        assert tuple(other.compute_output_shape(x.shape)) == tuple(expected[0].shape)


REFUSED = [
    (layers.Conv2D, (4, 3), {"padding": "same"}),
    (layers.Conv2D, (4, 3), {"padding": "valid"}),
    (layers.Conv2D, (4, 3), {"use_bias": True}),
    (layers.Conv2D, (4, 3), {"activation": "relu"}),
    (layers.Conv2D, (4, 3), {"groups": 2}),
    (layers.Conv2D, (4, 3), {"data_format": "channels_first"}),
    (layers.DepthwiseConv2D, (3,), {"padding": "same"}),
    (layers.DepthwiseConv2D, (3,), {"use_bias": True}),
    (layers.DepthwiseConv2D, (3,), {"activation": "relu"}),
    (layers.DepthwiseConv2D, (3,), {"depth_multiplier": 2}),
    (layers.DepthwiseConv2D, (3,), {"data_format": "channels_first"}),
    (layers.MaxPool, (), {"padding": "same"}),
    (layers.MaxPool, (), {"data_format": "channels_first"}),
    (layers.AveragePool, (), {"padding": "same"}),
    (layers.AveragePool, (), {"data_format": "channels_first"}),
    (layers.BatchNormalization, (), {"axis": 1}),
    (layers.BatchNormalization, (), {"synchronized": True}),
    (layers.DropPath, (1.5,), {}),
    (layers.DropPath, (-0.1,), {}),
]


@pytest.mark.parametrize("layer, arguments, options", REFUSED, ids=str)
def test_what_a_layer_would_ignore_is_refused(layer, arguments, options):
    with pytest.raises(ValueError, match="expected"):
        layer(*arguments, **options)


def test_what_a_layer_does_anyway_may_be_said():
    options = {"use_bias": False, "activation": None, "groups": 1, "data_format": "channels_last"}
    layer, plain = layers.Conv2D(6, 3, 2, **options), layers.Conv2D(6, 3, 2)
    assert {**layer.get_config(), "name": ""} == {**plain.get_config(), "name": ""}


# --- layers that do not read one tensor of any size ---


def supernet_and_inputs():
    space = CellSpace(("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"), num_nodes=2, num_concatenated=2)
    supernet = space.supernet((8, 8, 3), num_classes=3, init_channels=2, num_cells=3)
    return supernet, [images(channels=3), space.mixing_weights(space.init_alphas(0))]


def test_a_mixed_operation_is_saved_and_frozen_and_has_its_policy(tmp_path):
    mixed = MixedOp(("skip_connect", "max_pool_3x3", "sep_conv_3x3"), CHANNELS, 2, trainable=False)
    inputs = [keras.Input((None, None, CHANNELS)), keras.Input(batch_shape=(3,))]
    model = keras.Model(inputs, mixed(*inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = [images(), np.float32([0.2, 0.3, 0.5])]
    for training in (False, True):
        np.testing.assert_array_equal(model(values, training=training), loaded(values, training=False))
    half = MixedOp(mixed.primitive_names, CHANNELS, dtype="mixed_bfloat16")
    assert {part.compute_dtype for part in parts_of(half)} == {"bfloat16"}


def test_a_frozen_supernet_stays_as_it_is(tmp_path):
    supernet, inputs = supernet_and_inputs()
    supernet.trainable = False
    before, outputs = supernet.get_weights(), supernet(inputs, training=True)
    for old, new in zip(before, supernet.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs, supernet(inputs, training=False))
    supernet.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(inputs), outputs)


def test_no_setting_of_keras_changes_a_supernet():
    plain, inputs = supernet_and_inputs()
    weights, expected = plain.get_weights(), plain(inputs, training=True)
    with hostile_keras():
        other, _ = supernet_and_inputs()
        other.set_weights(weights)
        np.testing.assert_array_equal(other(inputs, training=True), expected)


def test_an_auxiliary_head_has_its_policy_and_is_frozen():
    head, x = AuxiliaryHead(5, 3, dtype="mixed_bfloat16", trainable=False), images(batch=4)
    assert keras.backend.standardize_dtype(head(x).dtype) == "float32"  # logits
    assert {part.compute_dtype for part in head.features} == {"bfloat16"}
    again = made_again(head)
    again(x)
    again.set_weights(head.get_weights())
    np.testing.assert_array_equal(again(x, training=True), head(x, training=False))
    for old, new in zip(again.get_weights(), head.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_batch_norm_is_for_images():
    with pytest.raises(ValueError, match="expected images"):
        layers.BatchNormalization()(np.zeros((2, 5), "float32"))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_promised_shape_is_the_shape(layer, size):
    x = images(size)
    assert tuple(layer(x).shape) == tuple(layer.compute_output_shape(x.shape))


# --- padding ---


def padded(x, pad_height, pad_width, value=0.0):
    widths = ((0, 0), (pad_height, pad_height), (pad_width, pad_width), (0, 0))
    return np.pad(x.astype("float64"), widths, constant_values=value)


def windows(x, kernel_size, strides, dilation=1, value=0.0):
    """Yields ((row, column), window (B, k_h, k_w, C)) of PyTorch's sliding windows with padding dilation·(k - 1)/2."""
    reach = [dilation * (k - 1) for k in kernel_size]
    full = padded(x, reach[0] // 2, reach[1] // 2, value)
    rows, columns = ((full.shape[1 + a] - reach[a] - 1) // strides[a] + 1 for a in range(2))
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = row * strides[0], column * strides[1]
        part = full[:, top : top + reach[0] + 1 : dilation, left : left + reach[1] + 1 : dilation]
        yield (row, column), part


def assembled(pairs):
    """(B, H, W, C) from ((row, column), value (B, C)) pairs."""
    pairs = dict(pairs)
    rows, columns = (1 + max(place[a] for place in pairs) for a in range(2))
    return np.stack([np.stack([pairs[row, column] for column in range(columns)], 1) for row in range(rows)], 1)


@pytest.mark.parametrize("kernel_size", (1, 3, 5, (1, 7), (7, 1)))
@pytest.mark.parametrize("strides, dilation", ((1, 1), (2, 1), (1, 2), (2, 2)))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolution_pads_as_pytorch(kernel_size, strides, dilation, size):
    layer, x = layers.Conv2D(3, kernel_size, strides, dilation_rate=dilation if strides == 1 else 1), images(size)
    layer.build(x.shape)
    if dilation == 2 and strides == 2:
        layer.dilation_rate = (2, 2)  # Keras' constructor refuses what `convolve` can do
    kernel = layer.kernel.numpy()
    expected = assembled(
        (place, np.einsum("bhwc,hwco->bo", part, kernel))
        for place, part in windows(x, kernel.shape[:2], (strides, strides), dilation)
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("kernel_size", (3, 5))
@pytest.mark.parametrize("strides, dilation", ((1, 1), (2, 1), (1, 2), (2, 2)))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_depthwise_convolution_pads_as_pytorch(kernel_size, strides, dilation, size):
    layer, x = layers.DepthwiseConv2D(kernel_size, strides, dilation), images(size)
    layer.build(x.shape)
    kernel = layer.kernel.numpy()[..., 0]
    expected = assembled(
        (place, np.einsum("bhwc,hwc->bc", part, kernel))
        for place, part in windows(x, kernel.shape[:2], (strides, strides), dilation)
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_a_dilation_that_is_not_the_stride_is_refused():
    with pytest.raises(ValueError, match="dilation rate of 1 or equal to the strides"):
        layers.DepthwiseConv2D(3, 2, 3)(images())


@pytest.mark.parametrize("strides", (1, 2))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_max_pool_pads_with_minus_infinity(strides, size):
    x = -1.0 - np.abs(images(size))  # a padding of 0 would win at every border
    expected = assembled(
        (place, part.max((1, 2))) for place, part in windows(x, (3, 3), (strides, strides), value=-math.inf)
    )
    np.testing.assert_allclose(layers.MaxPool(3, strides)(x), expected, rtol=1e-6)


@pytest.mark.parametrize("strides", (1, 2))
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("counted_padding", (True, False))
def test_average_pool_divides_by_what_it_says(strides, size, counted_padding):
    x = images(size)
    mean = np.mean if counted_padding else np.nanmean
    expected = assembled(
        (place, mean(part, (1, 2)))
        for place, part in windows(x, (3, 3), (strides, strides), value=0.0 if counted_padding else math.nan)
    )
    np.testing.assert_allclose(layers.AveragePool(3, strides, counted_padding)(x), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_factorized_reduce_shifts_its_second_half(size):
    layer, x = layers.FactorizedReduce(6), images(size)
    layer.build(x.shape)
    randomized(layer)
    rectified = np.maximum(x, 0)
    shifted = np.pad(rectified, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]  # padded right and below, then cropped
    halves = [
        np.einsum("bhwc,co->bhwo", values[:, ::2, ::2], conv.kernel.numpy()[0, 0])
        for values, conv in ((rectified, layer.conv_1), (shifted, layer.conv_2))
    ]
    gamma, beta, mean, variance = (w.numpy() for w in layer.norm.weights)
    expected = (np.concatenate(halves, -1) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)


def test_factorized_reduce_wants_an_even_number_of_filters():
    with pytest.raises(ValueError, match="expected an even number of filters, received 15"):
        layers.FactorizedReduce(15)


# --- BatchNorm ---


@pytest.mark.parametrize("affine", (True, False))
def test_batch_norm_is_pytorchs(affine):
    layer, x = layers.BatchNormalization(center=affine, scale=affine), images(batch=3) * 2 + 1
    layer.build(x.shape)
    randomized(layer)
    before = {name: getattr(layer, name).numpy() for name in ("moving_mean", "moving_variance")}
    gamma, beta = (layer.gamma.numpy(), layer.beta.numpy()) if affine else (1.0, 0.0)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)

    # The average keeps the unbiased variance, which is not the one that normalised.
    n = 3 * 8 * 8
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.9 * before["moving_mean"] + 0.1 * mean, rtol=1e-5)
    moved = 0.9 * before["moving_variance"] + 0.1 * variance * n / (n - 1)
    np.testing.assert_allclose(layer.moving_variance.numpy(), moved, rtol=1e-5)

    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)


def test_a_frozen_batch_norm_uses_and_keeps_its_averages():
    layer, x = layers.BatchNormalization(), images()
    layer.build(x.shape)
    randomized(layer)
    layer.trainable = False
    before = layer.get_weights()
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for old, new in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_the_fast_batch_norm_equals_the_clear_one():
    x = images(batch=3)
    scale, offset = np.random.normal(size=(2, CHANNELS)).astype("float32")
    target = images(batch=3)

    def loss(normalize):
        def value(argument):
            outputs, mean, variance = normalize(*argument, 1e-5)
            return ops.sum(outputs * target), (outputs, mean, variance)

        return value

    fast = gradient(loss(fused_ops.batch_normalization), [x, scale, offset])
    clear = gradient(loss(fused_ops.batch_normalization_clear), [x, scale, offset])
    for ours, expected in zip(keras.tree.flatten(fast), keras.tree.flatten(clear)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "make", (lambda: layers.Conv2D(3), lambda: layers.Conv2D(3, 1, 2), lambda: layers.FactorizedReduce(6))
)
def test_the_forms_for_gradients_equal_the_clear_ones(make, size, monkeypatch):
    layer, x = make(), images(size)
    layer.build(x.shape)
    target = np.random.normal(size=layer.compute_output_shape(x.shape)).astype("float32")

    def loss(argument):
        outputs = layer.stateless_call(argument[1:], layer.non_trainable_variables, argument[0])[0]
        return ops.sum(outputs * target), outputs

    arguments = [x, *(variable.numpy() for variable in layer.trainable_variables)]
    fast = gradient(loss, arguments)
    monkeypatch.setattr(fused_ops, "_is_differentiated_by_tensorflow", lambda tensor: False)
    for ours, expected in zip(keras.tree.flatten(fast), keras.tree.flatten(gradient(loss, arguments))):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_half_precision_takes_its_statistics_in_float32():
    layer, x = layers.BatchNormalization(dtype="mixed_bfloat16"), images() + 100.0
    assert keras.backend.standardize_dtype(layer(x, training=True).dtype) == "bfloat16"
    assert layer.moving_mean.dtype == "float32"
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * rounded.mean((0, 1, 2)), rtol=1e-5)


# --- drop path ---


def test_drop_path_drops_whole_examples_and_scales_the_rest():
    rate, x = 0.4, np.ones((5000, 2, 2, 3), "float32")
    outputs = ops.convert_to_numpy(layers.DropPath(rate, seed=0)(x, training=True)).reshape(len(x), -1)
    assert np.all(outputs == outputs[:, :1])  # an example as a whole
    np.testing.assert_allclose(np.unique(outputs), [0.0, 1 / (1 - rate)], rtol=1e-6)
    deviation = math.sqrt(rate / (1 - rate) / len(x))
    assert abs(outputs.mean() - 1.0) < 4 * deviation


@pytest.mark.parametrize("shape", ((64,), (64, 3), (64, 5, 3), (64, 2, 2, 3), (64, 2, 2, 2, 3)), ids=len)
def test_drop_path_keeps_the_shape_of_any_rank(shape):
    outputs = ops.convert_to_numpy(layers.DropPath(0.5, seed=0)(np.ones(shape, "float32"), training=True))
    assert outputs.shape == shape
    outputs = outputs.reshape(64, -1)
    assert np.all(outputs == outputs[:, :1]) and set(np.unique(outputs)) == {0.0, 2.0}


@pytest.mark.parametrize("rate", (1, 1.0, keras.Variable(1.0, trainable=False)), ids=("1", "1.0", "variable"))
def test_drop_path_at_rate_1_is_zeros(rate):
    outputs = layers.DropPath(rate)(images(batch=16), training=True)
    np.testing.assert_array_equal(outputs, np.zeros((16, 8, 8, CHANNELS)))


def test_drop_path_draws_anew_and_rests_in_inference():
    layer, x = layers.DropPath(0.5, seed=0), images(batch=64)
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))
    np.testing.assert_array_equal(layer(x, training=False), x)
    np.testing.assert_array_equal(layers.DropPath(0.0)(x, training=True), x)


def test_drop_path_follows_a_variable():
    rate, x = keras.Variable(0.0, trainable=False), np.ones((200, 1, 1, 1), "float32")
    layer = layers.DropPath(rate, seed=0)
    assert np.all(ops.convert_to_numpy(layer(x, training=True)) == 1.0)
    rate.assign(0.5)
    assert 0 < np.mean(ops.convert_to_numpy(layer(x, training=True)) == 0.0) < 1


# --- the figures and tables ---


def test_sharp_sep_conv_is_figure_3():
    layer = layers.SharpSepConv(6, 5, strides=2, dilation_rate=2, mid_multiplier=3)
    layer.build((None, 8, 8, CHANNELS))
    names = [type(step).__name__ for step in layer.steps]
    assert names == ["ReLU", "DepthwiseConv2D", "Conv2D", "BatchNormalization"] * 2
    first, middle, second, last = (layer.steps[position] for position in (1, 2, 5, 6))
    assert (first.kernel_size, first.strides, first.dilation_rate) == ((5, 5), (2, 2), (2, 2))
    assert (second.kernel_size, second.strides, second.dilation_rate) == ((5, 5), (1, 1), (1, 1))
    assert (middle.filters, last.filters) == (18, 6)
    assert layers.SharpSepConv(6, mid_filters=3).steps[2].filters == 3


def test_resizable_pool_only_resizes_where_it_must():
    same, other = layers.ResizablePool(CHANNELS), layers.ResizablePool(6)
    same(images()), other(images())
    assert not same.weights
    assert other.steps[2].epsilon == 1e-3 and other(images()).shape[-1] == 6


@pytest.mark.parametrize("table", primitives.OPS)
def test_batch_norms_epsilon_by_op_table(table):
    split = primitives.build("conv_7x1_1x7", table, CHANNELS)
    assert split.steps[-1].epsilon == {"sharp": 1e-3, "darts": 1e-5}[table]
    assert primitives.build("sep_conv_3x3", table, CHANNELS).steps[-1].epsilon == 1e-5


def test_new_weights_are_drawn_as_pytorch_draws_them():
    for layer, fan_in in (
        (layers.Conv2D(64, 3), 9 * 16),
        (layers.DepthwiseConv2D(5), 25),
        (keras.Sequential([AuxiliaryHead(300, 3)]).layers[0], None),
    ):
        layer.build((None, 8, 8, 16))
        kernel, fan_in = (layer.kernel, fan_in) if fan_in else (layer.classifier.kernel, 768)
        limit = 1 / math.sqrt(fan_in)
        assert 0.9 * limit < np.abs(kernel.numpy()).max() <= limit
        assert kernel.numpy().std() == pytest.approx(limit / math.sqrt(3), rel=0.1)


# --- the contract of a primitive ---

ROWS = [(table, name) for table, rows in primitives.OPS.items() for name in rows]


@pytest.mark.parametrize("table, name", ROWS, ids=lambda value: value)
@pytest.mark.parametrize("affine", (True, False), ids=("affine", "plain"))
def test_contract_of_primitives(table, name, affine):
    for strides, size in itertools.product((1, 2), SIZES):
        layer, x = primitives.build(name, table, CHANNELS, strides, affine), images(size)
        layer.build(x.shape)
        target = images([math.ceil(side / strides) for side in size])

        def loss(argument, layer=layer, target=target):
            outputs = layer(argument[0], training=True)
            return ops.sum(outputs * target), outputs

        _, outputs, (slope,) = (
            gradient(loss, [x]) if keras.backend.backend() == "tensorflow" else stateless(layer, loss, x)
        )
        assert outputs.shape == target.shape == layer.compute_output_shape(x.shape)
        assert np.isfinite(outputs).all() and np.isfinite(slope).all()
        assert np.any(slope) == (name != "none")
        norms = [v for v in layer.trainable_variables if v.name in ("gamma", "beta")]
        assert affine or not norms


def stateless(layer, loss, x):
    """On JAX a layer's moving statistics may not be written inside a compiled function."""
    with keras.StatelessScope():
        return gradient(loss, [x])


@pytest.mark.parametrize("table", primitives.OPS)
def test_every_list_is_made_of_rows(table):
    for names in primitives.PRIMITIVES.values():
        assert len(set(names)) == len(names)
        if table == "sharp":
            assert set(names) <= set(primitives.OPS[table])


def test_an_unknown_primitive_gets_its_nearest_name():
    with pytest.raises(primitives.ConfigError) as caught:
        primitives.lookup("sep_conv_9x9", "sharp", where="file: normal[0]")
    assert caught.value.next_step == "did you mean sep_conv_7x7?"
    assert caught.value.where == "file: normal[0]" and "choke_conv_3x3" in caught.value.allowed


def test_only_choke_primitives_have_an_adaptable_middle():
    assert primitives.build("choke_conv_3x3", "sharp", 8).steps[2].filters == 32
    assert primitives.build("choke_conv_3x3", "sharp", 8, mid_filters=12).steps[2].filters == 12
    assert primitives.build("flood_conv_3x3", "sharp", 8, mid_filters=12).steps[2].filters == 32
    assert primitives.build("sep_conv_3x3", "sharp", 8, mid_filters=12).steps[2].filters == 8
