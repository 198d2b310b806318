"""Parameters and AddMults: the paper's tables, toy models counted by hand, and a network that is not ours."""

import re

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from sharpkeras import layers
from sharpkeras.errors import ConfigError
from sharpkeras.measure import cost as cost_rules
from sharpkeras.measure.cost import Cost, count, of_layer, per_layer
from sharpkeras.paper import published
from sharpkeras.spaces.cell.network import CellNetwork


def network_of(reproduce, auxiliary=False):
    input_shape = tuple(reproduce["input"])
    imagenet = input_shape[0] == 224
    return CellNetwork(
        published.genotype(reproduce["genotype"]),
        ops=reproduce["ops"],
        stem="imagenet" if imagenet else "cifar",
        input_shape=input_shape,
        num_classes=1000 if imagenet else 10,
        init_channels=reproduce["init_channels"],
        num_cells=reproduce["layers"],
        mid_filters=reproduce.get("mid_channels"),
        auxiliary=auxiliary,
    )


# --- the paper's tables ---

ROWS = [row for number in (2, 3) for row in published.table(number) if "reproduce" in row]

# Rows whose printed parameters the published genotype does not give, as their note in the tables says.
OTHER_PARAMETERS = {"DARTS first order (published genotype)"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']}-{row['reproduce']['input'][0]}")
def test_rows_of_the_papers_tables(row):
    cost = count(network_of(row["reproduce"]).without_auxiliary())
    assert cost.parameters == row["measured"]["parameters"]
    assert round(cost.addmults_paper / 1e6, 2) == row["measured"]["addmults_m"]
    assert within_a_digit(cost.addmults_paper / 1e9, row["addmult_b"])
    assert within_a_digit(cost.parameters / 1e6, row["params_m"]) == (row["name"] not in OTHER_PARAMETERS)


def within_a_digit(value, printed):
    """Within one unit of the last printed digit: the paper rounds here and cuts there."""
    text = repr(printed)
    unit = 10.0 ** -(len(text) - text.index(".") - 1)
    return abs(value - printed) < unit


def test_a_row_is_left_out_only_with_a_note():
    assert all("note" in row for row in ROWS if row["name"] in OTHER_PARAMETERS)
    assert len(ROWS) == 10


@pytest.mark.parametrize(
    "genotype, ops, expected",
    (
        ("SHARP_DARTS", "sharp", Cost(1974934, 356729472, 344140416)),
        ("SHARPSEPCONV_DARTS", "sharp", Cost(3555622, 578604672, 558384768)),
        ("DARTS_V2", "darts", Cost(3349342, 547473024, 528359040)),
        ("SHARP_DARTS_MAX_W", "sharp", Cost(8306022, 1294174848, 1256948352)),
        ("SHARPER_MAX_W", "sharp", Cost(6087142, 950221440, 923172480)),
    ),
)
def test_published_genotypes_keep_their_cost(genotype, ops, expected):
    reproduce = {"genotype": genotype, "ops": ops, "init_channels": 36, "layers": 20, "input": [32, 32, 3]}
    assert count(network_of(reproduce).without_auxiliary()) == expected


def test_the_auxiliary_head_is_not_counted():
    reproduce = {"genotype": "SHARP_DARTS", "ops": "sharp", "init_channels": 8, "layers": 4, "input": [32, 32, 3]}
    with_head, without = network_of(reproduce, auxiliary=True), network_of(reproduce)
    assert count(with_head.without_auxiliary()) == count(without.without_auxiliary())
    assert with_head.count_params() > without.count_params()


def test_the_middle_of_choke_primitives_changes_their_cost():
    reproduce = {"genotype": "SHARP_DARTS", "ops": "sharp", "init_channels": 16, "layers": 4, "input": [32, 32, 3]}
    default, same, wide = (
        count(network_of({**reproduce, "mid_channels": m}).without_auxiliary()) for m in (None, 32, 96)
    )
    assert default == same and wide.parameters > same.parameters and wide.addmults_paper > same.addmults_paper


# --- counted by hand ---

H, W, C = 6, 4, 3
N = H * W * C


@pytest.mark.parametrize(
    "layer, expected",
    (
        (kl.Conv2D(5, 3, padding="same", use_bias=False), Cost(135, 24 * 135, 24 * 135)),
        (kl.Conv2D(5, 3, padding="same"), Cost(140, 24 * 135 + 24 * 5, 24 * 135)),
        (kl.Conv2D(5, 3, 2, padding="same", use_bias=False), Cost(135, 6 * 135, 6 * 135)),
        (kl.Conv2D(5, 1, activation="relu", use_bias=False), Cost(15, 24 * 15 + 24 * 5, 24 * 15)),
        (kl.Conv2D(6, 1, groups=3, use_bias=False), Cost(6, 24 * 6, 24 * 6)),
        (kl.DepthwiseConv2D(3, padding="same", use_bias=False), Cost(27, 24 * 27, 24 * 27)),
        (kl.DepthwiseConv2D(3, padding="same"), Cost(30, 24 * 27 + N, 24 * 27)),
        (kl.SeparableConv2D(5, 3, padding="same", use_bias=False), Cost(42, 24 * 42, 24 * 42)),
        (kl.Conv2DTranspose(5, 3, 2, padding="same"), Cost(140, 24 * 135 + 96 * 5, 24 * 135)),  # of those that go in
        (kl.PReLU(), Cost(N, N, 0)),  # the same function as LeakyReLU and ReLU with a slope, which counted 1
        (kl.BatchNormalization(), Cost(6, 2 * N, 0)),
        (kl.BatchNormalization(scale=False), Cost(3, 2 * N, 0)),
        (kl.BatchNormalization(scale=False, center=False), Cost(0, N, 0)),
        (kl.ReLU(), Cost(0, N, 0)),
        (kl.Activation("relu"), Cost(0, N, 0)),
        (kl.Activation("linear"), Cost(0, 0, 0)),
        (kl.MaxPooling2D(2), Cost(0, N, 0)),
        (kl.AveragePooling2D(3, 1), Cost(0, N, 0)),
        (kl.GlobalAveragePooling2D(), Cost(0, N, 0)),
        (kl.ZeroPadding2D(1), Cost(0, 0, 0)),
        (kl.Flatten(), Cost(0, 0, 0)),
        (layers.Conv2D(5, 3, 2), Cost(135, 6 * 135, 6 * 135)),
        (layers.DepthwiseConv2D(5, 2, 2), Cost(75, 6 * 75, 6 * 75)),  # of the positions that come out
        (layers.Zero(), Cost(0, 0, 0)),
        (layers.Identity(), Cost(0, 0, 0)),
        (layers.DropPath(0.2), Cost(0, 0, 0)),
        (layers.MaxPool(3, 2), Cost(0, N, 0)),
        # ReLU, 1×1 convolution, BatchNorm
        (layers.ReLUConvBN(5), Cost(15 + 10, N + 24 * 15 + 2 * 120, 24 * 15)),
        (layers.ReLUConvBN(5, affine=False), Cost(15, N + 24 * 15 + 120, 24 * 15)),
        # ReLU once, two halves, BatchNorm
        (layers.FactorizedReduce(4), Cost(12 + 8, N + 6 * 12 + 2 * 24, 6 * 12)),
        (layers.ResizablePool(3), Cost(0, N, 0)),
        (layers.ResizablePool(5), Cost(15 + 10, N + 24 * 15 + 2 * 120, 24 * 15)),
        # ReLU, 3×3, 1×1 to 2, BatchNorm, ReLU, 3×3, 1×1 to 5, BatchNorm
        (
            layers.SharpSepConv(5, mid_filters=2),
            Cost(27 + 6 + 4 + 18 + 10 + 10, N + 24 * 33 + 2 * 48 + 48 + 24 * 28 + 2 * 120, 24 * (27 + 6 + 18 + 10)),
        ),
    ),
    ids=lambda value: value.__class__.__name__ if isinstance(value, kl.Layer) else "",
)
def test_one_layer_by_hand(layer, expected):
    images = keras.Input((H, W, C))
    assert count(keras.Model(images, layer(images))) == expected


def test_a_dense_layer_by_hand():
    features = keras.Input((7,))
    model = keras.Model(features, kl.Dense(5, activation="relu")(kl.Dense(4)(features)))
    assert count(model) == Cost(28 + 4 + 20 + 5, 28 + 20 + 5, 28 + 20)  # a bias of a dense layer adds nothing


def test_sums_and_concatenations_are_free_and_every_call_counts():
    images, relu = keras.Input((H, W, C)), kl.ReLU()
    model = keras.Model(images, kl.Concatenate()([kl.Add()([relu(images), relu(images)]), images]))
    assert count(model).addmults_paper == 2 * N


def test_models_may_stand_in_models():
    images = keras.Input((H, W, C))
    inner = keras.Sequential([keras.Input((H, W, C)), kl.Conv2D(C, 1, use_bias=False), layers.ReLUConvBN(C)])
    model = keras.Model(images, inner(inner(images)))  # shared weights count once, work twice
    once = count(inner)
    assert sum(row.parameters for row in per_layer(model)) == once.parameters  # called twice, counted once
    assert once == Cost(9 + 9 + 6, 24 * 9 + N + 24 * 9 + 2 * N, 2 * 24 * 9)
    assert count(model) == Cost(once.parameters, 2 * once.addmults_paper, 2 * once.addmults_conv_dense)


def test_rows_sum_to_the_count_and_say_where_they_are():
    network = network_of(
        {"genotype": "SHARP_DARTS", "ops": "sharp", "init_channels": 8, "layers": 4, "input": [32, 32, 3]}
    )
    rows, cost = per_layer(network.without_auxiliary()), count(network.without_auxiliary())
    assert sum(row.addmults_paper for row in rows) == cost.addmults_paper
    assert sum(row.addmults_conv_dense for row in rows) == cost.addmults_conv_dense
    assert sum(row.parameters for row in rows) == cost.parameters
    assert (
        rows[0].name == "stem.0" and rows[0].output_shape == (32, 32, 24) and rows[0].addmults_paper == 1024 * 27 * 24
    )
    assert rows[-1].name == "classifier" and rows[-1].layer == "Dense"
    assert any(row.name.startswith("cells.1.preprocess0/") for row in rows)


def test_sizes_must_be_known():
    images = keras.Input((None, None, 3))
    with pytest.raises(ConfigError, match="static shape"):
        count(keras.Model(images, kl.ReLU()(images)))


# ---- whatever is counted is counted as it is called, whatever cannot be is an error ----


def cost_of(call, shape, dtype=None):
    """The Cost of a function of a symbolic tensor without the batch."""
    inputs = keras.Input(shape, dtype=dtype)
    return count(keras.Model(inputs, call(inputs)))


class Walk(kl.Layer):
    """A loop over steps in raw arrays of the backend: what is done in it is not seen."""

    def call(self, inputs):
        return keras.src.backend.nn.relu(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


UNCOUNTABLE = {
    "loop over steps": lambda x: kl.ConvLSTM1D(2, 3)(x),
    "frozen loop": lambda x: kl.ConvLSTM1D(2, 3, trainable=False)(x),
    "inside a wrapper": lambda x: kl.Bidirectional(kl.LSTM(2))(kl.Reshape((6, 12))(x)),
    "past the operations": lambda x: Walk()(x),
    "operation of its own": lambda x: ops.fft((x, x))[0],
    "linear algebra": lambda x: ops.linalg.inv(x[..., :3, :]),
    "hidden in a loop": lambda x: ops.map(lambda row: ops.matmul(row, ops.transpose(row)), x[0]),
    "order that nobody said": lambda x: ops.einsum("bhwc,cd,de->bhwe", x, np.ones((3, 5)), np.ones((5, 2))),
}


@pytest.mark.parametrize("call", UNCOUNTABLE.values(), ids=UNCOUNTABLE)
def test_what_cannot_be_counted_is_not_left_out(call):
    with pytest.raises(ConfigError, match="cannot be counted") as caught:
        cost_of(call, (6, 4, 3))
    assert caught.value.exit_code == 3 and caught.value.where and "keras.ops" in caught.value.next_step


def frozen(layer):
    layer.trainable = False
    return layer


FREEZABLE = {
    "EinsumDense": (lambda **o: kl.EinsumDense("abc,cd->abd", (16, 32), **o), (16, 8), 8 * 32, 16 * 8 * 32),
    "Dense": (lambda **o: kl.Dense(5, use_bias=False, **o), (7,), 35, 35),
    "Conv2D": (lambda **o: kl.Conv2D(5, 3, use_bias=False, **o), (6, 4, 3), 135, 8 * 135),
    "SharpSepConv": (
        lambda **o: layers.SharpSepConv(5, **o),
        (6, 4, 3),
        27 + 15 + 45 + 25 + 20,
        24 * (27 + 15 + 45 + 25),
    ),
}


@pytest.mark.parametrize("make, shape, parameters, multiply_adds", FREEZABLE.values(), ids=FREEZABLE)
def test_a_frozen_layer_costs_what_it_costs(make, shape, parameters, multiply_adds):
    free, held, made_so = (cost_of(layer, shape) for layer in (make(), frozen(make()), make(trainable=False)))
    assert free == held == made_so
    assert (free.parameters, free.addmults_conv_dense) == (parameters, multiply_adds)


def test_averages_are_no_parameters_frozen_or_not():
    for layer in (kl.BatchNormalization(), frozen(kl.BatchNormalization())):
        assert cost_of(layer, (H, W, C)) == Cost(6, 2 * N, 0)
    norm = kl.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0])
    assert cost_of(norm, (H, W, C)) == Cost(0, 0, 0)


