import errno
import json
import os
import sys
from hashlib import sha256

import keras
import numpy as np
import pytest
from keras import layers
from support.random_models import randomize

from sharpkeras.errors import (
    ConfigError,
    DataError,
    NumericalError,
    ResourceError,
    RunError,
    UsageError,
    VerificationError,
)
from sharpkeras.io import atomic_writes
from sharpkeras.layers import Conv2D, SharpSepConv
from sharpkeras.onnx_export.export_onnx import export_onnx, weights_hash

if keras.backend.backend() != "tensorflow":
    pytest.skip("export runs on TensorFlow", allow_module_level=True)
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

from sharpkeras.onnx_export import conversion, verification  # noqa: E402
from sharpkeras.onnx_export.verification import compare, expected_logits, logits, structural_problems  # noqa: E402


def small_network():
    """What the cells are made of: both depthwise kinds, BatchNorm, both pools, concat, dropout."""
    options = {"padding": "same", "use_bias": False}
    images = keras.Input((9, 9, 3))
    stem = layers.Conv2D(6, 3, **options)(images)
    stem = layers.ReLU()(layers.BatchNormalization()(stem))
    strided = layers.DepthwiseConv2D(3, strides=2, name="strided", **options)(stem)
    dilated = layers.DepthwiseConv2D(3, dilation_rate=2, name="dilated", **options)(stem)
    dilated = layers.BatchNormalization(epsilon=1e-3)(dilated)
    dilated = layers.AveragePooling2D(3, 2, "same")(dilated)
    pooled = layers.MaxPooling2D(3, 2, "same")(stem)
    merged = layers.Concatenate()([strided, dilated, pooled])
    merged = layers.Dropout(0.5)(merged)
    merged = layers.Conv2D(8, 1)(merged)
    logits = layers.Dense(5)(layers.GlobalAveragePooling2D()(merged))
    return keras.Model(images, logits, name="small")


@pytest.fixture(scope="module")
def network():
    return randomize(small_network())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 1, (4, 9, 9, 3)).astype("float32")


@pytest.fixture(scope="module")
def converted(network):
    """The network as ONNX, to be copied and spoiled."""
    return conversion.tidy(conversion.convert(network, (9, 9, 3), 17), "small", {})


@pytest.fixture
def unconverted(monkeypatch, converted):
    """Replaces the conversion, which takes the time, by one that only copies; or spoils, if given a function."""

    def replace(spoil=lambda model: None):
        def convert(*_):
            copy = onnx.ModelProto.FromString(converted.SerializeToString())
            spoil(copy)
            return copy

        monkeypatch.setattr(conversion, "convert", convert)

    replace()
    return replace


# ---- what comes out ----


@pytest.fixture(scope="module")
def exported(network, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    metadata = {"architecture": {"normal": ["sep_conv_3x3"]}, "classes": ["ä", "b", "c", "d", "e"]}
    return path, export_onnx(network, path, images=images, metadata=metadata)


def test_the_report_and_its_file(exported):
    path, report = exported
    assert json.loads(path.with_suffix(".json").read_text()) == report
    assert report["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert report["bytes"] == path.stat().st_size
    assert report["nodes"] == len(onnx.load(path).graph.node)
    assert report["relative_difference"] < 1e-5
    assert report["compared_on"] == ["noise", "constant", "real"]
    assert report["batch_sizes"] == [1, 3, 17]
    assert report["clear_answers"] > 30  # else the test of the answers would test little
    assert report["input_shape"] == [None, 9, 9, 3]
    assert report["classes"][0] == "ä"
    assert set(report["versions"]) == {"keras", "tensorflow", "tf2onnx", "onnx", "onnx_ir", "onnxruntime"}
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.json", "small.onnx"]


def test_the_file_is_plain(exported):
    model = onnx.load(exported[0])
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["architecture"] == {"normal": ["sep_conv_3x3"]}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert len(properties["weights_sha256"]) == 64
    assert structural_problems(model) == []
    dilations = [list(a.ints) for node in model.graph.node for a in node.attribute if a.name == "dilations"]
    assert dilations.count([2, 2]) == 1


def test_nodes_are_named_after_layers(converted, network):
    kinds = {layers.DepthwiseConv2D: "Conv", layers.ReLU: "Relu", layers.MaxPooling2D: "MaxPool"}
    kinds |= {layers.AveragePooling2D: "AveragePool", layers.Concatenate: "Concat"}
    operators = {node.name: node.op_type for node in converted.graph.node}
    assert len(operators) == len(converted.graph.node)
    expected = {layer.name: kinds[type(layer)] for layer in network.layers if type(layer) in kinds}
    assert len(expected) == 6 and expected.items() <= operators.items()


def test_a_layer_within_a_layer_has_both_names():
    images = keras.Input((5, 5, 2))
    block = SharpSepConv(4, name="cells.0._ops.1")
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(block(images))))
    onnx_model = conversion.convert(model, (5, 5, 2), 17)
    results = {output for node in onnx_model.graph.node for output in node.output}
    inner = [step.name for step in block.steps if not isinstance(step, Conv2D)]  # into which BatchNorm is folded
    assert {f"cells.0._ops.1/{name}" for name in inner} <= results


