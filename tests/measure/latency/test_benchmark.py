import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sharpkeras.errors import ConfigError, ResourceError, SafetyError, UsageError, VerificationError
from sharpkeras.io.onnx_files import read_onnx
from sharpkeras.measure import machine
from sharpkeras.measure.latency import benchmark, worker
from sharpkeras.measure.latency.benchmark import PROCESSES, benchmark_onnx, check_request

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FLOAT = onnx.TensorProto.FLOAT


def one_node_model(shape=("batch", 8, 8, 3), op_type="Add", domain="", kind=FLOAT):
    """A valid model: `images` plus a constant."""
    value = onnx.helper.make_tensor_value_info
    constant = onnx.helper.make_tensor("one", kind, [1], [1])
    node = onnx.helper.make_node(op_type, ["images", "one"], ["logits"], domain=domain)
    graph = onnx.helper.make_graph(
        [node], "g", [value("images", kind, shape)], [value("logits", kind, shape)], [constant]
    )
    opsets = [onnx.helper.make_opsetid(name, 17) for name in {"", domain}]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def written(tmp_path):
    """Writes bytes or a model to a file and returns its path."""

    def write(content, name="model.onnx"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write


def quick(path, **arguments):
    return benchmark_onnx(path, **{"threads": 1, "runs": 6, "warmup_s": 0, **arguments})


def test_a_measurement_says_what_it_holds_for(written):
    path = written(one_node_model())
    report = quick(path, batch_size=2, runs=7)
    assert json.loads(json.dumps(report)) == report
    assert report["bytes"] == path.stat().st_size
    assert report["input_shape"] == [2, 8, 8, 3]
    assert report["providers"] == ["CPUExecutionProvider"]
    assert (report["threads"], report["runs"], report["warnings"]) == (1, 7, [])
    assert 0 < report["p50_ms"] <= report["p90_ms"]
    assert "p99_ms" not in report
    assert report["images_per_second"] == pytest.approx(2000 / report["mean_ms"])
    assert len(report["process_medians_ms"]) == PROCESSES
    assert 5 < report["peak_memory_mib"] < 4096
    assert report["device"]


@pytest.mark.parametrize("kind", [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16])
def test_other_image_types(written, kind):
    assert quick(written(one_node_model(kind=kind)))["p50_ms"] > 0


def test_peak_memory_is_the_childs_own(written):
    ballast = np.ones(2**26, dtype="float64")  # 512 MiB in this process, which getrusage would hand on to the child
    assert quick(written(one_node_model()))["peak_memory_mib"] < 400
    del ballast


def test_more_threads_than_cores_is_recorded(written):
    cores = machine.available_cores()
    warnings = quick(written(one_node_model()), threads=cores + 1)["warnings"]
    assert warnings == [f"{cores + 1} threads on {cores} available cores"]


def test_cores_respect_affinity():
    assert 1 <= machine.available_cores() <= os.cpu_count()
    assert 0 <= machine.busy_share(0.05) <= 1 or not os.path.exists("/proc/stat")


def test_warm_up_goes_on_until_the_times_settle(monkeypatch):
    clock = [0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def runs(time_of_run, seconds):
        def one_run():  # takes a second of the clock
            clock[0] += 1
            return time_of_run(clock[0])

        clock[0] = 0
        return worker.warm_up(one_run, seconds)

    assert runs(lambda run: 1, 30) == 31  # settled, but not for long enough
    assert 60 < runs(lambda run: max(100 - run, 40), 20) < 85
    assert runs(lambda run: 1.1**run, 20) == 200  # never settles
    assert runs(lambda run: 1, 0) == 1


# ---- requests ----


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"threads": -1},
        {"threads": 0},
        {"runs": 2},
        {"runs": 2.5},
        {"warmup_s": -1},
        {"warmup_s": float("nan")},
        {"percentiles": [42]},
    ],
)
def test_requests_without_sense(wrong):
    request = {"batch_size": 1, "threads": None, "runs": 200, "warmup_s": 0, "percentiles": None}
    with pytest.raises(UsageError):
        check_request(**request | wrong)


