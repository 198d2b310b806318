"""Ordinary Keras layers and blocks, each through the count, a HyperCuboid, the gate of the export and ONNX Runtime.

The counts are written by hand, as sums of products of sizes: of an image of 8×8 pixels and 4 channels.
"""

import functools

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export runs on TensorFlow", allow_module_level=True)
onnxruntime = pytest.importorskip("onnxruntime")

from keras import layers as kl  # noqa: E402
from keras import ops  # noqa: E402
from support.random_models import randomize  # noqa: E402

import sharpkeras as sk  # noqa: E402
from sharpkeras import layers as ours  # noqa: E402
from sharpkeras.errors import ConfigError  # noqa: E402
from sharpkeras.experiment import space_checks  # noqa: E402
from sharpkeras.measure import cost  # noqa: E402
from sharpkeras.onnx_export.export_onnx import export_onnx  # noqa: E402
from sharpkeras.recipes import SearchRecipe, TrainRecipe  # noqa: E402
from sharpkeras.spaces.hypercuboid.space import HyperCuboid  # noqa: E402

SHAPE, CLASSES = (8, 8, 4), 3
N, P = 8 * 8 * 4, 8 * 8  # elements and pixels of an image


class Block(kl.Layer):
    """A layer of one's own: its parts, and a function that is handed them and the images."""

    def __init__(self, run, parts=(), **options):
        super().__init__(**options)
        self.run, self.parts = run, list(parts)

    def build(self, input_shape):  # whose parts are built as Keras does it
        keras.Operation.compute_output_spec(self, keras.KerasTensor(input_shape))

    def call(self, inputs, training=None):
        return self.run(inputs, *self.parts)

    def compute_output_shape(self, input_shape):
        return keras.Operation.compute_output_spec(self, keras.KerasTensor(input_shape)).shape


def chain(*steps):
    """Layers one after the other."""

    def run(inputs, *parts):
        for part in parts:
            inputs = part(inputs)
        return inputs

    return lambda: Block(run, [step() for step in steps])


def of(run, *parts):
    """A function of the images and of layers."""
    return lambda: Block(run, [part() for part in parts])


def make(kind, *arguments, **options):
    return functools.partial(kind, *arguments, **options)


conv, depthwise = functools.partial(make, kl.Conv2D), functools.partial(make, kl.DepthwiseConv2D)
pointwise = functools.partial(make, kl.Conv2D, kernel_size=1, use_bias=False)
norm, same = make(kl.BatchNormalization), {"padding": "same"}


def activation(name):
    return make(kl.Activation, name)


def squeeze_and_excite(x, squeeze, excite):
    return x * excite(squeeze(ops.mean(x, axis=(1, 2), keepdims=True)))


def inverted(expanded, *middle):
    """1×1 to more channels, depthwise, 1×1 back, and the sum with what came in."""
    steps = [pointwise(expanded), norm, activation("relu6"), depthwise(3, use_bias=False, **same), norm]
    steps += [activation("relu6"), *middle, pointwise(4), norm]
    return of(lambda x, block: x + block(x), chain(*steps))


def attention(x, attend):
    tokens = ops.reshape(x, (-1, P, 4))
    return ops.reshape(attend(tokens, tokens), (-1, *SHAPE))


def windows(x, dense):
    """Each window of 4×4 pixels as one image of the batch."""
    parts = ops.transpose(ops.reshape(x, (-1, 2, 4, 2, 4, 4)), (0, 1, 3, 2, 4, 5))
    parts = ops.reshape(dense(ops.reshape(parts, (-1, 4, 4, 4))), (-1, 2, 2, 4, 4, 5))
    return ops.reshape(ops.transpose(parts, (0, 1, 3, 2, 4, 5)), (-1, 8, 8, 5))


def frozen(make_layer):
    def make_frozen():
        layer = make_layer()
        layer.trainable = False
        return layer

    return make_frozen


INVERTED = P * 4 * 12 + 2 * P * 12 + P * 12 + P * 12 * 9 + 2 * P * 12 + P * 12 + P * 12 * 4 + 2 * N
INVERTED_PLAIN = P * 4 * 12 + P * 12 * 9 + P * 12 * 4

