"""What compiles for minutes says that it goes on, by a clock of the test's own; XLA's alarms stay off the terminal."""

import os
import subprocess
import sys

import pytest

from sharpkeras_cli.heartbeat import Heartbeat
from sharpkeras_cli.progress import LONG, ConsoleProgress
from sharpkeras_cli.quiet import Filter


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def looked_at(heartbeat, clock, *times):
    for clock.now in times:
        heartbeat.look()


def test_it_beats_after_ten_and_thirty_seconds_and_then_each_minute(clock):
    beats = []
    heartbeat = Heartbeat(lambda stage, seconds: beats.append((stage, seconds)), clock=clock)
    heartbeat.begin("compiling")
    looked_at(heartbeat, clock, *range(0, 200))
    heartbeat.end()
    assert beats == [("compiling", second) for second in (10, 30, 60, 120, 180)]


def test_a_beat_that_came_late_does_not_come_twice(clock):
    """A compiler that holds everything up for 45 s, and again until 130 s."""
    beats = []
    heartbeat = Heartbeat(lambda stage, seconds: beats.append(seconds), clock=clock)
    heartbeat.begin("compiling")
    looked_at(heartbeat, clock, 45, 46, 59, 130, 131, 179, 180)
    heartbeat.end()
    assert beats == [45, 130, 180]


def test_another_stage_counts_anew_and_after_the_end_nothing_is_said(clock):
    beats = []
    heartbeat = Heartbeat(lambda stage, seconds: beats.append((stage, seconds)), clock=clock)
    heartbeat.begin("tracing")
    looked_at(heartbeat, clock, 9)
    heartbeat.begin("compiling")
    looked_at(heartbeat, clock, 12, 18, 19, 20)
    heartbeat.end()
    looked_at(heartbeat, clock, 100)
    assert beats == [("compiling", 10)]


def test_it_looks_at_the_clock_by_itself_and_its_thread_ends():
    """After a second, by a clock that is then a minute further."""
    import itertools
    import threading

    said = threading.Event()
    heartbeat = Heartbeat(lambda stage, seconds: said.set(), clock=itertools.count(step=60).__next__)
    heartbeat.begin("compiling")
    thread = heartbeat._thread
    assert said.wait(60)
    heartbeat.end()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize(("backend", "words"), [("jax", "--backend tensorflow"), ("tensorflow", "traces the step")])
def test_the_first_beat_says_how_long_it_may_take_and_what_makes_it_shorter(backend, words, clock, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with ConsoleProgress("search") as progress:
        progress._heartbeat._clock = clock
        progress.begin(3, 0)
        progress.stage("compiling the step as a whole")
        looked_at(progress._heartbeat, clock, 5, 10, 30, 90)
        progress.first_step(95.0)
        looked_at(progress._heartbeat, clock, 500)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == f"search: {LONG[backend]}" and "--num-cells" in lines[1] and words in lines[1]
    told = [f"search: compiling the step as a whole, for {time} already" for time in ("0:10", "0:30", "1:30")]
    assert lines[2:] == [*told, "search: first step done after 95.0 s"]


# --- XLA's alarms, as JAX 0.10 writes them ---

FOLDING = b"""\
E1130 15:23:26.763774   17840 slow_operation_alarm.cc:73] Constant folding an instruction is taking > 1s:

  %reduce_window_sum.7 = f32[3000,3000]{1,0} reduce-window(%broadcast_in_dim.1, %constant.2), to_apply=%region_0.1

This isn't necessarily a bug; constant-folding is inherently a trade-off between compilation time and speed at runtime.

If you'd like to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
"""
FOLDED = b"""\
E1130 15:23:32.1   17840 slow_operation_alarm.cc:140] The operation took 6.31s
Constant folding an instruction is taking > 1s:

  %reduce_window_sum.7 = f32[3000,3000]{1,0} reduce-window(%broadcast_in_dim.1, %constant.2), to_apply=%region_0.1

This isn't necessarily a bug; constant-folding is inherently a trade-off between compilation time and speed at runtime.

If you'd like to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
"""
SLOW = b"""\
2026-11-30 15:23:26.763774: E external/xla/xla/service/slow_operation_alarm.cc:73]
********************************
[Compiling module jit_step] Very slow compile? If you want to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/foo
********************************
"""
OURS = b"Error: the disk is full\n\n  %d of them\n"  # what is no alarm passes, blank lines too


@pytest.mark.parametrize("alarm", [FOLDING, FOLDED, SLOW, FOLDING + FOLDED + SLOW])
def test_an_alarm_is_swallowed_whole_and_nothing_else(alarm):
    kept = Filter()
    lines = (OURS + alarm + OURS).splitlines(keepends=True)
    assert b"".join(line for line in lines if kept.shows(line)) == OURS + OURS


def test_what_follows_an_alarm_at_once_is_seen():
    kept = Filter()
    assert [kept.shows(line) for line in (*SLOW.splitlines(), b"Segmentation fault")] == [False] * 4 + [True]


ALARMED = """
import os, sys
from sharpkeras_cli import quiet
quiet.silence_native_logs()
os.write(2, open(sys.argv[1], "rb").read())
sys.stderr.write("said by Python\\n")  # in one piece, as click.echo does
import time; time.sleep(0.5)
"""


def test_an_alarm_of_native_code_does_not_reach_the_terminal(tmp_path):
    (tmp_path / "alarm.txt").write_bytes(FOLDING + b"glibc: corrupted\n")
    done = subprocess.run([sys.executable, "-c", ALARMED, tmp_path / "alarm.txt"], capture_output=True, text=True)
    assert sorted(done.stderr.splitlines()) == ["glibc: corrupted", "said by Python"]


ON_JAX = """
import sys
from sharpkeras_cli import heartbeat
heartbeat.FIRST_S = (0.0, 1e9)
heartbeat.EVERY_S = 0.01
from sharpkeras_cli.main import main
main("search --smoke --backend jax --num-nodes 1 --num-cells 1 --space skip_connect,sep_conv_3x3 --out run".split())
"""


def test_jax_says_what_it_is_at(tmp_path):
    """Each stage is told of at once here, since the test does not wait for ten seconds."""
    pytest.importorskip("jax")
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    said = ["search: tracing and compiling the step …", LONG["jax"], "tracing the step, for", "compiling the step as a"]
    for part in said:
        assert part in done.stderr, f"{part} is missing in {done.stderr}"
    assert "jax on cpu:0, float32" in done.stderr and "slow_operation_alarm" not in done.stderr