def test_p99_needs_a_thousand_runs():
    with pytest.raises(UsageError, match="p99 needs at least 1000 runs"):
        check_request(1, None, 999, 0, [50, 99])
    assert check_request(1, None, 1000, 0, None) == [50, 90, 99]
    assert check_request(1, None, 999, 0, None) == [50, 90]


@pytest.mark.parametrize("provider", ["NoSuchExecutionProvider", "TensorrtExecutionProvider"])
def test_a_provider_that_is_not_there(written, provider):
    with pytest.raises(VerificationError, match="did not use") as caught:
        quick(written(one_node_model()), providers=(provider, "CPUExecutionProvider"))
    assert caught.value.seen == ["CPUExecutionProvider"]


@pytest.mark.parametrize("shape", [(4, 8, 8, 3), ("batch", "height", 8, 3), ("batch", 8, None, 3), ()])
def test_a_declared_shape_that_does_not_fit(written, shape):
    with pytest.raises(UsageError) as caught:
        quick(written(one_node_model(shape)), batch_size=1)
    assert caught.value.seen == [size or "?" for size in shape]


def test_a_fixed_batch_size_that_fits(written):
    assert quick(written(one_node_model((4, 8, 8, 3))), batch_size=4)["batch_size"] == 4


def test_two_inputs(written):
    model = one_node_model()
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", FLOAT, ["batch", 2]))
    with pytest.raises(UsageError, match="one input"):
        quick(written(model))


@pytest.mark.parametrize("number", [99, -1, onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED])
def test_an_input_of_another_type(written, number):
    model = one_node_model()
    model.graph.input[0].type.tensor_type.elem_type = number
    with pytest.raises((ConfigError, UsageError)):  # the checker of onnx refuses some of them itself
        quick(written(model))


# ---- hostile and broken files ----


def external(tensor, location):
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "link", "weights.bin"])
def test_external_data_is_refused(written, tmp_path, location):
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = one_node_model()
    external(model.graph.initializer[0], location)
    with pytest.raises(SafetyError) as caught:
        quick(written(model))
    assert caught.value.seen == location


def hidden_in_attribute(model, tensor):
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


def hidden_in_subgraph(model, tensor):
    branch = onnx.helper.make_graph([], "branch", [], [], [tensor])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["hidden"], then_branch=branch, else_branch=branch))


def hidden_in_function(model, tensor):
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("", "f", [], ["y"], [node], opsets))


def hidden_in_sparse_tensor(model, tensor):
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


@pytest.mark.parametrize("hide", [hidden_in_attribute, hidden_in_subgraph, hidden_in_function, hidden_in_sparse_tensor])
def test_external_data_is_found_wherever_it_hides(written, hide):
    model = one_node_model()
    hide(model, external(onnx.helper.make_tensor("t", FLOAT, [1], [1.0]), "../../etc/passwd"))
    with pytest.raises(SafetyError, match="another file"):
        quick(written(model))


@pytest.mark.parametrize("domain", ["com.example", "com.microsoft"])
def test_custom_operators_are_refused(written, domain):
    with pytest.raises(SafetyError, match="custom library") as caught:
        quick(written(one_node_model(op_type="Payload", domain=domain)))
    assert caught.value.seen == domain


def texts_of(message, path=()):
    """Where in a protobuf message the texts are: the steps to each, of field names and indices."""
    for field, value in message.ListFields():
        several = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        for index, part in enumerate(value) if several else [(None, value)]:
            step = (*path, field.name) if index is None else (*path, field.name, index)
            if field.type == field.TYPE_STRING:
                yield ".".join(map(str, step)), part
            elif field.message_type is not None:
                yield from texts_of(part, step)