# Name → a function that makes the layer, its AddMults in the paper's convention, and those of convolutions and dense.
LAYERS = {
    # convolutions
    "convolution": (conv(5, 3, **same), P * 5 * 37, P * 5 * 36),
    "convolution, valid": (conv(5, 3), 36 * 5 * 37, 36 * 5 * 36),
    "convolution, stride 2": (conv(5, 3, 2, **same), 16 * 5 * 37, 16 * 5 * 36),
    "convolution, even kernel": (conv(5, 2, 2, use_bias=False), 16 * 5 * 16, 16 * 5 * 16),
    "convolution, 1x1": (pointwise(6), P * 24, P * 24),
    "convolution, 1x7": (conv(5, (1, 7), use_bias=False, **same), P * 5 * 28, P * 5 * 28),
    "convolution, dilated": (conv(5, 3, dilation_rate=2, use_bias=False, **same), P * 5 * 36, P * 5 * 36),
    "convolution, one channel": (conv(1, 3, **same), P * 37, P * 36),
    "convolution, groups": (conv(6, 3, groups=2, activation="relu", **same), P * 6 * (18 + 2), P * 6 * 18),
    "convolution, relu": (conv(5, 3, activation="relu", **same), P * 5 * 38, P * 5 * 36),
    "convolution, mish": (conv(5, 3, activation="mish", **same), P * 5 * 37, P * 5 * 36),
    "convolution, frozen": (frozen(conv(5, 3, **same)), P * 5 * 37, P * 5 * 36),
    "convolution, spectral": (
        lambda: kl.SpectralNormalization(kl.Conv2D(5, 3, padding="same", use_bias=False)),
        P * 5 * 36,
        P * 5 * 36,
    ),
    "depthwise": (depthwise(3, **same), N * 10, N * 9),
    "depthwise, multiplier 2": (depthwise(3, depth_multiplier=2, use_bias=False, **same), 2 * N * 9, 2 * N * 9),
    "depthwise, dilated": (depthwise(3, dilation_rate=2, use_bias=False, **same), N * 9, N * 9),
    "depthwise, stride 2": (depthwise(5, 2, use_bias=False, **same), 16 * 4 * 25, 16 * 4 * 25),
    "separable": (make(kl.SeparableConv2D, 5, 3, **same), P * (36 + 20 + 5), P * (36 + 20)),
    "separable, multiplier 2": (
        make(kl.SeparableConv2D, 5, 3, depth_multiplier=2, use_bias=False, **same),
        P * (72 + 40),
        P * (72 + 40),
    ),
    "transposed": (make(kl.Conv2DTranspose, 5, 3, 2, **same), P * 4 * 9 * 5 + 256 * 5, P * 4 * 9 * 5),
    "transposed, valid": (make(kl.Conv2DTranspose, 5, 3, use_bias=False), P * 4 * 9 * 5, P * 4 * 9 * 5),
    "transposed, stride above kernel": (make(kl.Conv2DTranspose, 5, 2, 3, use_bias=False), P * 4 * 20, P * 4 * 20),
    "convolution of rows": (make(lambda: kl.TimeDistributed(kl.Conv1D(5, 3))), 8 * 6 * 5 * 13, 8 * 6 * 5 * 12),
    # dense layers and products
    "dense of maps": (make(kl.Dense, 5), P * 20, P * 20),
    "dense of maps, relu": (make(kl.Dense, 5, activation="relu"), P * 25, P * 20),
    "dense, frozen": (make(kl.Dense, 5, trainable=False), P * 20, P * 20),
    "einsum": (make(kl.EinsumDense, "...c,cd->...d", (5,)), P * 20, P * 20),
    "einsum, frozen": (make(kl.EinsumDense, "...c,cd->...d", (5,), trainable=False), P * 20, P * 20),
    "matrix of channels": (of(lambda x: ops.matmul(x, np.full((4, 5), 0.1, "float32"))), P * 20, P * 20),
    "product of pixels": (of(lambda x: ops.einsum("bhwc,bhvc->bhwv", x, x)), 8 * 8 * 8 * 4, 8 * 8 * 8 * 4),
    "attention": (
        of(attention, make(kl.MultiHeadAttention, 2, 3)),
        4 * P * 24 + 2 * 2 * P * P * 3,
        4 * P * 24 + 2 * 2 * P * P * 3,
    ),
    "attention, single": (
        of(lambda x, a: attention(x, lambda q, v: a([q, v])), kl.Attention),
        2 * P * P * 4,
        2 * P * P * 4,
    ),
    "windows in the batch": (of(windows, make(kl.Dense, 5)), P * 20, P * 20),
    # activations
    **{
        f"activation {name}": (activation(name), paper, 0)
        for name, paper in {
            **dict.fromkeys(("relu", "relu6", "leaky_relu"), N),
            **dict.fromkeys(("elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "softsign"), 0),
            **dict.fromkeys(("hard_sigmoid", "hard_silu", "mish", "exponential", "softmax", "log_softmax", "celu"), 0),
            **dict.fromkeys(("squareplus", "hard_tanh", "soft_shrink", "tanh_shrink", "log_sigmoid", "sparsemax"), 0),
        }.items()
    },
    "ReLU": (kl.ReLU, N, 0),
    "ReLU, ceiling, slope, threshold": (make(kl.ReLU, 6.0, 0.1, 0.5), N, 0),
    "LeakyReLU": (kl.LeakyReLU, N, 0),
    "PReLU": (kl.PReLU, N, 0),
    "PReLU, shared": (make(kl.PReLU, shared_axes=[1, 2]), N, 0),
    "ELU": (kl.ELU, 0, 0),
    "Softmax": (kl.Softmax, 0, 0),
    "operation relu": (of(ops.relu), N, 0),
    "function relu": (of(lambda x: keras.activations.relu(x, max_value=3.0)), N, 0),
    "maximum with 0": (of(lambda x: ops.maximum(x, 0.0)), N, 0),
    # pools
    "max pool": (make(kl.MaxPooling2D, 2), N, 0),
    "max pool, same": (make(kl.MaxPooling2D, 3, 2, **same), N, 0),
    "average pool": (make(kl.AveragePooling2D, 3, 1), N, 0),
    "average pool, same": (make(kl.AveragePooling2D, 3, 2, **same), N, 0),
    "global pool": (make(kl.GlobalAveragePooling2D, keepdims=True), N, 0),
    "global max pool": (make(kl.GlobalMaxPooling2D, keepdims=True), N, 0),
    "adaptive pool": (make(kl.AdaptiveAveragePooling2D, 2), N, 0),
    "adaptive pool, uneven": (make(kl.AdaptiveMaxPooling2D, 3), N, 0),
    "operation max pool": (of(lambda x: ops.max_pool(x, 2)), N, 0),
    "operation average pool": (of(lambda x: ops.average_pool(x, 3, 1, padding="same")), N, 0),
    "mean of pixels": (of(lambda x: ops.mean(x, axis=(1, 2), keepdims=True)), N, 0),
    "padding, then a smaller pool": (chain(make(kl.ZeroPadding2D, 2), make(kl.AveragePooling2D, 2)), 144 * 4, 0),
    "padding, then a max pool": (chain(make(kl.ZeroPadding2D, 3), make(kl.MaxPooling2D, 2)), 196 * 4, 0),
    "our max pool": (make(ours.MaxPool, 3, 2), N, 0),
    "our average pool": (make(ours.AveragePool, 3, 2, counted_padding=False), N, 0),
    # what moves pixels
    "padding": (make(kl.ZeroPadding2D, ((0, 1), (2, 0))), 0, 0),
    "padding, then a convolution": (chain(make(kl.ZeroPadding2D, 5), conv(5, 2, use_bias=False)), 289 * 80, 289 * 80),
    "cropping": (make(kl.Cropping2D, ((1, 0), (0, 2))), 0, 0),
    "upsampling": (make(kl.UpSampling2D, 2), 0, 0),
    "upsampling, bilinear": (make(kl.UpSampling2D, 2, interpolation="bilinear"), 0, 0),
    "permutation": (make(kl.Permute, (2, 1, 3)), 0, 0),
    "space to depth": (of(lambda x: ops.space_to_depth(x, 2)), 0, 0),
    "depth to space": (of(lambda x: ops.depth_to_space(x, 2)), 0, 0),
    "space to depth, reshaped": (
        of(
            lambda x: ops.reshape(
                ops.transpose(ops.reshape(x, (-1, 4, 2, 4, 2, 4)), (0, 1, 3, 2, 4, 5)), (-1, 4, 4, 16)
            )
        ),
        0,
        0,
    ),
    "shift, reflected": (
        of(lambda x: ops.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)), "reflect")[:, ::2, ::2]),
        0,
        0,
    ),
    # normalizations, noise
    "BatchNormalization": (norm, 2 * N, 0),
    "BatchNormalization, frozen": (frozen(norm), 2 * N, 0),
    "BatchNormalization, plain": (make(kl.BatchNormalization, scale=False, center=False), N, 0),
    "LayerNormalization": (kl.LayerNormalization, 0, 0),
    "GroupNormalization": (make(kl.GroupNormalization, 2), 0, 0),
    "RMSNormalization": (kl.RMSNormalization, 0, 0),
    "UnitNormalization": (kl.UnitNormalization, 0, 0),
    "Rescaling": (make(kl.Rescaling, 0.5, 0.1), 0, 0),
    "Dropout": (make(kl.Dropout, 0.5), 0, 0),
    "SpatialDropout": (make(kl.SpatialDropout2D, 0.5), 0, 0),
    "GaussianNoise": (make(kl.GaussianNoise, 0.5), 0, 0),
    "DropPath": (make(ours.DropPath, 0.5), 0, 0),
    "Identity": (kl.Identity, 0, 0),
    # blocks
    "SharpSepConv": (
        make(ours.SharpSepConv, 5),
        N + P * 36 + P * 20 + 2 * P * 5 + P * 5 + P * 45 + P * 25 + 2 * P * 5,
        P * (36 + 20 + 45 + 25),
    ),
    "SharpSepConv, stride 2": (
        make(ours.SharpSepConv, 5, strides=2, affine=False),
        N + 16 * 36 + 16 * 20 + 80 + 80 + 16 * 45 + 16 * 25 + 80,
        16 * (36 + 20 + 45 + 25),
    ),
    "DilConv": (make(ours.DilConv, 5), N + P * 36 + P * 20 + 2 * P * 5, P * (36 + 20)),
    "FactorizedReduce": (make(ours.FactorizedReduce, 6), N + 16 * 24 + 2 * 96, 16 * 24),
    "residual": (
        of(lambda x, f: ops.relu(x + f(x)), chain(conv(4, 3, use_bias=False, **same), norm)),
        P * 144 + 2 * N + N,
        P * 144,
    ),
    "inverted bottleneck": (inverted(12), INVERTED, INVERTED_PLAIN),
    "MBConv with squeeze and excite": (
        inverted(12, of(squeeze_and_excite, conv(2, 1, activation="relu"), conv(12, 1, activation="sigmoid"))),
        INVERTED + P * 12 + 24 + 2 + 2 + 24 + 12,
        INVERTED_PLAIN + 48,
    ),
    "ConvNeXt": (
        of(
            lambda x, f: x + f(x),
            chain(
                depthwise(7, **same), kl.LayerNormalization, make(kl.Dense, 16, activation="gelu"), make(kl.Dense, 4)
            ),
        ),
        N * 50 + 2 * P * 64,
        N * 49 + 2 * P * 64,
    ),
    "list of tensors": (
        of(lambda x, join, f: f(join([x, x * 2.0])), kl.Concatenate, pointwise(5)),
        P * 40,
        P * 40,
    ),
    "called with an option": (
        of(lambda x, block: block(x, times=3), lambda: Repeated()),
        3 * P * 144,
        3 * P * 144,
    ),
    "parts made in build": (lambda: MakesParts(), P * 144, P * 144),
    "a model": (
        lambda: keras.Sequential([kl.Conv2D(5, 1, use_bias=False), kl.ReLU(), kl.MaxPooling2D(2)]),
        P * 20 + 2 * P * 5,
        P * 20,
    ),
}


