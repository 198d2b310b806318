"""One job on two devices and in two processes; what is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support.tiny_recipes import SEARCH_RECIPE

from sharpkeras.errors import ConfigError, SharpKerasError, UsageError
from sharpkeras.experiment import job
from sharpkeras.experiment.run_options import RunOptions
from sharpkeras.io import atomic_writes
from sharpkeras.runs import RunDirectory

TESTS = Path(__file__).parents[1]
# Much to compile and little to compute.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
TWO = "--xla_force_host_platform_device_count=2"
pytest.importorskip("jax")


def started(place, name, *flags, killed_after=0, xla=TWO):
    """A process that searches into `place/name`."""
    environment = os.environ | {"XLA_FLAGS": f"{FLAGS} {xla}", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "support.two_devices", str(killed_after), name, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment, **pipes)


def ended(process, code=0):
    """What a process has said on stderr until its end."""
    _, said = process.communicate(timeout=200)
    assert process.returncode == code, said
    return said


def results(run):
    """Losses of all steps and the alphas at the end."""
    row = RunDirectory.read(run, "search").read_metrics()[-1]
    alphas = json.loads((run / "epochs" / "0000.json").read_text())["alphas"]
    return [row["train_loss"], row["validation_loss"], row["alpha_norm"]], np.concatenate([np.ravel(a) for a in alphas])


def final_arrays(run):
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return atomic_writes.unpack((newest / "arrays.safetensors").read_bytes())[0]


def assert_same_but_for_rounding(run, other):
    for ours, theirs in zip(results(run), results(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Searches by one device, by two, and by two processes with one each."""
    place = tmp_path_factory.mktemp("devices")
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    job_flags = ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id"]
    runs = [started(place, "one"), started(place, "two", "--devices", "2")]
    said = [ended(run) for run in runs]
    pair = [started(place, f"process-{number}", *job_flags, str(number), xla="") for number in (0, 1)]
    said += [ended(run) for run in pair]
    (place / "said.json").write_text(json.dumps(said))
    return place


def test_two_devices_give_the_losses_and_alphas_of_one(place):
    assert_same_but_for_rounding(place / "two", place / "one")
    said = json.loads((place / "said.json").read_text())
    assert "jax on cpu:0, cpu:1, which divide each batch" in said[1] and "which divide" not in said[0]


def test_two_processes_give_the_losses_and_alphas_of_one_and_one_of_them_writes(place):
    assert_same_but_for_rounding(place / "process-0", place / "one")
    assert not (place / "process-1").exists()


def test_a_killed_run_on_two_devices_goes_on_to_the_same_bits(place):
    ended(started(place, "killed", "--devices", "2", killed_after=2), code=-9)
    refused = ended(started(place, "killed", "--devices", "1", "--strict-resume"), code=5)
    assert "data_parallel 2 devices" in refused
    said = ended(started(place, "killed", "--devices", "2", "--strict-resume"))
    assert "goes on after epoch 0 of 1, step 2" in said
    expected, found = final_arrays(place / "two"), final_arrays(place / "killed")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not np.array_equal(expected[name], found[name])] == []


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--devices", "3"], 7, ["seen:    3", "1 to 2: cpu:0, cpu:1", "--devices all"]),
        (["--devices", "all", "--batch-size", "5"], 3, ["a multiple of 2, such as 6", "--batch-size"]),
    ],
)
def test_what_the_devices_cannot_do_is_refused_before_anything_is_built(tmp_path, flags, code, words):
    said = ended(started(tmp_path, "run", *flags), code=code)
    assert [word for word in words if word not in said] == [] and "building" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("devices", [0, -1, True, "two", 1.5])
def test_what_is_no_number_of_devices_is_refused(devices):
    with pytest.raises(UsageError, match="no number of devices"):
        job.checked_number(devices)


ADDRESS = {"coordinator": "localhost:1234", "process_id": 0, "num_processes": 2}


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"coordinator": None}, "`coordinator`"),
        ({"process_id": None, "num_processes": None}, "`process_id`, `num_processes`"),
        ({"coordinator": "localhost"}, "`coordinator`"),
        ({"coordinator": "localhost:99999"}, "`coordinator`"),
        ({"num_processes": 1}, "`num_processes`"),
        ({"process_id": 2}, "`process_id`"),
        ({"process_id": -1}, "`process_id`"),
        ({"devices": 2}, "`devices`"),
    ],
)
def test_a_job_of_processes_that_cannot_be_is_refused(changed, setting):
    with pytest.raises(UsageError) as caught:
        RunOptions(**ADDRESS | changed).begin_job(8)
    assert caught.value.where == setting


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("options", [{"devices": 2}, ADDRESS])
def test_tensorflow_is_refused_with_the_reason(options):
    with pytest.raises(ConfigError, match="does not work with TensorFlow's distribution strategies") as caught:
        RunOptions(**options).begin_job(8)
    assert "`backend=jax`" in caught.value.next_step
    RunOptions(devices=1).begin_job(8)


def test_a_forecast_is_made_by_one_process():
    from sharpkeras.experiment import forecast

    with pytest.raises(SharpKerasError, match="by one process"):
        forecast.forecast_search(SEARCH_RECIPE, RunOptions(**ADDRESS))
