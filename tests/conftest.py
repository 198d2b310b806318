"""What all tests share: quiet frameworks, and random numbers that start from one seed in each test."""

import gc
import os
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.environ.get("KERAS_BACKEND") == "jax":
    # Tests compile much and compute little.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

os.environ.pop("COLUMNS", None)  # of whoever runs the tests, or of their several processes: tables would have its width

import numpy as np
import pytest

gc.set_threshold(100_000)  # as the command does: a twelfth of the time


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules:  # a test without it need not wait for it, and on JAX Keras would import it here
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def export_unmeasured():
    """Exports measure nothing, which would take seconds each, and get all rewrites: test_targets measures."""
    from sharpkeras.onnx_export import targets

    figures = {"ratio": 0.9, "interval": [0.85, 0.95], "verdict": "faster", "unstable": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "compare", lambda *_: figures)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A tiny search, the training of its network and its export, each by its command; for reading only."""
    from support.command_line import make_runs

    return make_runs(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def two_processes(monkeypatch):
    """A benchmark starts two of each network instead of five: for tests that are not about how wide intervals are."""
    from sharpkeras.measure.latency.benchmark import benchmark

    monkeypatch.setitem(benchmark.__kwdefaults__, "processes", 2)