class Block(kl.Layer):
    """A composite of one convolution, called as often as it is told, on a tensor, a list or a dictionary of them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = kl.Conv2D(4, 3, padding="same", use_bias=False)

    def call(self, inputs, times=1, training=None):
        parts = keras.tree.flatten(inputs)
        inputs = sum(parts[1:], parts[0])
        for _ in range(times):
            inputs = self.conv(inputs)
        return inputs


CONV = kl.Conv2D(4, 3, padding="same", use_bias=False)
ONCE = 2 * 2 * 4 * 9 * 4  # 576

AS_CALLED = {
    "once": (lambda x: Block()(x), ONCE),
    "with an option": (lambda x: Block()(x, times=3), 3 * ONCE),
    "of a list": (lambda x: Block()([x, x], times=2), 2 * ONCE),
    "of a dictionary": (lambda x: Block()({"a": x, "b": ops.relu(x)}), ONCE),
    "by keyword": (lambda x: Block()(inputs=x, times=2), 2 * ONCE),
    "in training": (lambda x: Block()(x, training=True), ONCE),
    "inside another": (lambda x: kl.TimeDistributed(CONV)(ops.stack([x, x, x], axis=1)), 3 * ONCE),
    "twice, of other sizes": (lambda x: (lambda b: (b(x), b(kl.UpSampling2D(2)(x))))(Block()), 5 * ONCE),
    "folded into the batch": (lambda x: Block()(ops.reshape(x, (-1, 1, 1, 4))), ONCE),
    "of a model": (lambda x: keras.Sequential([Block(), kl.ReLU()])(x), ONCE),
}


@pytest.mark.parametrize("call, expected", AS_CALLED.values(), ids=AS_CALLED)
def test_a_layer_is_counted_as_it_is_called(call, expected):
    cost = cost_of(call, (2, 2, 4))
    assert (cost.parameters, cost.addmults_conv_dense) == (144, expected)


def test_a_model_of_a_fixed_batch_is_counted_for_one_image():
    images = keras.Input((H, W, C), batch_size=8)
    assert count(keras.Model(images, kl.Conv2D(5, 1, use_bias=False)(images))) == Cost(15, 24 * 15, 24 * 15)


@pytest.mark.parametrize("called", [False, True])
def test_a_sequential_is_counted_by_itself(called):
    model = keras.Sequential([kl.Dense(4), kl.Dense(2)] if called else [keras.Input((8,)), kl.Dense(4), kl.Dense(2)])
    if called:
        model(np.zeros((3, 8), "float32"))
    assert count(model) == Cost(8 * 4 + 4 + 4 * 2 + 2, 40, 40)


class OfTwo(keras.Model):
    """A model that is handed a dictionary, and has no graph."""

    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(4)

    def call(self, inputs):
        return self.dense(inputs["left"]) + self.dense(inputs["right"])


def test_a_subclassed_model_of_a_dictionary_is_counted():
    model = OfTwo()
    model({"left": np.zeros((3, 8), "float32"), "right": np.zeros((3, 8), "float32")})
    assert count(model) == Cost(8 * 4 + 4, 2 * 8 * 4, 2 * 8 * 4)


def test_a_quantized_layer_is_not_counted_without_its_weights():
    """Its weights are integers that nothing trains: 36 parameters would be 4."""
    inputs = keras.Input((8,))
    model = keras.Model(inputs, kl.Dense(4)(inputs))
    model.quantize("int8")
    with pytest.raises(ConfigError, match="before it is quantized"):
        count(model)


def test_counting_leaves_no_trace_in_a_layer():
    class Counting(kl.Layer):
        def build(self, input_shape):
            self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

        def call(self, inputs):
            self.calls.assign_add(1.0)
            return ops.relu(inputs)

    layer = Counting()
    assert cost_of(layer, (H, W, C)) == Cost(0, N, 0) and float(layer.calls) == 0


# ---- one function, whatever its form ----

kernel, row = np.ones((3, 3, 4, 5), "float32"), np.ones((4, 5), "float32")
FORMS = {
    "relu": (
        64,
        0,
        [
            kl.ReLU(),
            kl.ReLU(max_value=6.0),
            kl.ReLU(negative_slope=0.1, threshold=1.0),
            kl.LeakyReLU(),
            kl.PReLU(),
            kl.Activation("relu"),
            kl.Activation("relu6"),
            kl.Activation("leaky_relu"),
            kl.Activation(lambda x: keras.activations.relu(x, max_value=3.0)),
            kl.Lambda(ops.relu),
            ops.relu,
            ops.relu6,
            ops.leaky_relu,
            keras.activations.relu,
            lambda x: keras.activations.relu(x, max_value=6.0),
            lambda x: ops.maximum(x, 0.0),
            lambda x: ops.maximum(0, x),
            lambda x: ops.maximum(x, np.float32(0)),
            lambda x: ops.maximum(ops.convert_to_tensor([0.0]), x),
            lambda x: ops.maximum(x, ops.zeros_like(x)),
            lambda x: ops.clip(x, np.float32(0), 6.0),
            lambda x: ops.clip(x, 0.0, 6.0),
        ],
    ),
    "pool": (
        64,
        0,
        [
            kl.MaxPooling2D(2),
            kl.AveragePooling2D(3, 1, padding="same"),
            kl.AdaptiveAveragePooling2D(2),
            kl.AdaptiveMaxPooling2D(3),
            kl.GlobalMaxPooling2D(),
            kl.GlobalAveragePooling2D(keepdims=True),
            layers.MaxPool(3, 2),
            layers.AveragePool(3, 2, counted_padding=False),
            lambda x: ops.max_pool(x, 2),
            lambda x: ops.average_pool(x, 3, 1),
            lambda x: ops.adaptive_average_pool(x, (2, 2)),
            lambda x: ops.mean(x, axis=(1, 2)),
            lambda x: ops.mean(x, axis=(-3, -2), keepdims=True),
            lambda x: ops.max(x, axis=[1, 2]),
            lambda x: kl.MaxPooling1D(2)(kl.Reshape((16, 4))(x)),
            lambda x: kl.AveragePooling1D(2)(kl.Reshape((16, 4))(x)),
            lambda x: kl.GlobalAveragePooling1D()(kl.Reshape((16, 4))(x)),
            lambda x: kl.AdaptiveMaxPooling1D(2)(kl.Reshape((16, 4))(x)),
            lambda x: kl.MaxPooling3D(2)(kl.Reshape((4, 2, 2, 4))(x)),
            lambda x: kl.AveragePooling3D(2)(kl.Reshape((4, 2, 2, 4))(x)),
            lambda x: kl.GlobalMaxPooling3D()(kl.Reshape((4, 2, 2, 4))(x)),
            lambda x: kl.AdaptiveAveragePooling3D(1)(kl.Reshape((4, 2, 2, 4))(x)),
        ],
    ),
    "dense": (
        16 * 20,
        16 * 20,
        [
            kl.Dense(5),
            kl.EinsumDense("bhwc,cd->bhwd", (None, None, 5), bias_axes="d"),
            kl.EinsumDense("...c,cd->...d", (5,)),
            kl.TimeDistributed(kl.Dense(5)),
            lambda x: ops.matmul(x, row),
            lambda x: x @ row,
            lambda x: ops.dot(x, row),
            lambda x: ops.tensordot(x, row, axes=1),
            lambda x: ops.einsum("bhwc,cd->bhwd", x, row),
            lambda x: kl.Dot(axes=(3, 1))([x, ops.expand_dims(ops.ones_like(x[:, 0, 0]), 2) * np.ones((1, 1, 5))]),
            kl.Conv2D(5, 1, use_bias=False),
        ],
    ),
    "convolution": (
        4 * 5 * 37,
        4 * 5 * 36,
        [
            kl.Conv2D(5, 3),
            kl.Conv2D(5, 3, trainable=False),
            kl.SpectralNormalization(kl.Conv2D(5, 3)),
            lambda x: ops.conv(x, kernel) + np.ones(5, "float32"),
            lambda x: kl.Permute((2, 3, 1))(kl.Conv2D(5, 3, data_format="channels_first")(kl.Permute((3, 1, 2))(x))),
        ],
    ),
    "batch norm": (
        2 * 64,
        0,
        [
            kl.BatchNormalization(),
            layers.BatchNormalization(),
            lambda x: ops.batch_normalization(x, *np.ones((2, 4), "float32"), -1, scale=np.ones(4, "float32")),
        ],
    ),
    "nothing": (
        0,
        0,
        [
            kl.Softmax(),
            kl.ELU(),
            kl.Activation("swish"),
            kl.LayerNormalization(),
            kl.GroupNormalization(2),
            kl.Dropout(0.5),
            lambda x: kl.Dropout(0.5)(x, training=True),
            kl.RandomFlip(),
            kl.Resizing(2, 2),
            kl.UpSampling2D(2),
            lambda x: ops.mean(x, axis=-1, keepdims=True),
            lambda x: ops.maximum(x, 1.0),
            lambda x: ops.maximum(x, np.float32([0.0, 0.0, 0.0, 1.0])),
            lambda x: ops.maximum(x, ops.ones_like(x)),
            lambda x: ops.clip(x, -1.0, 1.0),
            lambda x: ops.einsum("bhwc,c->bhwc", x, np.ones(4, "float32")),
            lambda x: x * 2.0 + 1.0,
            lambda x: kl.Embedding(9, 3)(ops.cast(x, "int32")),
        ],
    ),
}
EACH_FORM = [(name, n, paper, plain) for name, (paper, plain, forms) in FORMS.items() for n in range(len(forms))]


@pytest.mark.parametrize("name, number, paper, conv_dense", EACH_FORM, ids=lambda value: str(value))
def test_a_function_counts_the_same_in_every_form(name, number, paper, conv_dense):
    cost = cost_of(FORMS[name][2][number], (4, 4, 4))
    assert (cost.addmults_paper, cost.addmults_conv_dense) == (paper, conv_dense)


def test_attention_by_hand():
    """6 places of 8 channels, 2 heads of 4: three products and one more with matrices, and two of the places."""
    attention = 2 * 6 * 6 * 4 * 2
    for make in (kl.MultiHeadAttention(2, 4), kl.MultiHeadAttention(2, 4, dropout=0.1)):
        assert cost_of(lambda x, layer=make: layer(x, x), (6, 8)).addmults_conv_dense == 4 * 6 * 8 * 8 + attention
    for make in (kl.MultiHeadAttention(2, 4, value_dim=5), kl.MultiHeadAttention(2, 4, value_dim=5, dropout=0.1)):
        values = 2 * 6 * 8 * 10 + 2 * 6 * 6 * 5  # made, weighed, and brought back to 8 channels
        cost = cost_of(lambda x, layer=make: layer(x, x), (6, 8))
        assert cost.addmults_conv_dense == 2 * 6 * 8 * 8 + attention // 2 + values
    single = cost_of(lambda x: kl.Attention()([x, x]), (6, 8))
    assert single == Cost(0, 2 * 6 * 6 * 8, 2 * 6 * 6 * 8)
    pixels = cost_of(lambda x: kl.MultiHeadAttention(1, 2)(x, x), (6, 4, 3))  # 24 of 3 channels
    assert pixels.addmults_conv_dense == 24 * (3 * 3 * 2 + 2 * 3) + 24 * 24 * 2 * 2


def test_a_layer_that_uses_operations_and_weights_of_its_own():
    class Own(kl.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(3, 3, 4, 5))
            self.dense = kl.Dense(2, use_bias=False)
            self.dense.build((None, 5))

        def call(self, inputs):
            return self.dense(ops.relu(ops.conv(inputs, self.kernel)))

    images = keras.Input((4, 4, 4))
    model = keras.Model(images, Own(name="own")(images))
    rows = {row.name: row for row in per_layer(model)}
    assert count(model) == Cost(180 + 10, 4 * 5 * 36 + 4 * 5 + 4 * 10, 4 * 5 * 36 + 4 * 10)
    assert sum(row.parameters for row in rows.values()) == 190 and rows["own"].parameters == 180
    assert {row.layer for row in rows.values()} == {"Own", "Conv", "Relu", "Dense"}


@pytest.mark.parametrize(
    "layer, shape, expected",
    [
        (kl.SeparableConv1D(5, 3, use_bias=False), (16, 8), 14 * 8 * (3 + 5)),
        (kl.DepthwiseConv1D(3, use_bias=False), (16, 8), 14 * 8 * 3),
        (kl.Conv1DTranspose(5, 3, strides=2, use_bias=False), (16, 8), 16 * 8 * 3 * 5),
    ],
)
def test_layers_of_sequences(layer, shape, expected):
    cost = of_layer(layer, shape)
    assert cost.addmults_conv_dense == cost.addmults_paper == expected


@pytest.mark.parametrize("layer", [kl.Conv2D, kl.SeparableConv2D])
def test_channels_may_come_first(layer):
    last, first = (
        of_layer(layer(5, 3, padding="same", data_format=f"channels_{place}"), shape)
        for place, shape in (("last", (8, 9, 3)), ("first", (3, 8, 9)))
    )
    assert last == first


def test_a_network_that_is_not_ours():
    """MobileNetV2. Table 3 prints 3.4 M and 0.3 B, as its own paper does; Keras' has 3.5 M and counts 0.3 B MACs."""
    cost = count(keras.applications.MobileNetV2(weights=None))
    assert cost.parameters == 3504872 == pytest.approx(3.4e6, rel=0.05)
    assert cost.addmults_conv_dense == 300774272 and within_a_digit(cost.addmults_conv_dense / 1e9, 0.3)
    # 112·112·32 outputs of the first BatchNorm count 2, those of its ReLU6 count 1, and so on: 20 M more.
    assert cost.addmults_paper == 320299008