def test_the_hash_is_that_of_the_weights(exported, network, tmp_path):
    report = json.loads(exported[0].with_suffix(".json").read_text())
    assert report["weights_sha256"] == weights_hash(network)
    other = keras.models.clone_model(network)
    assert weights_hash(other) != weights_hash(network)
    other.set_weights(network.get_weights())
    assert weights_hash(other) == weights_hash(network)


def test_doc_strings_are_dropped(network, tmp_path, unconverted):
    def document(model):
        model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/a/local/path.py"
        model.graph.initializer[0].doc_string = model.graph.output[0].doc_string = "/a/local/path.py"

    unconverted(document)
    export_onnx(network, tmp_path / "a.onnx")
    assert b"/a/local" not in (tmp_path / "a.onnx").read_bytes()


def test_the_file_takes_any_batch_size(exported, network):
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(5).normal(size=(6, 9, 9, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(network(noise))
    assert compare(expected, logits(session, noise))["relative_difference"] < 1e-5


@pytest.mark.parametrize("opset", [13, 15, 18])
def test_supported_opsets(network, tmp_path, opset):
    export_onnx(network, tmp_path / "a.onnx", opset=opset)
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == opset


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dilation", [2, 3])
def test_every_dilation_becomes_an_attribute(size, padding, dilation):
    network = keras.Sequential(
        [
            keras.Input((size, size, 2)),
            layers.DepthwiseConv2D(3, dilation_rate=dilation, padding=padding),
            layers.GlobalAveragePooling2D(),
        ]
    )
    model = conversion.convert(network, (size, size, 2), 17)
    attributes = [(node.op_type, list(a.ints)) for node in model.graph.node for a in node.attribute]
    assert ("Conv", [dilation, dilation]) in attributes
    assert structural_problems(conversion.tidy(model, "dilated", {})) == []


def test_a_subclassed_model(tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)])

        def build(self, input_shape):
            self.body.build(input_shape)

        def call(self, x):
            return self.body(x)

    model = Subclassed()
    with pytest.raises(ConfigError, match="not built"):
        export_onnx(model, tmp_path / "a.onnx")
    model.build((None, 6, 6, 3))
    assert export_onnx(model, tmp_path / "a.onnx")["input_shape"] == [None, 6, 6, 3]


def test_nothing_is_printed(network, tmp_path, capsys):
    export_onnx(network, tmp_path / "a.onnx")
    assert capsys.readouterr() == ("", "")


# ---- the gate ----


def spoil_weight(model):
    """One number of the depthwise kernel."""
    kernel = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [6, 1, 3, 3])
    array = onnx.numpy_helper.to_array(kernel).copy()
    array[2, 0, 1, 1] += 0.01
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))


def nodes(model, op_type):
    return [node for node in model.graph.node if node.op_type == op_type]


def attribute(node, name):
    return next(a for a in node.attribute if a.name == name)


def spoil_dilation(model):
    node = next(n for n in nodes(model, "Conv") if list(attribute(n, "dilations").ints) == [2, 2])
    attribute(node, "dilations").ints[:] = [1, 1]
    attribute(node, "pads").ints[:] = [1, 1, 1, 1]


def spoil_padding(model):
    """The sampled rows of stride 2 shifted by one, as between TensorFlow's and PyTorch's padding."""
    node = next(n for n in nodes(model, "Conv") if list(attribute(n, "strides").ints) == [2, 2])
    top, left, bottom, right = attribute(node, "pads").ints
    attribute(node, "pads").ints[:] = [top - 1, left, bottom + 1, right]


def spoil_axes(model):
    """Height and width exchanged: the same shapes, another network."""
    attribute(nodes(model, "Transpose")[0], "perm").ints[:] = [0, 3, 2, 1]


