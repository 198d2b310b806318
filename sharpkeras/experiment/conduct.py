"""How a run is carried out, beside its recipe, and what the last bits of its results depend on."""

import contextlib
import platform
from dataclasses import dataclass
from pathlib import Path

import keras

from sharpkeras.keeping import CHECKPOINT_S
from sharpkeras.runs import RunDirectory
from sharpkeras.step import backend_step


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out: nothing in it is part of the recipe.

    Attributes:
        overwrite, must_exist, strict_resume: see `RunDirectory.reserve`.
        check_disk: see `loop.refuse_full_disk`.
        check_memory: see `forecast.refuse_too_large`.
        checkpoint_s: seconds between two checkpoints; 0 is one after each step.
        deterministic: whether the backend is made to give the same bits again, where it would be faster without.
        remat: whether activations are computed again in the backward pass: less memory, more time; see `remat`.
    """

    overwrite: bool = False
    must_exist: bool = False
    strict_resume: bool = False
    check_disk: bool = True
    check_memory: bool = True
    checkpoint_s: float = CHECKPOINT_S
    deterministic: bool = False
    remat: bool = False

    def reserve(self, out, kind, settings):
        """The RunDirectory `out`, locked, with what the last bits of its results depend on."""
        if self.deterministic:
            backend_step().make_deterministic()
        conditions = {"deterministic": self.deterministic, "remat": self.remat, "processor": _processor()}
        conditions["devices"] = ", ".join(keras.distribution.list_devices())
        return RunDirectory.reserve(
            out, kind, settings, self.overwrite, self.must_exist, conditions, self.strict_resume
        )


PLAIN = Conduct()


def _processor():
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
