"""oneDNN, the library of fast kernels that TensorFlow has for x86 processors."""

import os
import platform

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
ON = "1"


def switch_on() -> None:
    """Let TensorFlow use oneDNN on any x86 processor, unless the user has set its switch; before it is imported.

    Left to itself, TensorFlow uses it on processors with AVX512-VNNI and later alone: without, a search on a processor
    with AVX2 takes twice as long. `layers.convolve` keeps clear of what crashes in it.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault(SWITCH, ON)