def spoil_pool(model):
    """The other average: divided by all of the window, padding included."""
    nodes(model, "AveragePool")[0].attribute.append(onnx.helper.make_attribute("count_include_pad", 1))


def spoil_with_nan(model):
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [5])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, "float32"), bias.name))


SPOILS = [spoil_weight, spoil_dilation, spoil_padding, spoil_axes, spoil_pool, spoil_with_nan]


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_file_that_disagrees_is_rejected(network, images, tmp_path, unconverted, spoil):
    path = tmp_path / "a.onnx"
    export_onnx(network, path)
    good = path.read_bytes(), path.with_suffix(".json").read_bytes()
    unconverted(spoil)
    with pytest.raises(VerificationError, match="disagrees .* image .* batch") as caught:
        export_onnx(network, path, images=images, overwrite=True)
    assert caught.value.where == tmp_path / "a.rejected.onnx" and "`optimize=False`" in caught.value.next_step
    assert "of the logit's size" in caught.value.seen
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == good
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json", "a.onnx", "a.rejected.onnx"]
    onnx.load(tmp_path / "a.rejected.onnx")


def test_a_weight_changed_within_the_tolerance_passes(network, tmp_path, unconverted):
    unconverted(spoil_weight)
    report = export_onnx(network, tmp_path / "a.onnx", tolerance=0.5)
    assert 1e-4 < report["relative_difference"] < 0.5


def with_dropout(model):
    model.graph.node[-1].input[0] = "dropped"
    node = onnx.helper.make_node("Dropout", [nodes(model, "Flatten")[0].output[0]], ["dropped"])
    model.graph.node.insert(len(model.graph.node) - 1, node)


def with_random_node(model):
    node = onnx.helper.make_node("RandomNormal", [], ["random"], shape=[2])
    model.graph.node.append(node)


def with_batch_norm_in_training_mode(model):
    names = [model.graph.node[0].output[0], "scale", "scale", "scale", "scale"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, "float32"), "scale"))
    node = onnx.helper.make_node("BatchNormalization", names, ["y", "mean", "variance"], training_mode=1)
    model.graph.node.append(node)


def with_space_to_depth(model):
    """As tf2onnx writes a dilation: blocks of pixels become images of the batch, which stands where channels do."""
    turned = onnx.helper.make_node("Transpose", [model.graph.node[0].output[0]], ["turned"], perm=[1, 0, 2, 3])
    node = onnx.helper.make_node("SpaceToDepth", ["turned"], ["deep"], blocksize=3)
    model.graph.node.extend([turned, node])


def with_custom_domain(model):
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node.append(onnx.helper.make_node("Mystery", ["images"], ["y"], domain="com.example"))


def with_unknown_operator(model):
    model.graph.node.append(onnx.helper.make_node("PartitionedCall", ["images"], ["y"]))


def with_fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def with_free_height(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"


def with_second_output(model):
    model.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info("images", 1, ["batch", 9, 9, 3]))


def with_external_data(model):
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_dropout, "Dropout"),
        (with_random_node, "RandomNormal  is random"),
        (with_batch_norm_in_training_mode, "training mode"),
        (with_space_to_depth, "dilation"),
        (with_custom_domain, "com.example"),
        (with_unknown_operator, "PartitionedCall"),
        (with_fixed_batch, "images"),
        (with_free_height, "images"),
        (with_second_output, "logits"),
        (with_external_data, "another file"),
    ],
)
def test_structural_problems(converted, change, words):
    assert structural_problems(converted) == []
    copy = onnx.ModelProto.FromString(converted.SerializeToString())
    change(copy)
    assert words in "; ".join(structural_problems(copy))


