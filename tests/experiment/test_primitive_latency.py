"""Tables of latencies: each part measured as it stands in a network; read back, and refused where it does not fit."""

import functools
import json
import math

import keras
import numpy as np
import pytest
from support.command_line import sharpkeras

from sharpkeras import spaces
from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment import primitive_latency, search_budget
from sharpkeras.layers import ConvBN, FactorizedReduce, Identity, MaxPool, ReLUConvBN, SharpSepConv
from sharpkeras.measure.latency import primitive_table
from sharpkeras.measure.machine import device_name
from sharpkeras.recipes import SearchRecipe
from sharpkeras.spaces.hypercuboid.space import HyperCuboid

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export runs on TensorFlow")

TINY = {"space": "skip_connect,sep_conv_3x3", "num_nodes": 2, "init_channels": 4, "num_cells": 1}
IMAGES, CLASSES = (8, 8, 1), 10  # of digits


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def convolutions(path, **_):
    """Takes the place of `benchmark_onnx`: a millisecond for each convolution, and three for the call."""
    report = dict(device="one", cores=2, threads=1, batch_size=1, runs=3, providers=[], warnings=[], spread=0.0)
    return report | {"p50_ms": 3.0 + operators(path).count("Conv"), "unstable": False}


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(primitive_latency, "benchmark_onnx", convolutions)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The table of the smallest cell space, really measured."""
    out = tmp_path_factory.mktemp("latencies") / "table.json"
    primitive_latency.measure(SearchRecipe(**TINY), out, threads=1, runs=3)
    return out


def test_every_part_is_measured(measured):
    written = json.loads(measured.read_text())
    recipe = SearchRecipe(**TINY).priced()  # as `measure` takes it: the network that is trained next
    network, table = search_budget.costed_network(recipe, IMAGES, CLASSES, spaces.of_recipe(recipe)), written["table"]
    assert list(table) == list(primitive_latency.parts_of(network))
    assert all(math.isfinite(row["ms"]) and row["ms"] >= 0 for row in table.values())
    assert sum(row["ms"] for row in table.values()) > 0 and written["call_ms"] > 0
    assert written["device"] == device_name() and written["threads"] == 1


def test_a_search_counts_with_the_table(measured):
    recipe = SearchRecipe(**TINY, max_latency_ms=1.0, latency_table=str(measured)).priced()
    budget = search_budget.Budget.of(recipe, spaces.of_recipe(recipe), IMAGES, CLASSES)
    alphas = [np.zeros_like(a) for a in budget.space.init_alphas(0)]
    assert float(budget.expected_cost(alphas)) == pytest.approx(json.loads(measured.read_text())["random_ms"])


def test_the_command_measures_what_the_next_one_needs(counted, tmp_path):
    out, flags = tmp_path / "table.json", ["--space", TINY["space"], "--num-nodes", "1"]
    result = sharpkeras("benchmark", "--primitives", *flags, "--out", out)
    assert result.code == 0, result.err
    random_ms = json.loads(out.read_text())["random_ms"]
    following = result.out.split("Next: sharpkeras ")[1].split()
    assert following == ["search", *flags, "--latency-table", str(out), "--max-latency-ms", f"{random_ms:.3g}"]
    space = spaces.of_recipe(SearchRecipe(space=TINY["space"], num_nodes=1))
    budget = {"max_latency_ms": random_ms, "latency_table": str(out)}
    recipe = SearchRecipe(space=TINY["space"], num_nodes=1, **budget).priced()
    assert search_budget.Budget.of(recipe, space, IMAGES, CLASSES).costs.fixed > 0


def test_a_cuboid_is_measured_too(counted, tmp_path):
    widths = {"filters": (4, 8)}
    stem, head = functools.partial(ConvBN, 4), functools.partial(ReLUConvBN, 8)
    cuboid = HyperCuboid(widths, SharpSepConv, positions=2, stem=stem, head=head)
    result = primitive_latency.measure(SearchRecipe(), tmp_path / "table.json", space=cuboid)
    words = {row["what"]: row["ms"] for row in result["table"].values()}
    assert words.pop("Dense(activation=linear, units=10, use_bias=True) on 8") == 0
    assert words["ConvBN(affine=True, filters=4, kernel_size=3, strides=1) on 8×8×1"] == 1
    assert result["random_ms"] == 1 + 2 * 4 + 1  # stem, two SharpSepConv, head
    ask = primitive_table.load_table(tmp_path / "table.json")
    assert ask(SharpSepConv(4), (8, 8, 8)) == 4


def test_the_time_of_the_call_itself_is_no_part_of_it(counted, tmp_path):
    seen = []
    table = primitive_latency.measure(
        SearchRecipe(**TINY), tmp_path / "t.json", progress=lambda p: seen.extend(p) or p
    )["table"]
    assert table[primitive_table.key(Identity(), (4, 4, 32))]["ms"] == 0
    assert table[primitive_table.key(SharpSepConv(32, strides=2), (8, 8, 32))]["ms"] == 4
    assert [key for key, _ in seen] == list(table)


ALONE = {
    "convolution": (functools.partial(SharpSepConv, 4, strides=2), (8, 8, 4)),
    "pool": (MaxPool, (8, 8, 4)),
    "branches": (functools.partial(FactorizedReduce, 4), (8, 8, 4)),
    "skip": (Identity, (8, 8, 4)),
    "classifier": (lambda: keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]), (8, 8, 4)),
    "dense": (functools.partial(keras.layers.Dense, 3), (4,)),
}


@pytest.mark.parametrize(("make", "shape"), ALONE.values(), ids=ALONE)
def test_a_part_is_measured_as_it_stands_in_a_network(make, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(primitive_latency, "benchmark_onnx", lambda path: path)
    layer = make()
    path = primitive_latency._benchmark(layer, shape, tmp_path / "part.onnx", {})
    assert "Transpose" not in operators(path)
    images = np.random.default_rng(0).standard_normal((2, *shape), dtype="float32")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (received,) = session.run(None, {"images": np.moveaxis(images, -1, 1)})
    expected = keras.ops.convert_to_numpy(layer(images)).reshape(2, -1)[:, :1]
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (SearchRecipe(), ((8, 8, 1), 10)),
        (SearchRecipe(dataset="cifar10"), ((32, 32, 3), 10)),
        (SearchRecipe(dataset="cifar10:nowhere", image_size=16), ((16, 16, 3), 10)),
        (SearchRecipe(dataset="imagenet"), ((224, 224, 3), 1000)),
    ],
)
def test_no_dataset_has_to_be_there(recipe, expected):
    assert primitive_latency._images(recipe) == expected


# --- reading ---


def table_of(**changes):
    key = primitive_table.key(SharpSepConv(4), (8, 8, 4))
    return {"schema_version": 1, "device": device_name(), "table": {key: {"ms": 0.5, "what": "one"}}} | changes


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "table.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_missing_part_is_refused(written):
    path = written(table_of())
    ask = primitive_table.load_table(path)
    assert ask(SharpSepConv(4, name="other"), [8, 8, 4]) == 0.5
    with pytest.raises(ConfigError) as caught:
        ask(SharpSepConv(4), (8, 8, 8))
    assert "SharpSepConv" in caught.value.seen and "8×8×8" in caught.value.seen
    assert caught.value.where == str(path) and "sharpkeras benchmark --primitives" in caught.value.next_step


BAD = {
    "no JSON": "{",
    "a list": [],
    "another file": {"epochs": 3},
    "newer": table_of(schema_version=2),
    "no table": table_of(table=None),
    "empty": table_of(table={}),
    "row": table_of(table={"a": 3}),
    "negative": table_of(table={"a": {"ms": -1}}),
    "text": table_of(table={"a": {"ms": "1"}}),
    "flag": table_of(table={"a": {"ms": True}}),
    "infinite": '{"schema_version": 1, "table": {"a": {"ms": Infinity}}}',
    "twice": '{"schema_version": 1, "table": {"a": {"ms": 1}, "a": {"ms": 2}}}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_table_is_refused(written, content):
    path = written(content)
    with pytest.raises(ConfigError) as caught:
        primitive_table.load_table(path)
    assert caught.value.exit_code == 3 and str(path) in str(caught.value.where)


def test_no_table_at_all(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        primitive_table.load_table(tmp_path / "none.json")


def test_a_table_of_another_machine_is_named(written, caplog):
    primitive_table.load_table(written(table_of(device="another CPU")))
    assert "another CPU" in caplog.text


# --- writing ---


def test_what_is_there_is_not_lost(counted, written):
    recipe, path = SearchRecipe(**TINY), written(table_of())
    with pytest.raises(RunError, match="exists already"):
        primitive_latency.measure(recipe, path)
    primitive_latency.measure(recipe, path, overwrite=True)
    path.write_text('{"notes": "of somebody"}')
    with pytest.raises(RunError, match="is no table of latencies"):
        primitive_latency.measure(recipe, path, overwrite=True)
    assert path.read_text() == '{"notes": "of somebody"}'


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Missing argument 'FILE'"),
        (["model.onnx", "--primitives"], "takes no FILE"),
        (["--primitives", "--percentile", "99"], "no --percentile"),
        (["--primitives", "--batch-size", "1", "--batch-size", "8"], "one --batch-size"),
        (["model.onnx", "--num-nodes", "2"], "--num-nodes goes with --primitives"),
        (["model.onnx", "--out", "table.json"], "--out goes with --primitives"),
    ],
)
def test_options_that_do_not_go_together(arguments, problem):
    result = sharpkeras("benchmark", *arguments)
    assert result.code == 2 and problem in result.err


def test_an_unstable_table_says_so(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(primitive_latency, "benchmark_onnx", lambda path, **_: convolutions(path) | {"unstable": True})
    monkeypatch.chdir(tmp_path)
    flags = ["--primitives", "--space", "none,skip_connect", "--num-nodes", 1, "--num-cells", 1, "--init-channels", 2]
    result = sharpkeras("benchmark", *flags, "--fail-on-noise")
    assert result.code == 8 and "UNSTABLE" in result.out and (tmp_path / "latencies.json").exists()
