"""Networks that take turns: who runs when, and that a process which dies is an error and not a wait."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.fake_engine import MEDIAN, Fake

from sharpkeras.errors import ConfigError, ResourceError, VerificationError
from sharpkeras.measure import machine
from sharpkeras.measure.latency import interleaving
from sharpkeras.measure.latency.benchmark import benchmark, distinct


def quick(*fakes, **arguments):
    return benchmark(fakes, **{"threads": 1, "runs": 90, "warmup_s": 0, "processes": 3} | arguments)


def launches(*fakes):
    return [fake.launch(1, 1, ()) for fake in fakes]


@pytest.mark.parametrize(("runs", "blocks"), [(1, [1]), (9, [9]), (10, [10]), (29, [15, 14]), (100, [10] * 10)])
def test_blocks_are_of_about_ten_runs(runs, blocks):
    assert interleaving.blocks_of(runs) == blocks


def test_a_long_measurement_has_larger_blocks_not_more():
    assert interleaving.blocks_of(10**6) == [20_000] * 50


def test_one_runs_at_a_time_in_turns_that_a_seed_shuffles(tmp_path):
    log = tmp_path / "log"
    names = ["a", "b", "c"]
    interleaving.take_turns(
        launches(*[Fake(name, log=str(log)) for name in names]), runs=62, processes=3, warmup_s=0, seed=3
    )
    generator, expected = np.random.default_rng(3), []
    for blocks in ([11, 10], [11, 10], [10, 10]):
        for name in names:  # a fresh process each, warmed up with one run before the next is opened
            expected += [f"{name} opened", f"{name} run"]
        for runs in blocks:
            for index in generator.permutation(3):
                expected += [f"{names[index]} run"] * (1 + runs)  # the first is not timed
    assert log.read_text().splitlines() == expected


def test_the_order_is_not_always_the_same():
    orders = {tuple(np.random.default_rng(seed).permutation(2)) for seed in range(10)}
    assert orders == {(0, 1), (1, 0)}


def test_every_run_that_was_asked_for_is_timed():
    for processes in interleaving.take_turns(launches(Fake("a"), Fake("b")), runs=62, processes=3, warmup_s=0):
        assert [[len(block) for block in process.blocks] for process in processes] == [[11, 10], [11, 10], [10, 10]]


def test_known_times_are_reported_and_told_apart():
    report = quick(Fake("a", seed=1), Fake("b", seed=2), Fake("c", seed=3, scale=1.2), runs=300)
    assert json.loads(json.dumps(report)) == report
    scales = [1, 1, 1.2]
    for model, scale in zip(report["models"], scales, strict=True):
        assert model["p50_ms"] == pytest.approx(scale * MEDIAN, rel=0.1)
        low, high = model["p50_interval_ms"]
        assert low <= model["p50_ms"] <= high < 1.5 * low
        assert model["warmup_runs"] == [1, 1, 1] and model["peak_memory_mib"] > 5
    assert [(pair["model"], pair["to"]) for pair in report["comparisons"]] == [("b", "a"), ("c", "a")]
    assert report["comparisons"][1]["verdict"] == "slower"
    assert report["comparisons"][0]["ratio"] == pytest.approx(1, rel=0.1)


def test_two_repeats_agree():
    first, second = (quick(Fake("a", seed=seed), runs=300)["models"][0] for seed in (1, 2))
    assert second["p50_ms"] == pytest.approx(first["p50_ms"], rel=0.1)
    assert second["p90_ms"] == pytest.approx(first["p90_ms"], rel=0.1)


def test_a_stall_shows_in_the_tail():
    (model,) = quick(Fake("a", stall_ms=50))["models"]
    assert model["p50_ms"] < 2 * MEDIAN and model["p90_ms"] > 50 and model["max_ms"] > 50


def test_batch_sizes_are_measured_one_after_the_other():
    report = quick(Fake("a"), Fake("b"), batch_sizes=(1, 8), runs=9)
    assert [(model["name"], model["batch_size"]) for model in report["models"]] == [
        ("a", 1),
        ("b", 1),
        ("a", 8),
        ("b", 8),
    ]
    assert [pair["batch_size"] for pair in report["comparisons"]] == [1, 8]
    model = report["models"][2]
    assert model["images_per_second"] == pytest.approx(8000 / model["mean_ms"])


def test_a_model_beside_itself_has_a_name_of_its_own():
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


# ---- processes that die ----


@pytest.mark.parametrize(
    ("die", "seen"),
    [(0, "it cannot be opened"), (1, "the engine broke"), (2, "the engine broke"), (15, "the engine broke")],
)
def test_a_process_that_dies_is_an_error(die, seen):
    with pytest.raises(ConfigError, match="The fake engine could not run the model") as caught:
        quick(Fake("a"), Fake("b", die=die))
    assert (caught.value.where, caught.value.seen) == ("b", seen)


def test_a_process_that_dies_before_it_is_told_anything():
    (launch,) = launches(Fake("a"))
    with interleaving.Worker(launch, 0) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(ConfigError, match="could not run") as caught:
            worker.time(3)
    assert "ended by SIGKILL" in caught.value.seen


@pytest.mark.parametrize("hang", [1, 3])  # the warm-up, and a turn
def test_a_process_that_hangs_is_an_error(hang):
    with pytest.raises(ResourceError, match="The fake engine gave no answer within 3 s") as caught:
        quick(Fake("a"), Fake("b", hang=hang), timeout_s=3)
    assert caught.value.where == "b" and "`timeout_s`" in caught.value.next_step


def test_each_turn_is_told():
    told = []
    quick(Fake("a"), Fake("b"), runs=62, batch_sizes=(1, 2), progress=lambda *turn: told.append(turn))
    assert told == [(done, 12) for done in range(1, 13)] * 2  # two networks, three rounds of two blocks


def test_no_process_is_left_behind(monkeypatch):
    started = []

    def start(*arguments, **options):
        started.append(original(*arguments, **options))
        return started[-1]

    original = subprocess.Popen
    monkeypatch.setattr(interleaving.subprocess, "Popen", start)
    with pytest.raises(ConfigError):
        quick(Fake("a"), Fake("b", die=3))
    quick(Fake("a"), runs=3)
    assert len(started) == 5 and all(process.poll() is not None for process in started)


def test_a_worker_ends_with_the_process_that_started_it():
    """Its stdin ends then."""
    (launch,) = launches(Fake("a"))
    command = [*launch.command, json.dumps(launch.request | {"warmup_s": 0})]
    environment = launch.environment | {"PATH": "/usr/bin"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    opened, ended = map(json.loads, done.stdout.splitlines())
    assert opened["warmup_runs"] == 1 and ended["peak_memory_bytes"] > 2**20
    assert "a library that prints" in done.stderr


PARENT = """
import ctypes, sys
from support.fake_engine import Fake
from sharpkeras.measure.latency import interleaving
interleaving.take_turns([Fake(*sys.argv[1:2], log=sys.argv[2], hang=2).launch(1, 1, ())], runs=9, warmup_s=0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_hangs_ends_with_a_parent_that_was_killed(tmp_path):
    """It is in a run that never ends, where it does not read that its stdin has ended."""
    name, log = str(tmp_path / "engine"), tmp_path / "log"  # the name tells it among the processes
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, name, str(log)], env=environment)
    assert _in_time(lambda: log.exists() and log.read_text().count("run") == 2)
    (worker,) = set(_named(name)) - {parent.pid}
    parent.kill()
    parent.wait()
    assert _in_time(lambda: worker not in _named(name))