def test_a_file_that_is_not_plain_is_rejected_unopened(network, tmp_path, unconverted):
    unconverted(with_dropout)
    with pytest.raises(VerificationError, match="Dropout"):
        export_onnx(network, tmp_path / "a.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["a.rejected.onnx"]


def test_compare_counts_only_clear_answers():
    expected = np.array([[1.0, 0.0], [0.5, 0.51], [0.0, 0.9]], "float32")
    received = np.array([[1.0, 0.0], [0.52, 0.51], [0.95, 0.9]], "float32")
    result = compare(expected, received, tolerance=0.01)
    assert result["largest_difference"] == pytest.approx(0.95)
    assert (result["worst_image"], result["clear_answers"], result["changed_answers"]) == (2, 2, 1)


def test_a_masked_class_leaves_the_others_no_room():
    expected = np.array([[1.0, 0.0, -1e9], [0.0, 2.0, -1e9]], "float32")
    result = compare(expected, expected + np.float32([[0.5, 0, 0]]))
    assert result["relative_difference"] == 0.25 and result["clear_answers"] == 2
    with_small = np.array([[1.0, 1e-6, 2.0]], "float32")  # the second class is as exact as the others, not more
    assert compare(with_small, with_small + np.float32([[0, 1e-6, 0]]))["relative_difference"] < 2e-6


def test_compare_with_nan_and_zero():
    one, zero = np.ones((2, 3), "float32"), np.zeros((1, 1), "float32")
    spoiled = one.copy()
    spoiled[1, 1] = np.nan
    assert compare(one, spoiled)["relative_difference"] == np.inf
    assert compare(zero, zero)["relative_difference"] == 0


def test_each_case_gets_its_own_logits(network):
    cases = {size: np.random.default_rng(size).normal(size=(size, 9, 9, 3)).astype("float32") for size in (2, 1, 3)}
    for size, expected in expected_logits(network, cases).items():
        np.testing.assert_allclose(expected, keras.ops.convert_to_numpy(network(cases[size])), rtol=1e-4, atol=1e-5)


def test_a_model_with_a_state_stays_as_it_is(tmp_path):
    class Counting(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), trainable=False, name="calls")

        def call(self, inputs):
            self.calls.assign(self.calls + 1)
            return inputs

    images = keras.Input((4, 4, 3))
    model = keras.Model(images, layers.Dense(2)(layers.Flatten()(Counting()(images))), name="logits")  # as the output
    before = weights_hash(model)
    assert export_onnx(model, tmp_path / "a.onnx")["weights_sha256"] == before == weights_hash(model)


def test_positions_that_are_folded_into_the_batch_are_counted(tmp_path):
    """The converter folds them by shapes that are computed; ONNX Runtime knows them, where ONNX infers nothing."""
    images = keras.Input((5, 6, 3))
    rows = layers.Dense(2)(layers.Reshape((5, 24))(layers.Dense(4)(images)))
    report = export_onnx(keras.Model(images, layers.GlobalAveragePooling1D()(rows)), tmp_path / "a.onnx")
    assert report["addmults_conv_dense_of_file"] == 5 * 6 * 3 * 4 + 5 * 24 * 2


def test_what_cannot_be_counted_in_a_file_is_not_compared(tmp_path, monkeypatch):
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, 1, None) for name in "xy"]
    steps = helper.make_node("RNN", ["x", "w", "r"], ["", "y"], hidden_size=2)
    graph = helper.make_graph([steps], "steps", ends[:1], ends[1:])
    assert verification.conv_dense_addmults(helper.make_model(graph)) is None

    monkeypatch.setattr(verification, "conv_dense_addmults", lambda onnx_model: None)
    images = keras.Input((4, 4, 3))
    model = keras.Model(images, layers.Dense(2)(layers.Flatten()(images)))
    assert export_onnx(model, tmp_path / "a.onnx", addmults=1)["addmults_conv_dense_of_file"] is None


# ---- refused before or during the work ----


@pytest.mark.parametrize("opset", [5, 12, 19, 999, None])
def test_unsupported_opset(network, tmp_path, opset):
    with pytest.raises(UsageError) as caught:
        export_onnx(network, tmp_path / "a.onnx", opset=opset)
    assert caught.value.allowed == "13 to 18"


@pytest.mark.parametrize("present", ["a.onnx", "a.json"])
def test_existing_files_are_kept_unless_told(network, tmp_path, unconverted, present):
    (tmp_path / present).write_text("mine")
    with pytest.raises(RunError):
        export_onnx(network, tmp_path / "a.onnx")
    assert (tmp_path / present).read_text() == "mine"
    export_onnx(network, tmp_path / "a.onnx", overwrite=True)
    assert (tmp_path / present).read_bytes() != b"mine"