def model_of_texts():
    """A valid model with a text of its own in each of its fields that has one."""
    model, helper = one_node_model(), onnx.helper
    model.graph.initializer[0].doc_string = "QAtensor"
    model.graph.node[0].name, model.graph.node[0].doc_string = "QBnode", "QCdoc"
    model.graph.name, model.graph.doc_string, model.doc_string = "QDgraph", "QEdoc", "QFdoc"
    model.producer_name, model.producer_version, model.domain = "QGproducer", "QHversion", "QIdomain"
    helper.set_model_props(model, {"QJkey": "QKvalue"})
    constant = helper.make_node("Constant", [], ["QLoutput"], value=helper.make_tensor("QMtensor", FLOAT, [1], [1.0]))
    constant.attribute[0].doc_string = "QNattribute"
    model.graph.node.append(constant)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "QObatch"
        value.doc_string = "QPvalue"
    inside = helper.make_node("Identity", ["QQinner"], ["QRouter"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "QSfunction", ["QQinner"], ["QRouter"], [inside], opsets))
    return model


TEXTS = {place: text for place, text in texts_of(model_of_texts()) if text}


@pytest.mark.parametrize("place", TEXTS)
def test_a_text_that_is_no_utf_8_is_refused(written, place):
    """Wherever it stands: names of nodes, values, tensors, dimensions, operators, what the file tells of itself."""
    content, text = model_of_texts().SerializeToString(), TEXTS[place].encode()
    before = bytes([len(text)]) + text  # as protobuf writes it
    assert before in content
    path = written(content.replace(before, bytes([len(text)]) + b"\xff" + text[1:]))
    with pytest.raises(ConfigError, match="no UTF-8") as caught:
        read_onnx(path)
    assert caught.value.where == path and b"\xff" in caught.value.seen
    read_onnx(written(content))


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_truncated_files(written, length):
    content = one_node_model().SerializeToString()
    with pytest.raises(ConfigError):
        quick(written(content[:length]))


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(written, seed):
    with pytest.raises(ConfigError):
        quick(written(np.random.default_rng(seed).bytes(2000)))


def test_text_that_onnx_would_parse_by_its_suffix(written):
    with pytest.raises(ConfigError):
        quick(written(b'{"irVersion": "8"}', "model.json"))


def test_unknown_operator(written):
    with pytest.raises(ConfigError):
        quick(written(one_node_model(op_type="NoSuchOperator")))


def test_a_model_that_onnx_runtime_can_not_run_costs_only_the_child(written):
    """The checker passes it; adding (B, 8, 8, 3) and (5,) fails when it runs."""
    model = one_node_model()
    model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("one", FLOAT, [5], [1.0] * 5))
    with pytest.raises(ConfigError, match="could not run"):
        quick(written(model))


def test_a_child_that_dies_at_once(written, monkeypatch):
    monkeypatch.setattr(benchmark.sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="could not run"):
        quick(written(one_node_model()))


def test_a_file_above_two_gibibytes_is_not_read(written):
    path = written(b"")
    os.truncate(path, 3 * 2**30)  # sparse
    with pytest.raises(ConfigError, match="too large"):
        quick(path)


HUGE = 2**33  # elements, 32 GiB


