"""Each rewrite of an exported graph: it does what it is for, and changes no answer."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export runs on TensorFlow", allow_module_level=True)
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from keras import layers  # noqa: E402
from support.random_models import random_network, randomize  # noqa: E402

from sharpkeras import primitives  # noqa: E402
from sharpkeras.errors import VerificationError  # noqa: E402
from sharpkeras.measure import cost  # noqa: E402
from sharpkeras.onnx_export import conversion, export_onnx, rewrites  # noqa: E402
from sharpkeras.onnx_export.verification import structural_problems  # noqa: E402
from sharpkeras.spaces.cell.genotype import Genotype  # noqa: E402
from sharpkeras.spaces.cell.network import CellNetwork  # noqa: E402

GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["sep_conv_3x3", 1], ["sep_conv_3x3", 0], ["dil_conv_3x3", 0]],
    "normal_concat": [2, 3],
    "reduce": [["max_pool_3x3", 0], ["avg_pool_3x3", 1], ["skip_connect", 0], ["sep_conv_5x5", 2]],
    "reduce_concat": [2, 3],
}


@pytest.fixture(scope="module", params=[8, 9])
def converted(request):
    """A network of cells that has all that is rewritten, at an even and at an odd number of pixels."""
    side = request.param
    sizes = {"input_shape": (side, side, 3), "init_channels": 6, "num_cells": 4}
    network = CellNetwork(Genotype.from_dict(GENOTYPE), "sharp", **sizes)
    return conversion.convert(randomize(network.inference_model()), (side, side, 3), 17)


def answers(model):
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def operators(model):
    names = [node.op_type for node in model.graph.node]
    return {name: names.count(name) for name in names}


def convolutions(model):
    """(kernel, attributes) of every convolution."""
    kernels = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    attributes = onnx.helper.get_attribute_value
    return [
        (kernels[node.input[1]], {entry.name: attributes(entry) for entry in node.attribute})
        for node in model.graph.node
        if node.op_type == "Conv"
    ]


def rewritten(model, name):
    """The model before a rewrite, with those before it in the default order, and after it."""
    before = rewrites.DEFAULT[: rewrites.DEFAULT.index(name)] if name in rewrites.DEFAULT else rewrites.DEFAULT[:-1]
    return rewrites.optimize(model, before), rewrites.optimize(model, (*before, name))


@pytest.mark.parametrize("name", rewrites.REWRITES)
def test_a_rewrite_changes_the_graph_and_no_answer(converted, name):
    before, after = rewritten(converted, name)
    assert before.graph.node != after.graph.node or before.graph.initializer != after.graph.initializer
    assert structural_problems(conversion.tidy(after, "rewritten", {})) == []
    expected = answers(before)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(answers(after), expected, atol=1e-5 * np.abs(expected).max())


def test_conversion_leaves_one_transposition(converted):
    assert operators(converted)["Transpose"] == 1  # of the images
    assert "Reshape" not in operators(converted)


def test_nothing_affine_is_left(converted):
    before, after = rewritten(converted, "fold-affine")
    assert operators(before)["Mul"] and "Mul" not in operators(after)
    sums = sum(name == "Add" for node in after.graph.node for name in [node.op_type])
    constants = {tensor.name for tensor in after.graph.initializer}
    lifted = [node for node in after.graph.node if node.op_type == "Add" and constants & set(node.input)]
    assert sums and len(lifted) == 1 and lifted[0].output[0] == "logits"  # the bias of the classifier


def test_a_batch_norm_is_folded():
    nodes = [
        onnx.helper.make_node("Conv", ["x", "k"], ["y"]),
        onnx.helper.make_node("BatchNormalization", ["y", "g", "b", "m", "v"], ["z"], epsilon=1e-3),
    ]
    generator = np.random.default_rng(0)
    values = {"k": generator.normal(size=(4, 3, 1, 1)), "v": generator.uniform(0.5, 2, 4)}
    values |= {name: generator.normal(size=4) for name in "gbm"}
    constants = [onnx.numpy_helper.from_array(value.astype("float32"), name) for name, value in values.items()]
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["batch", size, 5, 5]) for name, size in (("x", 3), ("z", 4))]
    graph = onnx.helper.make_graph(nodes, "norm", ends[:1], ends[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    folded = rewrites.optimize(model, ["fold-affine"])
    assert operators(folded) == {"Conv": 1} and folded.graph.output[0].name == "z"
    feed = {"x": generator.normal(size=(2, 3, 5, 5)).astype("float32")}
    expected, received = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (model, folded)
    )
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)


def test_padding_and_slices_are_gone(converted):
    _, after = rewritten(converted, "pick-pixels")
    assert operators(converted)["Pad"] and operators(converted)["Slice"]
    assert not {"Pad", "Slice"} & set(operators(after))


def test_a_state_is_rectified_once(converted):
    _, after = rewritten(converted, "rectify-states")
    read = [node.input[0] for node in after.graph.node if node.op_type == "Relu"]
    assert len(read) == len(set(read))
    concatenated = {node.output[0] for node in after.graph.node if node.op_type == "Concat"}
    assert not concatenated & set(read)


def test_all_channels_fill_blocks(converted):
    """But for the images, which a block of its own takes, and the logits."""
    before, after = rewritten(converted, "align-channels")
    assert any(len(kernel) % rewrites.BLOCK for kernel, _ in convolutions(before))
    for kernel, attributes in convolutions(after):
        assert len(kernel) % rewrites.BLOCK == 0
        assert kernel.shape[1] in (1, 3) or kernel.shape[1] % rewrites.BLOCK == 0
        assert attributes.get("group", 1) in (1, len(kernel))


def test_sums_of_pointwise_convolutions_become_one(converted):
    before, after = rewritten(converted, "merge-sums")
    assert operators(after)["Conv"] < operators(before)["Conv"]
    assert operators(after)["Add"] < operators(before)["Add"]


def test_depthwise_convolutions_of_one_tensor_become_one(converted):
    before, after = rewritten(converted, "merge-depthwise")
    assert operators(after)["Conv"] < operators(before)["Conv"]


def test_channels_stay_where_an_operator_is_not_known():
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same")(images)
    x = layers.Softmax(axis=-1)(x)  # zeros behind the channels would change it
    model = randomize(keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    onnx_model = conversion.convert(model, (8, 8, 3), 17)
    aligned = rewrites.optimize(onnx_model)
    np.testing.assert_allclose(answers(aligned), answers(onnx_model), atol=1e-5)
    assert {len(kernel) for kernel, _ in convolutions(aligned)} == {6}


# ---- hostile but ordinary graphs: a rewrite that does not fit does nothing ----

IMAGES = (2, 3, 9, 8)  # channels first
RANDOM = np.random.default_rng(0)


def node(operator, inputs, output, **attributes):
    return onnx.helper.make_node(operator, inputs.split(), [output], **attributes)


def weights(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def integers(*values):
    return np.array(values, "int64")


def padded_pool(kind, size, kernel, value=None, **attributes):
    pads = integers(0, 0, size, size, 0, 0, size, size)
    constants = {"pads": pads} if value is None else {"pads": pads, "value": np.float32(value)}
    pad = node("Pad", f"x {' '.join(constants)}", "padded")
    return [pad, node(kind, "padded", "y", kernel_shape=[kernel] * 2, **attributes)], constants


SHIFT = {
    "from": integers(1, 1),
    "to": integers(10**9, 10**9),
    "at": integers(2, 3),
    "ends": integers(0, 0, 0, 0, 0, 0, 1, 1),
}
SHIFT |= {"begin": integers(0, 0), "by": integers(2, 2)}


def shifted(mode):
    """What FactorizedReduce reads, if it padded with these pixels."""
    cut, pad = node("Slice", "x from to at", "cut"), node("Pad", "cut ends", "back", mode=mode)
    return [cut, pad, node("Slice", "back begin to at by", "y")], SHIFT


def of_volumes(operator, *shape):
    """Convolutions of (B, C, D, H, W), and a constant that differs along D."""
    nodes = [node("Unsqueeze", "x axis", "deep"), node("Conv", "deep kernel", "made", pads=[0] * 6)]
    constants = {"axis": integers(2), "kernel": weights(5, 3, 1, 3, 3), "constant": weights(*shape)}
    return [*nodes, node(operator, "made constant", "y")], constants


def of_sequences():
    nodes = [node("Reshape", "x shape", "row"), node("Conv", "row kernel bias", "made"), node("Mul", "made scale", "y")]
    constants = {"shape": integers(0, 3, 72), "kernel": weights(5, 3, 3), "bias": weights(5), "scale": weights(5, 1)}
    return nodes, constants


def sum_of_sizes():
    """A convolution of the mean pixel and one of all, whose sum repeats the first; neither fills a block."""
    nodes = [node("GlobalAveragePool", "x", "mean"), node("Conv", "mean one", "a"), node("Conv", "x other", "b")]
    return [*nodes, node("Add", "a b", "y")], {"one": weights(5, 3, 1, 1), "other": weights(5, 3, 1, 1)}


def sum_of_channels():
    nodes = [node("Conv", "x one", "a"), node("Conv", "x other", "b"), node("Add", "a b", "y")]
    return nodes, {"one": weights(1, 3, 1, 1), "other": weights(5, 3, 1, 1)}


def product_along_the_width():
    """A product of matrices sums over the last axis of an image: pixels, behind channels that fill no block."""
    return [node("Conv", "x kernel", "made"), node("MatMul", "made matrix", "y")], {
        "kernel": weights(5, 3, 1, 1),
        "matrix": weights(8, 4),
    }


def affine(operator, constant):
    return [node("Conv", "x kernel", "made"), node(operator, "made constant", "y")], {
        "kernel": weights(4, 3, 1, 1),
        "constant": np.array(constant, "float32").reshape(1, -1, 1, 1),
    }


def grouped():
    nodes = [node("Conv", "x kernel", "made"), node("Relu", "made", "some"), node("Conv", "some groups", "y", group=3)]
    return nodes, {"kernel": weights(6, 3, 3, 3), "groups": weights(9, 2, 3, 3)}


def concatenated(*sizes):
    names = [f"k{number}" for number in range(len(sizes))]
    nodes = [node("Conv", f"x {name}", f"of_{name}", pads=[1] * 4) for name in names]
    joined = node("Concat", " ".join(f"of_{name}" for name in names), "joined", axis=1)
    constants = {name: weights(size, 3, 3, 3) for name, size in zip(names, sizes)}
    last = [node("Relu", "joined", "some"), node("Conv", "some last", "y", strides=[2, 2], dilations=[2, 2])]
    return [*nodes, joined, *last], constants | {"last": weights(7, sum(sizes), 2, 2)}


HOSTILE = {
    "average pool, padding as wide": padded_pool("AveragePool", 2, 2),
    "average pool, padding wider": padded_pool("AveragePool", 5, 2, strides=[2, 2]),
    "average pool, rounded up": padded_pool("AveragePool", 1, 3, strides=[2, 2], ceil_mode=1),
    "max pool, padding as wide": padded_pool("MaxPool", 2, 2, -np.inf),
    "max pool of zeros": padded_pool("MaxPool", 1, 3),
    "max pool, dilated": padded_pool("MaxPool", 1, 2, -np.inf, dilations=[2, 2]),
    "shift, reflected": shifted("reflect"),
    "shift, repeated": shifted("edge"),
    "shift": shifted("constant"),
    "volume, sum along D": of_volumes("Add", 5, 1, 1),
    "volume, product of channels": of_volumes("Mul", 5, 1, 1, 1),
    "sequence": of_sequences(),
    "sum of two sizes": sum_of_sizes(),
    "sum of one channel and five": sum_of_channels(),
    "product along the width": product_along_the_width(),
    "sum with zeros": affine("Add", [0, 1, 0, 2]),
    "product with zeros": affine("Mul", [0, 1, 0, 2]),
    "quotient": affine("Div", [2, 1, -4, 2]),
    "groups behind few channels": grouped(),
    "one channel": concatenated(1),
    "odd channels, joined": concatenated(3, 1, 5),
    "a block and a bit": concatenated(16, 1),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chosen", [None, *rewrites.REWRITES], ids=lambda name: name or "all")
@pytest.mark.parametrize("nodes, constants", HOSTILE.values(), ids=HOSTILE)
def test_a_rewrite_leaves_valid_onnx_of_the_same_answers(nodes, constants, chosen):
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [onnx.helper.make_tensor_value_info(*end) for end in (("x", 1, ["batch", *IMAGES[1:]]), ("y", 1, None))]
    graph = onnx.helper.make_graph(nodes, "hostile", ends[:1], ends[1:], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    names = tuple(rewrites.REWRITES) if chosen is None else (chosen,)
    images = weights(*IMAGES)
    expected, received = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": images}
        )[0]
        for m in (model, rewrites.optimize(model, names))
    )
    onnx.checker.check_model(rewrites.optimize(model, names), full_check=True)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)


# ---- through the whole gate ----


def export(model, path, **options):
    return export_onnx.export_onnx(model, path / "a.onnx", overwrite=True, **options)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(("ops", "name"), [(ops, name) for ops, table in primitives.OPS.items() for name in table])
def test_every_primitive_passes_the_gate(tmp_path, ops, name, strides):
    images = keras.Input((8, 8, 4))
    layer = primitives.build(name, ops, 4, strides)
    features = layers.GlobalAveragePooling2D()(layer(layers.Conv2D(4, 1)(images)))
    model = randomize(keras.Model(images, layers.Dense(5)(features)))
    report = export(model, tmp_path)
    assert report["relative_difference"] < 1e-5
    if name != "none":  # zeros, whose shape is computed with the channels last
        assert operators(onnx.load(tmp_path / "a.onnx")).get("Transpose", 0) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_random_genotypes_pass_the_gate(tmp_path, seed):
    """`make export-test` exports 200."""
    assert export(random_network(seed), tmp_path)["relative_difference"] < 1e-5


def test_without_rewrites(tmp_path):
    network = random_network(0)
    plain, optimized = export(network, tmp_path, optimize=False), export(network, tmp_path)
    assert plain["rewrites"] == [] and plain["nodes"] == plain["nodes_before_rewrites"]
    assert optimized["nodes"] < optimized["nodes_before_rewrites"] == plain["nodes"]


def squeezed(images):
    """What other networks have: squeeze and excitation, ReLU6, swish, cropping, padding with zeros, a Rescaling."""
    x = layers.Rescaling(0.5, 0.1)(images)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="swish")(gate))
    x = layers.ReLU(6.0)(layers.Multiply()([x, gate]))
    left = layers.Cropping2D(((1, 0), (1, 0)))(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = layers.Concatenate()([left, layers.AveragePooling2D(2, 1, padding="same")(x)])
    return layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D(2)(x)))


def test_a_network_of_other_layers(tmp_path):
    images = keras.Input((12, 12, 3))
    assert export(randomize(keras.Model(images, squeezed(images))), tmp_path)["relative_difference"] < 1e-5


def test_a_layer_that_keeps_more_than_variables(tmp_path):
    images = keras.Input((8, 8, 3))
    norm = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    model = randomize(keras.Model(images, layers.Dense(4)(layers.Flatten()(norm(images)))))
    assert export(model, tmp_path)["relative_difference"] < 1e-5


def test_groups_and_gelu(tmp_path):
    """A convolution of groups is a function inside Keras, and Erfc no operator of ONNX."""
    images = keras.Input((9, 9, 8))
    x = layers.Conv2D(12, 3, groups=4, padding="same", activation="gelu")(images)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(12, 3, 2, groups=2)(x))
    report = export(randomize(keras.Model(images, layers.Dense(3)(x))), tmp_path)
    assert report["relative_difference"] < 1e-5
    assert report["addmults_conv_dense_of_file"] == 81 * 12 * 9 * 2 + 16 * 12 * 9 * 6 + 12 * 3


def test_one_channel_that_a_constant_repeats(tmp_path):
    images = keras.Input((9, 9, 1))
    x = layers.Conv2D(1, 3, activation="relu")(images) * np.arange(1, 6, dtype="float32").reshape(1, 1, 1, 5)
    model = randomize(keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x)))))
    assert export(model, tmp_path)["relative_difference"] < 1e-5


# ---- costs, counted from the file ----


@pytest.mark.parametrize("seed", [0, 1])
def test_the_file_has_the_addmults_of_the_network(tmp_path, seed):
    network = random_network(seed)
    counted = cost.count(network).addmults_conv_dense
    assert export(network, tmp_path, addmults=counted)["addmults_conv_dense_of_file"] == counted
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(VerificationError, match="other convolutions"):
        export(network, tmp_path, addmults=counted + 1)
    assert not (tmp_path / "a.onnx").exists()


def test_addmults_of_a_file_by_hand(tmp_path):
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same")(images)  # 4·4·6 outputs of 3·3·3
    x = layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(x)  # 4·4·6 outputs of 3·3
    model = keras.Model(images, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))  # 6·5
    expected = 16 * 6 * 27 + 16 * 6 * 9 + 30
    assert export(model, tmp_path)["addmults_conv_dense_of_file"] == expected == cost.count(model).addmults_conv_dense


# ---- pixels as they are stored ----


STATISTICS = ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def test_preprocessing_in_the_file(tmp_path):
    network = random_network(1)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype="uint8")
    report = export(conversion.with_preprocessing(network, *STATISTICS), tmp_path, images=pixels)
    assert report["compared_on"] == ["noise", "constant", "real"]
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (received,) = session.run(None, {"images": pixels})
    mean, deviation = np.array(STATISTICS)
    expected = network(((pixels / 255 - mean) / deviation).astype("float32"))
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def wrong_preprocessing(model, *arguments, convert=conversion.convert):
    """Converted with the statistics of another data set."""
    return convert(conversion.with_preprocessing(model.layers[-1], [0.5] * 3, [0.25] * 3), *arguments)


def wrong_epsilon(model, *arguments, convert=conversion.convert):
    """Converted with the epsilon that Keras has in place of PyTorch's."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert norms
    kept = [(norm, norm.epsilon) for norm in norms]
    for norm in norms:
        norm.epsilon = 1e-3
    try:
        return convert(model, *arguments)
    finally:
        for norm, epsilon in kept:
            norm.epsilon = epsilon


@pytest.mark.parametrize("wrong", [wrong_preprocessing, wrong_epsilon])
def test_a_wrong_conversion_is_rejected(tmp_path, monkeypatch, wrong):
    """Two of the wrong exports; dilation and exchanged axes are among those of test_export.py."""
    model = conversion.with_preprocessing(random_network(1), *STATISTICS)
    export(model, tmp_path)
    monkeypatch.setattr(conversion, "convert", wrong)
    with pytest.raises(VerificationError, match="disagrees"):
        export(model, tmp_path)
    assert (tmp_path / "a.rejected.onnx").exists()
