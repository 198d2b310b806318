"""Which backend sees a GPU. Each is asked in a process of its own: one that is loaded keeps the memory of the GPU."""

import functools
import glob
import subprocess
import sys

DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # of NVIDIA and AMD, and of Windows' Linux
QUESTIONS = {
    "jax": "import jax; print(any(device.platform == 'gpu' for device in jax.devices()))",
    "tensorflow": "import tensorflow as tf; print(bool(tf.config.list_physical_devices('GPU')))",
}
LONGEST_ANSWER_S = 120


@functools.cache
def sees_gpu(backend: str) -> bool:
    """Whether "jax" or "tensorflow" can compute on a GPU of this machine; not asked where the system has none."""
    if not any(map(glob.glob, DEVICE_FILES)):
        return False
    command = [sys.executable, "-c", QUESTIONS[backend]]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.split()[-1:] == ["True"]


def suitable_backend() -> str:
    """ "jax" where it sees a GPU and TensorFlow does not, else "tensorflow"."""
    return "jax" if sees_gpu("jax") and not sees_gpu("tensorflow") else "tensorflow"