def test_every_operation_that_may_multiply_and_add_is_decided():
    """A version of Keras with another convolution, product or pool must not count it 0 in silence."""
    modules = ("numpy", "nn", "linalg", "math", "image", "core")
    found = {
        name
        for module in modules
        for name, value in vars(getattr(keras.src.ops, module)).items()
        if isinstance(value, type)
        and issubclass(value, keras.Operation)
        and module not in cost_rules.UNCOUNTABLE_MODULES
    }
    decided = {*cost_rules.OPERATIONS, *cost_rules.UNCOUNTABLE}
    assert decided - found == {"ReLU"}  # of keras.activations
    words = re.compile(
        "conv|corr|dot|einsum|fft|inner|kron|loop|mul|pool|relu|scan|tensor|attention|map|norm|blur", re.I
    )
    free = {"ConvertToTensor", "LayerNorm", "MapCoordinates", "MultiHot", "Multiply", "Normalize", "RMSNorm"}
    assert {name for name in found - decided if words.search(name)} == free


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_precision_does_not_change_a_cost(policy):
    def make():
        images = keras.Input((H, W, C))
        return keras.Model(images, layers.SharpSepConv(4)(kl.Conv2D(5, 3, activation="relu")(images)))

    expected, before = count(make()), keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        assert count(make()) == expected
    finally:
        keras.config.set_dtype_policy(before)
