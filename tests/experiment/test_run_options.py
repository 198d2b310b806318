"""What a run records of the process that computes it: all that a container of the same machine can have otherwise."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("keras")

import keras

from sharpkeras.errors import RunError
from sharpkeras.experiment import run_options
from sharpkeras.experiment.run_options import ENVIRONMENT, RunOptions
from sharpkeras.runs import directory


def conditions_of(place, **options):
    with RunOptions(**options).reserve(place, "search", {"seed": 0}) as run:
        run.begin()
    return json.loads((place / "run.json").read_text())["conditions"]


def test_what_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_dump_to=/secret --a --a")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    found = conditions_of(tmp_path / "run")
    assert found["cores"] == len(os.sched_getaffinity(0)) or "quota" in found["cores"]
    assert found["environment"]["XLA_FLAGS"] == "--a --xla_cpu_multi_thread_eigen=false"
    assert found["environment"]["NVIDIA_TF32_OVERRIDE"] == "0" and found["environment"]["OMP_NUM_THREADS"] == "1"
    assert "TF_CPP_MIN_LOG_LEVEL" not in found["environment"]  # decides what is said, and no bit
    of_backend = {
        "tensorflow": {"threads", "tensor_float_32"},
        "jax": {"matmul_precision", "64_bits", "random_numbers"},
    }
    assert found.keys() >= {"processor", "devices", "gpus", *of_backend[keras.backend.backend()]}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_each_variable_is_told_and_refused(tmp_path, monkeypatch, caplog, name):
    monkeypatch.delenv(name, raising=False)
    conditions_of(tmp_path / "run")
    monkeypatch.setenv(name, "7")
    with pytest.raises(RunError) as caught:
        conditions_of(tmp_path / "run", strict_resume=True)
    assert caught.value.seen == f"{name} unset -> 7" and caught.value.exit_code == 5
    conditions_of(tmp_path / "run")
    assert f"not bit-exact with the run's beginning: {name} unset -> 7" in caplog.text


def test_fewer_cores_are_told(tmp_path, monkeypatch):
    conditions_of(tmp_path / "run")
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(run_options, "cores_by_affinity", lambda: cores + 3)
    monkeypatch.setattr(run_options, "available_cores", lambda: cores + 3)
    with pytest.raises(RunError, match="not bit-exact") as caught:
        conditions_of(tmp_path / "run", strict_resume=True)
    assert f"cores {cores} -> {cores + 3}" in caught.value.seen
    monkeypatch.setattr(run_options, "available_cores", lambda: 1)
    with pytest.raises(RunError) as caught:
        conditions_of(tmp_path / "run", strict_resume=True)
    assert f"-> {cores + 3}, with a quota of 1" in caught.value.seen


THREADS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
if sys.argv[1:]:
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from sharpkeras.backend import tensorflow as backend
print(backend.conditions()["threads"])
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="threads of TensorFlow")
def test_threads_of_tensorflow_are_those_that_a_program_sets_or_the_environment():
    def threads(*arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TF_NUM_")}
        command = [sys.executable, "-c", THREADS, *arguments]
        return subprocess.run(command, env=clean | environment, capture_output=True, text=True).stdout.strip()

    assert threads() == "as many as cores in an operation, as many as cores for operations"
    assert threads("3", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="2") == "3 in an operation, 2 for operations"


def test_a_deterministic_run_of_jax_names_its_own_flag_nowhere(tmp_path, monkeypatch):
    """`make_deterministic` sets it in the environment before conditions are looked at, and again for a further run."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=true")
    assert "XLA_FLAGS" not in conditions_of(tmp_path / "run")["environment"]


def test_jaxlib_is_a_version_of_its_own():
    assert "jaxlib" in directory.RECORDED_PACKAGES  # XLA is in it
