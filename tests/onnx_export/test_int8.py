"""int8 files: what they lose is measured, named and bounded."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("export runs on TensorFlow", allow_module_level=True)
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from support.random_models import random_network  # noqa: E402

from sharpkeras.errors import DataError, NumericalError, UsageError, VerificationError  # noqa: E402
from sharpkeras.onnx_export import answers, export_onnx, int8  # noqa: E402


def noise(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    return random_network(3)


@pytest.fixture(scope="module")
def test(network):
    """Images of which the network is sure, labelled by itself: it has all of them right."""
    images = noise(2000, 0)
    logits = np.sort(network.predict(images, verbose=0), axis=1)
    sure = np.argsort(logits[:, -2] - logits[:, -1])[:300]
    return images[sure], answers.of_model(network, images[sure])


@pytest.fixture(scope="module")
def exported(network, test, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "a.onnx"
    return path, export_onnx.export_onnx(network, path, test=test, precision="int8", calibration=noise(128, 1))


def test_the_file_computes_in_int8(exported):
    path, report = exported
    model = onnx.load(path)
    kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert kernels and {tensor.data_type for tensor in kernels} == {onnx.TensorProto.INT8}
    assert {node.domain for node in model.graph.node} == {""}
    assert report["precision"] == "int8" and report["nodes"] == len(model.graph.node)
    assert report["bytes"] == path.stat().st_size
    keys = [entry.key for entry in model.metadata_props]
    assert keys == ["weights_sha256", "target"]  # nothing else was given


def test_weights_of_7_bits_are_the_default_and_right_everywhere(exported):
    path, report = exported
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == 3 and t.dims]
    largest = max(int(np.abs(tensor.astype("int32")).max()) for tensor in weights)
    assert 60 <= largest <= 64 and 2 * 255 * largest < 2**15
    lost = report["quantization"]
    assert (lost["weight_bits"], lost["could_saturate"], lost["right_on"]) == (7, False, "every processor")
    assert 0 < lost["largest_sum"] <= 2 * 255 * largest and lost["measured_on"]


def test_weights_of_8_bits_say_for_which_processors(network, test, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "LEAST_OF_TOP_1", 0)  # which they can lose where there is no VNNI
    report = export_onnx.export_onnx(
        network, tmp_path / "a.onnx", test=test, precision="int8", calibration=noise(128, 1), weight_bits=8
    )
    lost = report["quantization"]
    assert (lost["weight_bits"], lost["could_saturate"]) == (8, True) and 2**15 < lost["largest_sum"] <= 2 * 255 * 127
    assert lost["right_on"] == "x86 with VNNI, and ARM"


def test_a_file_of_7_bits_whose_sums_could_be_cut_off_is_refused(network, test, tmp_path, monkeypatch):
    """The file is asked, not what it was meant to be."""
    quantize = int8.quantize
    monkeypatch.setattr(int8, "quantize", lambda model, images, bits: quantize(model, images, 8))
    with pytest.raises(VerificationError, match="could be cut off on x86 without VNNI") as caught:
        export_onnx.export_onnx(network, tmp_path / "a.onnx", test=test, precision="int8", calibration=noise(128, 1))
    assert "`weight_bits=8`" in caught.value.next_step and "32,767" in caught.value.allowed
    assert [file.name for file in tmp_path.iterdir()] == ["a.rejected.onnx"]
    rejected = onnx.load(tmp_path / "a.rejected.onnx").graph.initializer
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in rejected)


@pytest.mark.parametrize("bits", [6, 16, "7", None])
def test_other_bits(network, test, tmp_path, bits):
    with pytest.raises(UsageError, match="no such bits") as caught:
        export_onnx.export_onnx(
            network, tmp_path / "a.onnx", test=test, precision="int8", calibration=noise(128, 1), weight_bits=bits
        )
    assert caught.value.allowed == [7, 8]


def test_scales_are_those_of_each_channel_and_never_zero(exported):
    scales = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(exported[0]).graph.initializer
        if tensor.name.endswith("_scale")
    }
    assert all((scale > 0).all() and np.isfinite(scale).all() for scale in scales.values())
    assert max(scale.size for scale in scales.values()) >= 16


def test_what_it_costs_is_reported(exported, test):
    lost = exported[1]["quantization"]
    assert lost["n"] == 300 and lost["calibration_images"] == 128
    assert lost["float32"]["errors"] == 0 and lost["int8"]["error"] <= 0.01
    assert lost["int8"]["interval"][0] <= lost["int8"]["error"] <= lost["int8"]["interval"][1]
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    wrong = int((answers.of_file(session, test[0]) != test[1]).sum())
    assert lost["int8"]["errors"] == wrong
    losses = [row["signal_to_noise_db"] for row in lost["worst_layers"]]
    assert len(losses) == int8.WORST_LAYERS and losses == sorted(losses) and 0 < losses[0] < 60


def test_the_accuracy_of_a_float_file(exported):
    accuracy = exported[1]["before_int8"]["accuracy"]
    assert accuracy["n"] == 300 and accuracy["keras"]["errors"] == accuracy["file"]["errors"] == 0
    assert accuracy["different_answers"] == 0 and accuracy["mcnemar_p"] == 1


def test_half_precision(network, test, tmp_path):
    path = tmp_path / "half.onnx"
    report = export_onnx.export_onnx(network, path, test=test, precision="float16")
    model = onnx.load(path)
    kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert kernels and {tensor.data_type for tensor in kernels} == {onnx.TensorProto.FLOAT16}
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert ends == [onnx.TensorProto.FLOAT] * 2
    assert report["precision"] == "float16" and 1e-6 < report["relative_difference"] < 1e-2
    assert report["accuracy"]["file"]["errors"] <= 3  # of 300 of which the network is sure


def test_what_float16_can_not_hold_is_refused(tmp_path):
    """65,504 is the largest number of float16; ONNX Runtime's CPU would not notice."""
    images = keras.Input((9, 9, 3))
    large = keras.layers.Rescaling(1e-5)(keras.layers.Rescaling(1e5)(images))
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(large)))
    assert export_onnx.export_onnx(model, tmp_path / "a.onnx")["relative_difference"] < 1e-5
    with pytest.raises(VerificationError, match="disagrees"):
        export_onnx.export_onnx(model, tmp_path / "b.onnx", precision="float16")
    with pytest.raises(DataError, match="calibrated on images of training"):
        export_onnx.export_onnx(model, tmp_path / "c.onnx", precision="int8")


