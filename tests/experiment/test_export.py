"""`sharpkeras export` to its ends: runs, architectures and models of Keras, in each form that a file can have."""

import json

import numpy as np
import pytest
from support.command_line import sharpkeras

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

from sharpkeras.data import load  # noqa: E402
from sharpkeras.onnx_export import export_onnx  # noqa: E402


def export(source, folder, *options):
    """The report of an export that succeeds, and its file."""
    path = folder / "exported.onnx"
    result = sharpkeras("export", source, "--out", path, "--json", *options)
    assert result.code == 0, result.err
    report = result.json
    assert json.loads(path.with_suffix(".json").read_text()) == {"kind": "export", **report}
    return report, path


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def normalised(report):
    """The test digits as a file takes them that knows no preprocessing."""
    how = report["preprocessing"]
    pixels = load("digits", "test").images.astype("float32") / 255
    return ((pixels - np.array(how["mean"])) / np.array(how["deviation"])).astype("float32")


@pytest.fixture(scope="module")
def plain(finished):
    """The report of the export of the tiny run, and its answers to the test digits."""
    report = json.loads((finished / "model.json").read_text())
    return report, answers(finished / "model.onnx", normalised(report))


def test_preprocessing_within_the_file(finished, plain, tmp_path):
    report, path = export(finished / "train", tmp_path, "--input", "uint8")
    pixels = np.asarray(load("digits", "test").images)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(answers(path, pixels), plain[1], rtol=1e-3, atol=1e-4)
    assert "mean" not in report["preprocessing"] and "pixels as they are stored" in report["preprocessing"]["scale"]
    assert report["weights_sha256"] == plain[0]["weights_sha256"]
    names = {node.name for node in onnx.load(path).graph.node}
    assert not any(name.startswith("network/network/") for name in names) and any("cells.0" in name for name in names)
    (said,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == "preprocessing"]
    assert json.loads(said) == report["preprocessing"]


def test_a_graph_as_converted_gives_the_same_answers(finished, plain, tmp_path):
    report, path = export(finished / "train", tmp_path, "--no-optimize")
    assert report["rewrites"] == [] and report["nodes"] == report["nodes_before_rewrites"]
    assert plain[0]["rewrites"] and plain[0]["nodes_before_rewrites"] == report["nodes"]
    np.testing.assert_allclose(answers(path, normalised(report)), plain[1], rtol=1e-3, atol=1e-4)


def test_half_precision(finished, plain, tmp_path):
    report, path = export(finished / "train", tmp_path, "--precision", "float16")
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16} and report["precision"] == "float16"
    scale = np.abs(plain[1]).max()
    np.testing.assert_allclose(answers(path, normalised(report)).astype("float32"), plain[1], atol=0.02 * scale)


def test_bits_of_weights_are_said_and_told_from_the_file(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "LEAST_OF_TOP_1", 0)  # a network that was trained for two epochs knows little
    options = ("--quantize", "int8", "--calibration-images", 128, "--test-images", 300)
    for bits, words in (("7", "right on every processor"), ("8", "right on x86 with VNNI, and ARM")):
        given = ("--weight-bits", bits) if bits != "7" else ()
        result = sharpkeras("export", finished / "train", "--out", tmp_path / f"{bits}.onnx", *options, *given)
        assert result.code == 0, result.err
        assert f"weights of {bits} bits" in result.out and words in result.out
        assert words in sharpkeras("inspect", tmp_path / f"{bits}.onnx").out
        assert json.loads((tmp_path / f"{bits}.json").read_text())["quantization"]["weight_bits"] == int(bits)
    assert "int8" not in sharpkeras("inspect", finished / "model.onnx").out


def test_bits_of_weights_without_int8(finished, tmp_path):
    result = sharpkeras("export", finished / "train", "--out", tmp_path / "a.onnx", "--weight-bits", "8")
    assert result.code == 2 and "--precision int8" in result.err and not list(tmp_path.iterdir())
    assert sharpkeras("export", finished / "train", "--quantize", "int8", "--weight-bits", "6").code == 2


def test_int8_keeps_its_top_1_or_is_refused(finished, tmp_path):
    path = tmp_path / "int8.onnx"
    options = ("--precision", "int8", "--calibration-images", 128, "--test-images", 300, "--json")
    result = sharpkeras("export", finished / "train", "--out", path, *options)
    if result.code == 0:
        lost = result.json["quantization"]
        kept = (300 - lost["int8"]["errors"]) / (300 - lost["float32"]["errors"])
        assert kept >= 0.99 and lost["n"] == 300 and lost["calibration_images"] == 128
        names = {node.name for node in onnx.load(path).graph.node}
        assert all(row["layer"] in names for row in lost["worst_layers"]) and len(lost["worst_layers"]) == 5
    else:
        assert result.code == 8 and "int8 loses too much" in result.err
        assert [file.name for file in tmp_path.iterdir()] == ["int8.rejected.onnx"]


def test_an_architecture_gets_random_weights_that_a_seed_gives(tmp_path):
    sizes = ("--init-channels", 2, "--num-cells", 2, "--input-size", 8)
    first, path = export("SHARP_DARTS", tmp_path, *sizes)
    again, _ = export("SHARP_DARTS", tmp_path, *sizes, "--overwrite")
    assert first["selected"] == {"by": "nothing", "weights": "random"}
    assert first["weights_sha256"] == again["weights_sha256"]
    assert answers(path, np.zeros((2, 8, 8, 3), "float32")).shape == (2, 10)


def test_a_model_of_keras(tmp_path):
    report, path = export("keras:MobileNetV2", tmp_path)
    assert report["application"] == "keras:MobileNetV2"
    assert report["addmults_conv_dense_of_file"] == report["cost"]["addmults_conv_dense"] == 300_774_272
    assert answers(path, np.zeros((1, 224, 224, 3), "float32")).shape == (1, 1000)


def test_an_unknown_model_of_keras(tmp_path):
    result = sharpkeras("export", "keras:MobileNetV99", "--out", tmp_path / "a.onnx")
    assert result.code == 2 and "MobileNetV2, " in result.err and not list(tmp_path.iterdir())


def test_sizes_are_for_architectures(finished, tmp_path):
    for source in (finished / "train", "keras:MobileNetV2"):
        result = sharpkeras("export", source, "--init-channels", 8, "--out", tmp_path / "a.onnx")
        assert result.code == 2 and "has sizes of its own" in result.err and not list(tmp_path.iterdir())


def test_a_training_run_is_counted_as_it_was_trained(finished, plain):
    own = sharpkeras("cost", finished / "train", "--json").json
    assert {name: own[name] for name in plain[0]["cost"]} == plain[0]["cost"]
    sizes = ("--init-channels", 4, "--num-cells", 3)
    assert sharpkeras("cost", finished / "train", *sizes).code == 2
    other = sharpkeras("cost", finished / "train", "--for", "cifar10", *sizes, "--json").json
    assert other["parameters"] > own["parameters"]