class Repeated(kl.Layer):
    """A convolution that is called as often as it is told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = kl.Conv2D(4, 3, padding="same", use_bias=False)

    def call(self, inputs, times=1):
        for _ in range(times):
            inputs = self.conv(inputs)
        return inputs


class MakesParts(kl.Layer):
    """Its convolution is made, but not built, when it is built itself."""

    def build(self, input_shape):
        self.conv = kl.Conv2D(4, 3, padding="same", use_bias=False)

    def call(self, inputs):
        return self.conv(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


def cuboid_of(make_layer):
    """One position whose only choice is a layer, between a 1×1 stem and a 1×1 head."""
    stem, head = make(ours.Conv2D, 4), make(ours.Conv2D, 6)
    return HyperCuboid({"block": {"it": make_layer}}, lambda block: block(), 1, stem, head=head)


def test_the_battery_is_large_enough():
    assert len(LAYERS) + len(REFUSED) >= 60


@pytest.mark.parametrize("make_layer, paper, conv_dense", LAYERS.values(), ids=LAYERS)
def test_a_layer_goes_all_the_way(make_layer, paper, conv_dense, tmp_path):
    counted = cost.of_layer(make_layer(), SHAPE)
    assert (counted.addmults_paper, counted.addmults_conv_dense) == (paper, conv_dense)

    cuboid = cuboid_of(make_layer)
    space_checks.check_space(cuboid, SHAPE)
    alphas = cuboid.init_alphas(0)
    path, supernet = cuboid.extract(alphas), cuboid.supernet(SHAPE, CLASSES)
    number_of_weights = len(supernet.trainable_variables)
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    logits = supernet([images, cuboid.mixing_weights(alphas)], training=True)
    assert logits.shape == (2, CLASSES) and np.isfinite(logits).all()
    assert len(supernet.trainable_variables) == number_of_weights  # none that the optimizer was not told of

    network = cuboid.network(path, SHAPE, CLASSES)
    space_checks.check_network(network)
    addmults = cost.count(network.without_auxiliary()).addmults_conv_dense
    side_by_side = cuboid.state_shapes(SHAPE)[-1][0]
    assert addmults == P * 16 + conv_dense + np.prod(side_by_side) * 6 + 6 * CLASSES
    report = export_onnx(randomize(network.inference_model()), tmp_path / "a.onnx", addmults=addmults)
    assert report["addmults_conv_dense_of_file"] == addmults and report["relative_difference"] < 1e-4


# ---- what is impossible, and said before the first step ----


def lying(x):
    return ops.concatenate([x, x], axis=-1)


class Declared(kl.Layer):
    """What a function does of the images, and the shape that is declared of it."""

    def __init__(self, run, declared):
        super().__init__()
        self.run, self.declared = run, declared
        self.draws = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return self.run(inputs, self.draws)

    def compute_output_shape(self, input_shape):
        return self.declared(input_shape)


REFUSED = {
    "loop over steps": (make(kl.ConvLSTM1D, 2, 3, return_sequences=True, **same), "cannot be counted"),
    "recurrent": (lambda: kl.TimeDistributed(kl.LSTM(4, return_sequences=True)), "cannot be counted"),
    "loop of operations": (lambda: Declared(lambda x, _: ops.map(ops.relu, x), tuple), "cannot be counted"),
    "past the operations": (lambda: Declared(lambda x, _: keras.src.backend.nn.relu(x), tuple), "cannot be counted"),
    "another shape than declared": (lambda: Declared(lambda x, _: lying(x), tuple), "another output than it declares"),
    "random": (
        lambda: Declared(lambda x, seed: x + keras.random.normal((1, 8, 8, 4), seed=seed), tuple),
        "in two ways",
    ),
    "two outputs": (lambda: Declared(lambda x, _: (x, x), lambda s: (tuple(s), tuple(s))), "makes no state"),
    "no batch": (lambda: Declared(lambda x, _: ops.mean(x, axis=0), lambda s: tuple(s[1:])), "makes no state"),
    "unknown size": (make(kl.EinsumDense, "bhwc,cd->bhwd", (None, None, 5)), "of sizes that are known"),
    "no images behind it": (kl.Flatten, "cannot read a state"),
    "too small an image": (conv(5, 9), "cannot read a state"),
}


@pytest.mark.parametrize("make_layer, problem", REFUSED.values(), ids=REFUSED)
def test_what_is_impossible_is_said_before_the_first_step(make_layer, problem):
    with pytest.raises(ConfigError) as caught:
        space_checks.check_space(cuboid_of(make_layer), SHAPE)
    assert problem in str(caught.value) and caught.value.exit_code == 3
    assert caught.value.where or caught.value.seen is not None


def test_a_head_makes_images():
    cuboid = HyperCuboid({"filters": (4,)}, ours.ConvBN, 1, make(ours.Conv2D, 4), head=kl.Flatten)
    for use in (lambda: cuboid.supernet(SHAPE, CLASSES), lambda: cuboid.network(cuboid.sample(0), SHAPE, CLASSES)):
        with pytest.raises(ConfigError, match="no images") as caught:
            use()
        assert caught.value.where == "head"


@pytest.mark.parametrize("name", ["loop over steps", "another shape than declared", "random"])
def test_a_search_and_a_training_say_it_before_they_begin(name, tmp_path):
    make_layer, problem = REFUSED[name]
    cuboid, sizes = cuboid_of(make_layer), {"dataset": "digits", "limit": 60, "batch_size": 8, "warmup_epochs": 0}
    with pytest.raises(ConfigError) as caught:
        sk.search(SearchRecipe(**sizes), tmp_path / "search", space=cuboid)
    assert problem in str(caught.value) and "positions[0] {'block': 'it'}" in str(caught.value.where)
    recipe = TrainRecipe(**sizes, auxiliary_weight=0.0, drop_path=0.0)
    with pytest.raises(ConfigError):
        sk.train(cuboid.sample(0), tmp_path / "train", recipe=recipe, space=cuboid)
    assert not list(tmp_path.rglob("metrics.jsonl"))
