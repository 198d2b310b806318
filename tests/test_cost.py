"""Parameters and AddMults: the paper's tables, toy models counted by hand, and a network that is not ours."""

import keras
import pytest
from keras import layers as kl

from sharpkeras import layers, published
from sharpkeras.errors import ConfigError
from sharpkeras.measure.cost import Cost, count, of_layer, per_layer
from sharpkeras.spaces.cell.network import Network


def network_of(reproduce, auxiliary=False):
    input_shape = tuple(reproduce["input"])
    imagenet = input_shape[0] == 224
    return Network(
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
    cost = count(network_of(row["reproduce"]).counted())
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
    assert count(network_of(reproduce).counted()) == expected


def test_the_auxiliary_head_is_not_counted():
    reproduce = {"genotype": "SHARP_DARTS", "ops": "sharp", "init_channels": 8, "layers": 4, "input": [32, 32, 3]}
    with_head, without = network_of(reproduce, auxiliary=True), network_of(reproduce)
    assert count(with_head.counted()) == count(without.counted())
    assert with_head.count_params() > without.count_params()


def test_the_middle_of_choke_primitives_changes_their_cost():
    reproduce = {"genotype": "SHARP_DARTS", "ops": "sharp", "init_channels": 16, "layers": 4, "input": [32, 32, 3]}
    default, same, wide = (count(network_of({**reproduce, "mid_channels": m}).counted()) for m in (None, 32, 96))
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
        (kl.PReLU(), Cost(N, 0, 0)),
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
    rows, cost = per_layer(network.counted()), count(network.counted())
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


UNCOUNTABLE = [kl.TimeDistributed(kl.Conv1D(5, 3)), kl.MultiHeadAttention(1, 2), kl.ConvLSTM1D(2, 3)]


@pytest.mark.parametrize("layer", UNCOUNTABLE)
def test_what_can_not_be_counted_is_not_left_out(layer):
    images = keras.Input((6, 4, 3))
    outputs = layer(images, images) if isinstance(layer, kl.MultiHeadAttention) else layer(images)
    with pytest.raises(ConfigError, match="can not be counted|static shape"):
        count(keras.Model(images, outputs))


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