@pytest.mark.parametrize("told", [True, False])
def test_a_process_whose_parent_has_ended_before_it_could_ask(tmp_path, told):
    """Here the parent it is told of is another one; without Linux's word for it, it looks by itself."""
    code = "from sharpkeras.measure.latency import worker\nworker.end_with(1)\nprint('goes on')"
    code = code if told else f"import ctypes\nctypes.CDLL = lambda _: None\n{code}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


LOOKS = """
import ctypes, os, sys, time
from sharpkeras.measure.latency import worker
ctypes.CDLL = lambda _: None
worker.LOOKS_S = 0.01
worker.end_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_where_the_system_does_not_tell_a_worker_looks_for_its_parent():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    starts = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {LOOKS!r}])\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _in_time(lambda: not _alive(worker))


def _in_time(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def _alive(process):
    """Whether a process is there and has not ended; one that nobody has waited for yet is there as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _named(name):
    """The processes with a word on their command line that holds `name`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if name in (entry / "cmdline").read_text() and _alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue
    return found


# ---- memory ----


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit")
@pytest.mark.parametrize("at", [0, 1, 2])  # while it is opened, warmed up, and in a turn
def test_more_memory_than_it_may_take_is_an_error_and_not_taken(at):
    with pytest.raises(ResourceError, match="The fake engine needs more memory than it may take") as caught:
        quick(Fake("a"), Fake("b", memory_mib=800, at=at), memory_bytes=2**29)
    assert caught.value.where == "b" and caught.value.allowed == "0.5 GiB"
    assert "`max_memory_gib`" in caught.value.next_step and "800" in caught.value.seen
    quick(Fake("b", memory_mib=300, at=at), runs=3, memory_bytes=2**29)


def test_words_of_cpp_are_want_of_memory_too():
    said = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
    with pytest.raises(ResourceError, match="more memory"):
        quick(Fake("a", die=2, said=said))


def test_a_process_that_writes_much_to_stderr_does_not_block():
    assert quick(Fake("a", noisy=True), runs=9)["models"][0]["p50_ms"] > 0


def test_a_provider_that_was_not_used_is_refused_before_the_first_run(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(VerificationError, match="The fake engine did not use Another"):
        quick(Fake("a", providers=("Another",), log=str(log)))
    assert log.read_text().splitlines().count("a run") == 1  # the warm-up


# ---- ONNX Runtime ----


def test_an_idle_session_does_not_spin(tmp_path):
    """A session whose threads spun on would take the cores of the network whose turn it is."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from sharpkeras.measure.latency.benchmark import OnnxFile

    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.ones((512, 512), "float32"), "weights")
    node = onnx.helper.make_node("MatMul", ["images", "weights"], ["logits"])
    ends = [value("images", kind, ("batch", 512))], [value("logits", kind, ("batch", 512))]
    graph = onnx.helper.make_graph([node], "g", *ends, [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    def ticks(process):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # user and system time, in hundredths of a second

    if sys.platform != "linux" or machine.available_cores() < 2:
        pytest.skip("needs /proc and two cores")
    idle = 0
    with interleaving.Worker(OnnxFile(path).launch(64, 2, ("CPUExecutionProvider",)), 0) as worker:
        for _ in range(20):
            worker.time(1)
            before = ticks(worker._process)
            time.sleep(0.05)
            idle += ticks(worker._process) - before
    assert idle < 20  # a fifth of the second; spinning takes four fifths
