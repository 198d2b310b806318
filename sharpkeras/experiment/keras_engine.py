"""A trained network in Keras itself, on TensorFlow or JAX, as a contender of `measure.latency.benchmark`.

`python -m sharpkeras.experiment.keras_engine '<request>'` is the process that is timed; see `measure.latency.worker`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from sharpkeras import user_modules
from sharpkeras.engine.step_model import backend_step
from sharpkeras.experiment import weights
from sharpkeras.experiment.paper_tables import trained_network
from sharpkeras.io import atomic_writes
from sharpkeras.io.hashes import sha256
from sharpkeras.measure.latency.benchmark import CPU, most_memory, too_many_threads
from sharpkeras.measure.latency.interleaving import Launch
from sharpkeras.measure.latency.worker import noise, serve, timed
from sharpkeras.runs import RunDirectory, contents, files

ENGINES = {"tensorflow": "TensorFlow", "jax": "JAX"}


@dataclass(frozen=True)
class KerasRun:
    """The network that `export` would export, compiled by a backend of Keras (`tf.function`, `jax.jit`), in float32.

    Args:
        backend: "tensorflow" or "jax".
        path: a training run.
    """

    backend: str
    path: str | Path

    @property
    def name(self) -> str:
        """Backend and path, as messages and tables name the engine: "jax:runs/train"."""
        return f"{self.backend}:{self.path}"

    def launch(self, batch_size: int, threads: int, providers: Sequence[str]) -> Launch:
        """Description of the process that times the network.

        A GPU has to be used where `providers` has more than ONNX Runtime's CPU.

        Raises:
            RunError: no such run, or it has not ended, or its weights are damaged or not finite.
        """
        run, on_cpu = RunDirectory.read(self.path, "train"), tuple(providers) == CPU
        weights.of_run(run)
        shape = [batch_size, *contents.data(run)["shape"]]
        content = run.read_bytes(files.WEIGHTS, atomic_writes.LARGEST_ARRAYS)
        facts = {"file": self.name, "bytes": len(content), "sha256": sha256(content), "input_shape": shape}
        return Launch(
            where=self.name,
            engine=f"Keras on {ENGINES[self.backend]}",
            command=(sys.executable, "-m", "sharpkeras.experiment.keras_engine"),
            request={"path": str(Path(self.path).resolve()), "shape": shape, "threads": threads},
            providers=("CPU",) if on_cpu else ("GPU",),
            environment=_environment(self.backend, threads, on_cpu),
            facts=facts,
            memory_bytes=most_memory() if on_cpu else None,
            warnings=(*too_many_threads(threads), *_thread_warnings(self.backend, threads)),
        )


def _environment(backend: str, threads: int, on_cpu: bool) -> dict[str, str]:
    """Variables that are read when a backend is imported; operators run one at a time, as in ONNX Runtime."""
    variables = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
    }
    return variables | ({"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"} if on_cpu else {})


def _thread_warnings(backend: str, threads: int) -> tuple[str, ...]:
    """What the threads of a backend cannot be, or are only by other means."""
    if backend != "jax":
        return ()
    if not hasattr(os, "sched_setaffinity"):
        return (f"JAX takes as many threads as it wants: there is no way here to keep it to {threads}",)
    cores = _cores_for(threads)
    if len(cores) == len(os.sched_getaffinity(0)):
        return ()
    return (f"JAX has no number of threads: it is kept to {threads} by running on core {', '.join(map(str, cores))}",)


def _cores_for(threads: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))[:threads]


def open_keras(
    path: str | os.PathLike[str], shape: Sequence[int], threads: int
) -> tuple[Callable[[], int], dict[str, Any]]:
    """The network of a training run in the present backend, for `measure.latency.worker.serve`.

    Arrays of NumPy go in and come out. The facts are `providers` ("CPU" or "GPU", which was used), `available` and
    `versions`.
    """
    backend = keras.backend.backend()
    if backend == "jax" and hasattr(os, "sched_setaffinity"):  # before its first operation, which starts its threads
        os.sched_setaffinity(0, _cores_for(threads))
    infer, device = backend_step().inference(trained_network(path)[0].inference_model())
    images = noise(shape, "float32")
    infer(images)  # compiles, which is no part of the warm-up
    used, versions = [device(images)], {name: sys.modules[name].__version__ for name in ("keras", backend)}
    return timed(lambda: infer(images)), {"providers": used, "available": used, "versions": versions}


if __name__ == "__main__":
    user_modules.import_all(user_modules.named())
    serve(open_keras)
