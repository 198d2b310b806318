"""Options of a run beside its recipe, and the conditions on which the last bits of its results depend."""

import os
from dataclasses import dataclass
from typing import Any

import keras

from sharpkeras.backend import onednn
from sharpkeras.engine.checkpointing import CHECKPOINT_S
from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import ConfigError, UsageError
from sharpkeras.experiment import job
from sharpkeras.measure.machine import available_cores, cores_by_affinity, device_name
from sharpkeras.runs import RunDirectory

# Variables that choose other kernels, another number of threads or other roundings. Those of TensorFlow's threads are
# in `backend.tensorflow.conditions`: what a program has set goes before them.
ENVIRONMENT = (
    *("XLA_FLAGS", "TF_XLA_FLAGS", "LIBTPU_INIT_ARGS"),
    *("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("TF_SET_ONEDNN_FPMATH_MODE", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"),
    *("TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "TF_CUDNN_USE_AUTOTUNE", "TF_CUDNN_USE_FRONTEND"),
    *("TF_USE_CUBLASLT", "TF_CUBLAS_WORKSPACE_IN_MB", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("TF_ENABLE_CUBLAS_TENSOR_OP_MATH_FP32", "TF_ENABLE_CUDNN_TENSOR_OP_MATH_FP32"),
    *("TF_FP16_CONV_USE_FP32_COMPUTE", "TF_FP16_MATMUL_USE_FP32_COMPUTE", "TF_DISABLE_RZ_CHECK"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "GOTO_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("MKL_NUM_THREADS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES"),
    *("VECLIB_MAXIMUM_THREADS", "EIGEN_NUM_THREADS"),
)
# Of XLA: those that only write files, and the one that a deterministic run sets itself.
IDLE_FLAGS = ("--xla_dump", "--xla_gpu_deterministic_ops", "--xla_hlo_profile")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are no part of its recipe.

    Attributes:
        overwrite, must_exist, strict_resume: see `RunDirectory.reserve`.
        check_disk: see `epochs.refuse_full_disk`.
        check_memory: see `forecast.refuse_too_large`.
        checkpoint_s: seconds between two checkpoints; 0 is one after each step.
        deterministic: whether the backend is made to give the same bits again, where it would be faster without.
        remat: whether activations are computed again in the backward pass: less memory, more time.
        devices: number of devices that divide each batch, or "all"; None is one, and all of a job of several processes.
        coordinator: "HOST:PORT" of process 0, in each process of a job of several; see `job`.
        process_id, num_processes: which of them this is, from 0, and how many there are.
        steps_per_call: steps of the optimizers in one compiled call, on JAX; checkpoints and signals wait for its end.
    """

    overwrite: bool = False
    must_exist: bool = False
    strict_resume: bool = False
    check_disk: bool = True
    check_memory: bool = True
    checkpoint_s: float = CHECKPOINT_S
    deterministic: bool = False
    remat: bool = False
    devices: int | str | None = None
    coordinator: str | None = None
    process_id: int | None = None
    num_processes: int | None = None
    steps_per_call: int = 1

    @property
    def is_follower(self) -> bool:
        """Whether another process of this job writes the run directory."""
        return bool(self.process_id)

    def begin_job(self, batch_size: int) -> None:
        """Choose the devices, before anything is computed; see `job.begin`."""
        job.begin(self, batch_size)

    def reserve(self, out: str | os.PathLike[str], kind: str, settings: dict[str, Any]) -> RunDirectory:
        """The RunDirectory `out`, locked, with the conditions on which the last bits of its results depend.

        Raises:
            UsageError: `steps_per_call` is below 1.
            ConfigError: it is more than 1 on another backend than JAX.
        """
        several_steps = self._several_steps()
        if self.deterministic:
            backend_step().make_deterministic()
        conditions = {
            "deterministic": self.deterministic,
            "remat": self.remat,
            **several_steps,
            **_machine(),
            **_environment(),
        }
        conditions |= job.conditions(self.num_processes)
        choices = {"overwrite": self.overwrite, "must_exist": self.must_exist, "strict": self.strict_resume}

        def reserved(path: str | os.PathLike[str], **other: bool) -> RunDirectory:
            return RunDirectory.reserve(path, kind, settings, conditions=conditions, **choices | other)

        return reserved(out) if self.process_id is None else job.reserve_together(reserved, out, self.process_id)

    def _several_steps(self) -> dict[str, int]:
        """The condition that a run has with more than one step in a call; XLA may round otherwise in a loop."""
        if self.steps_per_call < 1:
            raise UsageError("a call does one step at least", where="`steps_per_call`", seen=self.steps_per_call)
        if self.steps_per_call == 1:
            return {}
        if (backend := keras.backend.backend()) != "jax":
            raise ConfigError(
                "several steps in one call are for JAX: TensorFlow's step runs by itself, outside of any loop",
                where="`steps_per_call`",
                seen=f"{self.steps_per_call} on {backend}",
                allowed="1",
                next_step=("KERAS_BACKEND=jax sharpkeras ...", "leave out `steps_per_call`"),
            )
        return {"steps_per_call": self.steps_per_call}


DEFAULT_OPTIONS = RunOptions()


def _machine() -> dict[str, Any]:
    """What the last bits depend on that a container of the same machine can have otherwise."""
    cores, allowed = cores_by_affinity(), available_cores()
    return {
        "processor": device_name(),
        "devices": ", ".join(keras.distribution.list_devices()),
        "cores": cores if allowed >= cores else f"{cores}, with a quota of {allowed}",
        **backend_step().conditions(),
    }


def _environment() -> dict[str, Any]:
    """The variables in ENVIRONMENT that are set."""
    found = {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    if found.get(onednn.SWITCH) == onednn.ON:  # as sharpkeras sets it; whether it is on is in `backend.tensorflow`
        del found[onednn.SWITCH]
    if "XLA_FLAGS" in found:
        flags = sorted({flag for flag in found["XLA_FLAGS"].split() if not flag.startswith(IDLE_FLAGS)})
        found["XLA_FLAGS"] = " ".join(flags)
    return {"environment": {name: value for name, value in found.items() if value}}
