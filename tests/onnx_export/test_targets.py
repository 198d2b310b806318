"""For which processor a file is made, and how that is chosen; a measurement is faked, but for one."""

import json

import keras
import pytest
from support.random_models import randomize

from sharpkeras.errors import ResourceError, UsageError

if keras.backend.backend() != "tensorflow":
    pytest.skip("export runs on TensorFlow", allow_module_level=True)
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

from sharpkeras.inspection import inspect  # noqa: E402
from sharpkeras.io.onnx_files import TARGETS, made_for  # noqa: E402
from sharpkeras.measure.latency import benchmark  # noqa: E402
from sharpkeras.measure.latency.benchmark import OnnxFile  # noqa: E402
from sharpkeras.onnx_export import conversion, export_onnx, rewrites, targets  # noqa: E402

REAL = targets.compare  # which conftest.py replaces before the tests, and not before this line


@pytest.fixture(scope="module")
def network():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(images)
    x = keras.layers.Conv2D(6, 3, padding="same")(x)
    return randomize(keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)), name="small"))


@pytest.fixture(scope="module")
def converted(network):
    return conversion.convert(network, (8, 8, 3), 17).SerializeToString()


@pytest.fixture(autouse=True)
def converted_once(monkeypatch, converted):
    """Converting takes most of the time."""
    monkeypatch.setattr(conversion, "convert", lambda *_: onnx.ModelProto.FromString(converted))


@pytest.fixture
def here(monkeypatch):
    """Sets the processor of this machine."""

    def change(name):
        for module in (export_onnx, benchmark):
            monkeypatch.setattr(module, "instruction_set", lambda: name)

    change("avx2")
    return change


def export(network, folder, **options):
    path = folder / "small.onnx"
    report = export_onnx.export_onnx(network, path, overwrite=True, **options)
    model = onnx.load(path)
    first = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    (kernel,) = (tensor for tensor in model.graph.initializer if tensor.name == first)
    return report, model, kernel.dims[0]


@pytest.mark.parametrize(
    ("processor", "verdict", "unstable", "channels", "chosen_by"),
    [
        ("avx2", "faster", False, 16, "measurement"),
        ("avx512", "slower", False, 6, "measurement"),
        ("avx2", "no difference shown", False, 6, "processor"),
        ("avx512", "no difference shown", False, 16, "processor"),
        ("avx512", "slower", True, 16, "processor"),
    ],
)
def test_what_is_measured_decides(
    network, tmp_path, monkeypatch, here, processor, verdict, unstable, channels, chosen_by
):
    here(processor)
    measured = {"ratio": 0.9, "interval": [0.8, 1.0], "verdict": verdict, "unstable": unstable}
    monkeypatch.setattr(targets, "compare", lambda *files: measured if files[0] != files[1] else None)
    report, model, found = export(network, tmp_path)
    assert found == channels and ("align-channels" in report["rewrites"]) == (channels == 16)
    assert report["target"] == {"name": processor, "chosen_by": chosen_by, "filled_to_simple": measured}
    assert made_for(model) == processor
    facts = inspect(tmp_path / "small.json").facts
    assert (facts["made for"], facts["chosen by"], facts["verdict"]) == (processor, chosen_by, verdict)
    assert inspect(tmp_path / "small.onnx").facts["made for"] == processor


def test_the_two_files_that_are_measured(network, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        targets, "compare", lambda *files: seen.extend(files) or {"verdict": "slower", "unstable": False}
    )
    export(network, tmp_path)
    kernels = [
        {tensor.dims[0] for tensor in onnx.load_from_string(f).graph.initializer if len(tensor.dims) == 4} for f in seen
    ]
    assert kernels == [{6}, {16}]


@pytest.mark.parametrize("target", TARGETS)
def test_a_named_target_measures_nothing_and_makes_the_same_file_again(network, tmp_path, monkeypatch, target):
    monkeypatch.setattr(targets, "compare", None)
    report, model, channels = export(network, tmp_path, target=target)
    assert channels == (16 if target == "avx512" else 6) and made_for(model) == target
    assert report["target"] == {"name": target, "chosen_by": "request"}
    assert export(network, tmp_path, target=target)[0]["sha256"] == report["sha256"]


def test_what_is_not_measured(network, tmp_path, monkeypatch, here):
    def no_memory(*_):
        raise ResourceError("too little memory")

    monkeypatch.setattr(targets, "compare", no_memory)
    assert export(network, tmp_path)[0]["target"] == {"name": "avx2", "chosen_by": "processor"}
    here("avx512")
    report, _, channels = export(network, tmp_path)
    assert channels == 16 and report["target"] == {"name": "avx512", "chosen_by": "processor"}
    here(None)
    report, model, channels = export(network, tmp_path)
    assert channels == 6 and made_for(model) is None
    half = export(network, tmp_path, precision="float16")[0]
    assert half["target"] == {"name": "gpu", "chosen_by": "precision"}
    plain, model, _ = export(network, tmp_path, optimize=False)
    assert plain["target"] is None and made_for(model) is None


def test_an_unknown_target_is_refused(network, tmp_path):
    with pytest.raises(UsageError, match="target"):
        export(network, tmp_path, target="mips")


def test_each_target_leaves_out_rewrites_that_there_are():
    assert tuple(targets.LEFT_OUT) == TARGETS
    assert all(set(names) <= set(rewrites.DEFAULT) for names in targets.LEFT_OUT.values())


def test_a_benchmark_says_when_a_file_is_for_another_processor(network, tmp_path, here):
    export(network, tmp_path, target="avx512")
    file = OnnxFile(tmp_path / "small.onnx")
    launch = file.launch(1, 1, benchmark.CPU)
    assert launch.facts["target"] == "avx512"
    assert launch.warnings == ("small.onnx was made for avx512, this is avx2: export it again with `target=avx2`",)
    here("avx512")
    assert file.launch(1, 1, benchmark.CPU).warnings == ()


def test_the_measurement_itself(network, tmp_path, two_processes):
    export(network, tmp_path, target="avx2")
    simple = (tmp_path / "small.onnx").read_bytes()
    figures = REAL(simple, simple)
    low, high = figures["interval"]
    assert low <= figures["ratio"] <= high and figures["batch_size"] == 1 and figures["verdict"]
    assert json.loads(json.dumps(figures)) == figures
