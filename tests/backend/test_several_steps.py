"""Several steps in one compiled call: the numbers of single steps, on JAX; refused elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sharpkeras.engine.epochs import _calls
from sharpkeras.engine.training_state import DivergenceError, TrainingState

SCRIPT = Path(__file__).parents[1] / "support" / "several_steps.py"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "numbers.npz"
    xla = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": xla, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, SCRIPT, out], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(np.load(out, allow_pickle=False))


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
def test_several_steps_in_one_call_are_single_steps(numbers, policy, tolerance):
    names = [name for name in numbers if name.startswith(f"{policy}/single/")]
    assert names
    for name in names:
        single, several = numbers[name], numbers[name.replace("/single/", "/several/")]
        assert single.shape == several.shape, name
        assert np.abs(single - several).max(initial=0) <= tolerance * max(1.0, np.abs(single).max(initial=0)), name
    moved = [name for name in names if "/variable/" in name]
    assert any(np.any(numbers[name] != numbers[name.replace("/single/", "/begin/")]) for name in moved)


def test_nan_within_a_call_is_found_in_its_step(numbers):
    prefix, state = "float32/nan/log/", TrainingState()
    state.add_step({name.removeprefix(prefix): logs for name, logs in numbers.items() if name.startswith(prefix)})
    with pytest.raises(DivergenceError) as caught:
        state.wait_for_steps()
    assert caught.value.step == 1 and state.step == 1 and "train_loss" in caught.value.not_finite


def test_batches_that_fill_no_call_come_one_by_one():
    assert list(_calls(range(8), 3)) == [[0, 1, 2], [3, 4, 5], [6], [7]]
    assert list(_calls(range(2), 1)) == [[0], [1]]


def test_tensorflow_refuses_several_steps_in_a_call(tmp_path):
    keras = pytest.importorskip("keras")
    from sharpkeras.errors import ConfigError, UsageError
    from sharpkeras.experiment.run_options import RunOptions

    with pytest.raises(UsageError, match="at least"):
        RunOptions(steps_per_call=0).reserve(tmp_path / "run", "search", {})
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ConfigError, match="for JAX"):
            RunOptions(steps_per_call=2).reserve(tmp_path / "run", "search", {})
    assert not (tmp_path / "run").exists()