def test_paths_that_can_not_be(network, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError):
        export_onnx(network, tmp_path / "a.keras")
    with pytest.raises(RunError):
        export_onnx(network, tmp_path / "folder.onnx", overwrite=True)
    with pytest.raises(RunError):
        export_onnx(network, tmp_path / "absent" / "a.onnx")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EIO, RunError)]
)
def test_a_disk_that_takes_no_more_leaves_the_old_files(network, tmp_path, unconverted, monkeypatch, number, kind):
    export_onnx(network, tmp_path / "a.onnx")
    good = (tmp_path / "a.onnx").read_bytes()

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic_writes, "write_through", full)
    with pytest.raises(kind) as caught:
        export_onnx(network, tmp_path / "a.onnx", overwrite=True)
    assert caught.value.seen == os.strerror(number) and caught.value.where == str(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == good
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json", "a.onnx"]


@pytest.mark.parametrize("package", ["tf2onnx", "onnx", "onnxruntime"])
def test_a_missing_package(network, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"needs the package {package}\n") as caught:
        export_onnx(network, tmp_path / "a.onnx")
    assert "pip install" in caught.value.next_step


def test_another_backend(network, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError) as caught:
        export_onnx(network, tmp_path / "a.onnx")
    assert "KERAS_BACKEND=tensorflow" in caught.value.next_step


@pytest.mark.parametrize("metadata", [{"a": float("nan")}, {"a": np.float32(1)}, {"a": {1, 2}}])
def test_metadata_that_is_no_json(network, tmp_path, metadata):
    with pytest.raises(ConfigError, match="no JSON"):
        export_onnx(network, tmp_path / "a.onnx", metadata=metadata)


def two_inputs():
    first, second = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    return keras.Model([first, second], layers.Flatten()(layers.Add()([first, second])))


def free_height():
    images = keras.Input((None, 4, 3))
    return keras.Model(images, layers.GlobalAveragePooling2D()(images))


def auxiliary_head():
    images = keras.Input((4, 4, 3))
    return keras.Model(images, [layers.Flatten()(images), layers.GlobalAveragePooling2D()(images)])


def feature_map():
    images = keras.Input((4, 4, 3))
    return keras.Model(images, layers.ReLU()(images))


def half_precision():
    images = keras.Input((4, 4, 3))
    half = layers.Conv2D(4, 3, dtype="mixed_bfloat16")(images)
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(half)))


def whole_numbers():
    images = keras.Input((4, 4, 3), dtype="int32")
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(layers.Rescaling(0.5)(images))))


def half_inside():
    inner, images = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    half = keras.Model(inner, layers.Conv2D(4, 3, dtype="bfloat16")(inner))
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(half(images))))


FORMS = [two_inputs, free_height, auxiliary_head, feature_map, half_precision, whole_numbers, half_inside]


@pytest.mark.parametrize("build", FORMS)
def test_models_of_another_form(tmp_path, build):
    with pytest.raises(ConfigError):
        export_onnx(build(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (0, 9, 9, 3), (9, 9, 3)])
def test_images_that_do_not_fit(network, tmp_path, shape):
    with pytest.raises(DataError):
        export_onnx(network, tmp_path / "a.onnx", images=np.zeros(shape, "float32"))
    with pytest.raises(DataError):
        export_onnx(network, tmp_path / "a.onnx", images=np.zeros((4, 9, 9, 3), "uint8"))


def test_an_operator_without_a_counterpart_is_named(tmp_path):
    class Special(layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.raw_ops.Betainc(a=tf.abs(x) + 1, b=tf.abs(x) + 1, x=tf.sigmoid(x))

    images = keras.Input((4, 4, 3))
    model = keras.Model(images, layers.GlobalAveragePooling2D()(Special()(images)))
    with pytest.raises(VerificationError) as caught:
        export_onnx(model, tmp_path / "a.onnx")
    assert "Betainc" in caught.value.seen and "special" in caught.value.seen  # operator and layer
    assert caught.value.where == tmp_path / "a.conversion.log"
    assert [file.name for file in tmp_path.iterdir()] == ["a.conversion.log"]
    assert "Betainc" in caught.value.where.read_text()


def test_a_converter_that_raises(network, tmp_path, monkeypatch):
    from tf2onnx import tfonnx

    def fail(*_, **__):
        raise KeyError("SomeOp")

    monkeypatch.setattr(tfonnx, "process_tf_graph", fail)
    with pytest.raises(VerificationError, match="converted") as caught:
        export_onnx(network, tmp_path / "a.onnx")
    assert "SomeOp" in caught.value.seen
    assert "in fail" in caught.value.where.read_text()  # where it was raised


def test_a_model_with_nan_weights(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)])
    model.layers[-1].bias.assign([np.nan, 0])
    with pytest.raises(NumericalError):
        export_onnx(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
