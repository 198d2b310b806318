"""The steps of PyTorch that ours are measured beside: the same losses and gradients, where PyTorch is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
SIZES = {
    "search_step.py": ["--primitives", "darts", "--weighting", "max_w", "--init-channels", "2", "--num-cells", "3"],
    "train_step.py": ["--init-channels", "4", "--num-cells", "3"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SIZES)
def test_a_peer_computes_the_same(script):
    options = [
        "--peers",
        "torch",
        "--torch-threads",
        "1",
        "--precision",
        "float64",
        "--batch-size",
        "4",
        "--steps",
        "1",
    ]
    command = [sys.executable, f"benchmarks/{script}", *SIZES[script], *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, peer = json.loads(done.stdout)["forms"].values()
    assert peer["first_train_loss"] == pytest.approx(ours["first_train_loss"], abs=1e-9)
    # Not less: the settings of our optimizers are float32 also where the weights are float64.
    assert peer["gradient_difference"] < 1e-6
    assert peer.get("alpha_gradient_difference", 0) < 1e-6