def test_int8_needs_a_network_that_is_right_at_times(network, test, tmp_path):
    images, labels = test
    with pytest.raises(VerificationError, match="int8 loses too much") as caught:
        export_onnx.export_onnx(
            network, tmp_path / "a.onnx", test=(images, labels + 100), precision="int8", calibration=noise(128, 1)
        )
    assert "train the network" in caught.value.next_step


def test_half_precision_that_disagrees_is_refused(network, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "FLOAT16_TOLERANCE", 1e-7)
    with pytest.raises(VerificationError, match="disagrees") as caught:
        export_onnx.export_onnx(network, tmp_path / "a.onnx", precision="float16")
    assert "leave out `precision=float16`" in caught.value.next_step
    assert [file.name for file in tmp_path.iterdir()] == ["a.rejected.onnx"]


def test_a_file_that_loses_too_much_is_refused(network, test, tmp_path, monkeypatch):
    quantize = int8.quantize

    def without_a_classifier(model, images, weight_bits):
        """Its kernel, the int8 matrix, is zero: every image gets the same answer."""
        quantized = quantize(model, images, weight_bits)
        (kernel,) = [
            t for t in quantized.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.INT8
        ]
        zeros = np.zeros(tuple(kernel.dims), "int8")
        kernel.CopyFrom(onnx.numpy_helper.from_array(zeros, kernel.name))
        return quantized

    monkeypatch.setattr(int8, "quantize", without_a_classifier)
    with pytest.raises(VerificationError, match="int8 loses too much") as caught:
        export_onnx.export_onnx(network, tmp_path / "a.onnx", test=test, precision="int8", calibration=noise(128, 1))
    for words in ("test error", "interval", "McNemar", "dB"):
        assert words in caught.value.seen
    assert "99% of the top-1" in caught.value.allowed and "n = 300" in caught.value.allowed
    for flag in ("`calibration_images`", "`weight_bits=8`", "`precision=int8`"):
        assert flag in caught.value.next_step
    assert [file.name for file in tmp_path.iterdir()] == ["a.rejected.onnx"]


def test_no_int8_without_test_images(network, tmp_path):
    with pytest.raises(DataError, match="measured accuracy"):
        export_onnx.export_onnx(network, tmp_path / "a.onnx", precision="int8", calibration=noise(128, 1))
    assert not list(tmp_path.iterdir())


def test_calibration_images_are_no_test_images():
    images, test_images = noise(200, 0), noise(50, 1)
    assert len(int8.calibration_images(images, test_images)) == 200
    accident = np.concatenate([images, test_images[:1]])
    np.testing.assert_array_equal(int8.calibration_images(accident, test_images), images)
    with pytest.raises(DataError, match="are test images") as caught:
        int8.calibration_images(np.concatenate([images, test_images]), test_images)
    assert caught.value.seen == "50 of 250"


@pytest.mark.parametrize("count", [0, 99])
def test_too_few_calibration_images(count):
    with pytest.raises(DataError, match="too few") as caught:
        int8.calibration_images(noise(count, 0), noise(10, 1))
    assert caught.value.seen == count


def test_layers_are_named_worst_first():
    """A network with one layer whose outputs lie far outside the range that calibration saw."""
    network = random_network(5)
    from sharpkeras.onnx_export import conversion, rewrites

    model = rewrites.optimize(conversion.convert(network, (8, 8, 3), 17))
    images = noise(128, 0)
    good = int8.worst_layers(model, int8.quantize(model, images), images)
    bad = int8.worst_layers(model, int8.quantize(model, images / 10), images)
    assert bad[0]["signal_to_noise_db"] < good[0]["signal_to_noise_db"] - 10


def test_answers_that_are_no_numbers():
    class Broken:
        def run(self, names, feed):
            return [np.full((len(feed["images"]), 3), np.nan, "float32")]

    with pytest.raises(NumericalError):
        answers.of_file(Broken(), noise(3, 0))


def test_two_networks_side_by_side():
    labels = np.array([0, 1, 2, 0])
    report = answers.beside(np.array([0, 1, 2, 1]), np.array([0, 0, 0, 1]), labels, ("first", "second"))
    assert (report["n"], report["first"]["errors"], report["second"]["errors"]) == (4, 1, 3)
    assert report["different_answers"] == 2 and report["mcnemar_p"] == pytest.approx(0.5)
