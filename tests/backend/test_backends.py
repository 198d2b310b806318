"""TensorFlow and JAX compute the same, and JAX does so without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[1] / "support" / "backend_numbers.py"
# Compiling is most of the time here, and the numbers are few.
XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run(backend, out):
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": XLA, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, SCRIPT, out], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(np.load(out, allow_pickle=False))


def compare(both, prefix, tolerance):
    """max |difference| over the largest value, for every array whose name begins with `prefix`."""
    names = [name for name in both["tensorflow"] if name.startswith(prefix)]
    assert names and both["tensorflow"].keys() == both["jax"].keys()
    for name in names:
        ours, theirs = both["tensorflow"][name], both["jax"][name]
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= tolerance(ours), name


def test_tensorflow_and_jax_compute_the_same(tmp_path):
    # One test, since the numbers take most of a minute and processes of one test run share no fixture.
    both = {backend: run(backend, tmp_path / f"{backend}.npz") for backend in ("tensorflow", "jax")}
    compare(both, "primitive/", lambda values: 1e-5 * max(1.0, np.abs(values).max()))
    for index in range(3):
        compare(both, f"step/{index}/alphas", lambda alphas: 1e-5)
        compare(both, f"step/{index}/train_loss", lambda loss: 1e-4 * loss)
        compare(both, f"step/{index}/validation_loss", lambda loss: 1e-4 * loss)
    for backend in both:
        assert np.all(both[backend]["fit/moved"] > 1e-4)  # two steps of Adam at 3e-4
        assert np.isfinite(both[backend]["fit/train_loss"]).all()
    compare(both, "fit/", lambda values: 1e-4 * np.abs(values).max())
    compare(both, "autoaugment/", lambda levels: 0)


def test_the_search_cell_of_jax_equals_the_clear_one():
    # The cases of TensorFlow's test that have every kind of primitive; XLA takes some ten seconds for each clear cell.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": XLA, "PYTHONPATH": os.pathsep.join(sys.path)}
    tests = Path(__file__).parents[1] / "spaces" / "cell" / "test_supernet.py"
    cases = "fast_cell and 7 and (darts-darts or sharp-rest)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