def asking(*nodes, shape=("batch", 8, 8, 1), **constants):
    """A model of some hundred bytes: what the nodes make, the value "huge", is summed and added to the images."""
    value, make = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    tensors = [onnx.numpy_helper.from_array(np.array(content), name) for name, content in constants.items()]
    nodes = [make(operator, inputs, [output], **settings) for operator, inputs, output, settings in nodes]
    nodes += [make("ReduceSum", ["huge"], ["sum"], keepdims=0), make("Add", ["images", "sum"], ["logits"])]
    ends = [[value(name, FLOAT, shape)] for name in ("images", "logits")]
    graph = onnx.helper.make_graph(nodes, "g", *ends, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


PARTS = [f"part{number}" for number in range(200)]  # of 256 MiB each
ASKING = {
    "ConstantOfShape": asking(("ConstantOfShape", ["s"], "huge", {}), s=[HUGE]),
    "Expand": asking(("Expand", ["one", "s"], "huge", {}), one=np.ones(1, "float32"), s=[HUGE]),
    "Range": asking(
        ("Range", ["zero", "end", "step"], "r", {}), ("Cast", ["r"], "huge", {"to": FLOAT}), zero=0, end=HUGE, step=1
    ),
    "Pad": asking(("Pad", ["images", "p"], "huge", {}), p=[0, 0, 0, 0, 0, 2**17, 2**16, 0]),
    "Resize": asking(("Resize", ["images", "", "s"], "huge", {}), s=np.array([1, 2**13, 2**14, 1], "float32")),
    "MatMul": asking(
        ("ConstantOfShape", ["s"], "row", {}),
        ("MatMul", ["column", "row"], "huge", {}),
        s=[1, 2**25],
        column=np.ones((256, 1), "float32"),
    ),
    "many": asking(
        *[("ConstantOfShape", ["s"], part, {}) for part in PARTS], ("Concat", PARTS, "huge", {"axis": 0}), s=[2**26]
    ),
    "images": asking(("Relu", ["images"], "huge", {}), shape=("batch", 2**16, 2**15, 4)),
}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit")
@pytest.mark.parametrize("name", ASKING)
def test_a_small_file_that_asks_for_all_the_memory_there_is(written, name):
    path = written(ASKING[name])
    assert path.stat().st_size < 20_000
    with pytest.raises(ResourceError, match="needs more memory than it may take") as caught:
        quick(path, processes=1)
    assert caught.value.where == str(path) and "`max_memory_gib`" in caught.value.next_step


def test_memory_is_limited_by_what_a_file_can_need_and_what_there_is(written, monkeypatch):
    monkeypatch.setattr(benchmark.memory, "available_bytes", lambda: 10**12)
    assert benchmark.memory_for(100 * 2**20, 600_000, 2) > 2**30 + 1600 * 2**20 + 600 * 2**20
    monkeypatch.setattr(benchmark.memory, "available_bytes", lambda: 2**30)
    assert benchmark.memory_for(100 * 2**20, 600_000, 2) == 2**29 == benchmark.most_memory()
    path = written(one_node_model())
    assert benchmark.OnnxFile(path).launch(1, 1, benchmark.CPU).memory_bytes == 2**29
    assert benchmark.OnnxFile(path).launch(1, 1, ("CUDAExecutionProvider", *benchmark.CPU)).memory_bytes is None
    monkeypatch.setattr(benchmark.memory, "available_bytes", lambda: None)
    assert benchmark.memory_for(0, 0, 1) > 2**30 and benchmark.most_memory() is None


def test_an_honest_network_takes_a_small_part_of_what_it_may(written):
    """Nine convolutions of 64 channels on 64×64 pixels: a megabyte of weights, and a megabyte for each state."""
    kernels = np.ones((8, 64, 64, 3, 3), "float32")
    names = ["x", *(f"s{number}" for number in range(7)), "huge"]
    nodes = [
        ("Conv", [a, f"k{number}"], b, {"pads": [1, 1, 1, 1]}) for number, (a, b) in enumerate(zip(names, names[1:]))
    ]
    first = ("Conv", ["images", "first"], "x", {"pads": [1, 1, 1, 1]})
    tensors = {f"k{number}": kernel for number, kernel in enumerate(kernels)} | {"first": kernels[0, :, :3]}
    path = written(asking(first, *nodes, shape=("batch", 3, 64, 64), **tensors))
    for batch_size in (1, 32):
        launch = benchmark.OnnxFile(path).launch(batch_size, 1, benchmark.CPU)
        took = quick(path, batch_size=batch_size, processes=2)["peak_memory_mib"] * 2**20
        assert 4 * took < launch.memory_bytes


def test_no_file(tmp_path):
    with pytest.raises(UsageError):
        quick(tmp_path / "absent.onnx")
    with pytest.raises(UsageError):
        quick(tmp_path)
