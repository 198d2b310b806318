"""A trained network in Keras as a contender: the same network, the threads that were asked for, and clear errors."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support.command_line import sharpkeras

from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import ConfigError, RunError
from sharpkeras.experiment import keras_engine
from sharpkeras.experiment.paper_tables import trained_network
from sharpkeras.measure import machine
from sharpkeras.measure.latency import interleaving
from sharpkeras.measure.latency.benchmark import CPU

pytest.importorskip("onnxruntime")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the runs are made with an export")


pytestmark = pytest.mark.usefixtures("two_processes")


@pytest.fixture
def place(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def test_inference_is_the_network(seeded):
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(5)])
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 3), dtype="float32")
    infer, device = backend_step().inference(model)
    logits = infer(images)
    assert isinstance(logits, np.ndarray) and logits.dtype == np.float32
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert device(images) == "CPU"


@on_tensorflow
def test_it_is_the_network_that_is_exported(place):
    import onnxruntime

    network = trained_network("train")[0].inference_model()
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 1), dtype="float32")
    (expected,) = onnxruntime.InferenceSession("model.onnx").run(None, {"images": images})
    np.testing.assert_allclose(backend_step().inference(network)[0](images), expected, atol=1e-4)


@on_tensorflow
@pytest.mark.slow
def test_onnx_runtime_beside_both_backends(place):
    flags = ("--threads", 1, "--runs", 6, "--batch-size", 2)
    result = sharpkeras("benchmark", "model.onnx", "tensorflow:train", "jax:train", *flags, "--json")
    assert result.code == 0, result.err
    onnx, tensorflow, jax = result.json["models"]
    assert [row["name"] for row in (onnx, tensorflow, jax)] == ["model.onnx", "tensorflow:train", "jax:train"]
    assert (tensorflow["engine"], jax["engine"]) == ("Keras on TensorFlow", "Keras on JAX")
    assert "tensorflow" in tensorflow["versions"] and "jax" in jax["versions"]
    for row in (tensorflow, jax):
        assert row["providers"] == ["CPU"] and row["input_shape"] == onnx["input_shape"] == [2, 8, 8, 1]
        assert row["bytes"] == Path("train/weights.safetensors").stat().st_size and row["p50_ms"] > 0
    assert len(result.json["comparisons"]) == 2
    if machine.available_cores() > 1:
        assert "kept to 1 by running on core" in jax["warnings"][0] and not tensorflow["warnings"]


@on_tensorflow
def test_a_peer_gets_the_threads_that_were_asked_for(place, monkeypatch):
    launch = keras_engine.KerasRun("tensorflow", "train").launch(1, 3, CPU)
    assert launch.environment["TF_NUM_INTRAOP_THREADS"] == "3"
    assert launch.environment["TF_NUM_INTEROP_THREADS"] == "1"
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "" and launch.providers == ("CPU",)
    launch = keras_engine.KerasRun("jax", "train").launch(1, len(os.sched_getaffinity(0)), CPU)
    assert launch.environment["KERAS_BACKEND"] == "jax" and launch.warnings == ()
    monkeypatch.delattr(os, "sched_setaffinity")
    (warning,) = keras_engine.KerasRun("jax", "train").launch(1, 1, CPU).warnings
    assert "no way here to keep it to 1" in warning


@on_tensorflow
def test_a_gpu_that_is_asked_for_has_to_be_used(place):
    launch = keras_engine.KerasRun("jax", "train").launch(1, 1, ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert launch.providers == ("GPU",) and "CUDA_VISIBLE_DEVICES" not in launch.environment


THREADS = """
import os, sys
from sharpkeras.experiment import keras_engine
one_run, _ = keras_engine.open_keras(sys.argv[1], [1, 8, 8, 1], 1)
one_run()
own = os.getpid()
names = {task: open(f"/proc/{own}/task/{task}/comm").read().strip() for task in os.listdir(f"/proc/{own}/task")}
print([len(os.sched_getaffinity(int(task))) for task, name in names.items() if "XLAEigen" in name])
"""


@on_tensorflow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_threads_of_jax_are_kept_to_as_many_cores(place):
    launch = keras_engine.KerasRun("jax", "train").launch(1, 1, CPU)
    command = [sys.executable, "-c", THREADS, launch.request["path"]]
    done = subprocess.run(command, env=os.environ | launch.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1]


# ---- what goes wrong ----


@pytest.mark.parametrize("arguments", [["jax:nothing"], ["tensorflow:search"], ["model.onnx", "jax:nothing"]])
@on_tensorflow
def test_a_run_that_is_no_training_is_refused_before_the_start(place, arguments):
    result = sharpkeras("benchmark", *arguments)
    assert result.code == RunError.exit_code and arguments[-1].partition(":")[2] in result.err


@on_tensorflow
@pytest.mark.slow
def test_what_the_process_refuses_is_told_in_one_line(place):
    launch = keras_engine.KerasRun("tensorflow", "train").launch(1, 1, CPU)
    with pytest.raises(ConfigError, match="Keras on TensorFlow could not run the model") as caught:
        interleaving.Worker(dataclasses.replace(launch, request=launch.request | {"path": "search"}), 0)
    assert "holds no train run" in caught.value.seen or "is no run directory" in caught.value.seen


def test_another_word_before_a_colon_is_a_file():
    result = sharpkeras("benchmark", "torch:runs/x")
    assert result.code == 2 and "no such file" in result.err
