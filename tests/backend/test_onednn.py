"""oneDNN is on, and every primitive has the same outputs and gradients with it and without."""

import os
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
from support.primitive_gradients import outputs_and_gradients

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="oneDNN serves TensorFlow on x86",
)


def test_every_primitive_agrees_with_onednn_on_and_off(tmp_path):
    from sharpkeras.backend.tensorflow import conditions

    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        pytest.skip("switched off from outside")
    assert conditions()["onednn"]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    file = tmp_path / "without.npz"
    subprocess.run([sys.executable, "-m", "support.primitive_gradients", file], env=environment, check=True)
    without, ours = np.load(file), outputs_and_gradients()
    assert not without["onednn"]
    assert len(ours) > 100
    for key, array in ours.items():
        assert np.abs(array - without[key]).max() <= 1e-4 * np.abs(without[key]).max() + 1e-6, key


@pytest.mark.parametrize("said, found", ((None, "1"), ("0", "0")), ids=("unset", "off"))
def test_the_switch_of_the_user_stays(said, found):
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": said} if said else {}
    program = "import os, sharpkeras; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == found
