"""Where the jobs of a sweep run: on this machine, on a Ray cluster, or as jobs of Slurm.

Each pool runs a job by `jobs.run` or `jobs.RunningJob` somewhere, and has the same four methods.
"""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sharpkeras.errors import ConfigError, ResourceError, UsageError
from sharpkeras.measure.machine import available_cores
from sharpkeras.sweeping import jobs
from sharpkeras.sweeping.jobs import Outcome, Start
from sharpkeras.sweeping.plan import Job

CORES_EACH = (
    4  # of a job on a CPU, where nobody says: a supernet is many small operations, which more cores hardly hasten
)
STOP_S = 120  # in which a job of Slurm has written its checkpoint before its time is up
MOST_REQUEUES = 100  # of a job of Slurm that is stopped again and again
EXTRAS = {"ray": "ray", "submitit": "slurm"}  # package → the extra of sharpkeras that has it
# What the processes on other machines take over from this one.
HANDED_ON = ("KERAS_BACKEND", "SHARPKERAS_")


class Pool(Protocol):
    """Where jobs run."""

    @property
    def slots(self) -> int | None:
        """How many jobs are there at once; None for all."""

    @property
    def about(self) -> str:
        """A line on the place."""

    def start(self, job: Job) -> Any:
        """Begins a job; returns what the other methods take for it."""

    def poll(self, running: Any) -> Outcome | None:
        """Its Outcome; None while it goes on."""

    def stop(self, running: Any) -> None:
        """Asks it to write a checkpoint and to end; `poll` then gives its Outcome."""

    def close(self) -> None:
        """Lets go of everything; what still runs is ended."""


@dataclass(frozen=True)
class Wish:
    """What a pool is asked for.

    Attributes:
        jobs: how many at once; None is by what there is.
        threads: of each; None is by what there is.
        device: "auto", "cpu" or "gpu".
        start: how processes are started.
        slurm: settings of `sbatch` by name.
        folder: of files that belong to the pool.
    """

    start: Start
    folder: Path
    jobs: int | None = None
    threads: int | None = None
    device: str = "auto"
    slurm: Mapping[str, str] | None = None


def thread_variables(threads: int) -> dict[str, str]:
    """The variables that hold TensorFlow, XLA and the libraries of linear algebra to so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
    return dict.fromkeys(names, str(threads))  # NPROC: the threads of XLA's client on a CPU


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES says or, without it, the GPUs that the driver lists; no framework is asked."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        return re.findall(r"^GPU .*\(UUID: (GPU-[\w-]+)\)", listed.stdout, re.MULTILINE)
    return []


class LocalPool:
    """Processes of this machine: one for each GPU or, without GPUs, as many as there are cores for."""

    def __init__(self, wish: Wish) -> None:
        found = [] if wish.device == "cpu" else gpus()
        if wish.device == "gpu" and not found:
            raise ResourceError("no GPU is visible", where="`device`", next_step="`device=cpu`")
        cores = available_cores()
        self.slots = wish.jobs or len(found) or max(1, cores // CORES_EACH)
        threads = wish.threads or max(1, cores // self.slots)
        self._free = [_variables(slot, self.slots, found, threads) for slot in reversed(range(self.slots))]
        self._start = wish.start
        each = f"{threads} threads each" if self.slots > 1 else f"{threads} threads"
        self.about = f"{self.slots} at once, {f'on {len(found)} GPUs, ' if found else ''}{each}"
        self._running: dict[int, tuple[jobs.RunningJob, dict[str, str]]] = {}

    def start(self, job: Job) -> jobs.RunningJob:
        variables = self._free.pop()
        environment = {**(self._start.environment or {}), **variables}
        running = jobs.RunningJob(job, replace(self._start, environment=environment))
        self._running[id(running)] = running, variables
        return running

    def poll(self, running: jobs.RunningJob) -> Outcome | None:
        outcome = running.poll()
        if outcome is not None:
            self._free.append(self._running.pop(id(running))[1])
        return outcome

    def stop(self, running: jobs.RunningJob) -> None:
        running.stop()

    def close(self) -> None:
        for running, _ in self._running.values():
            running.kill()


def _variables(slot: int, slots: int, found: Sequence[str], threads: int) -> dict[str, str]:
    """The variables of a slot."""
    variables = thread_variables(threads)
    if found:
        variables["CUDA_VISIBLE_DEVICES"] = found[slot % len(found)]
    if found and slots > len(found):  # several on one GPU: none takes all of its memory at once
        variables |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return variables


class RayPool:
    """Tasks of Ray, on the cluster of RAY_ADDRESS or `ray start`, or on this machine.

    All machines need sharpkeras, and see the directory of the sweep under the same path. The variables of a job are
    set for its processes, not for Ray's workers: Ray gives these OMP_NUM_THREADS=1 or as many as they have CPUs.
    """

    def __init__(self, wish: Wish) -> None:
        require("ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        in_all = 0 if wish.device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
        if wish.device == "gpu" and not in_all:
            raise ResourceError("no GPU is in the cluster of Ray", where="`device`", next_step="`device=cpu`")
        slots = wish.jobs or in_all or max(1, sum(max(1, number // CORES_EACH) for number in cores if number))
        threads = wish.threads or max(1, min(max(cores, default=1), sum(cores) // slots))
        if threads > max(cores, default=0):
            allowed = f"at most {max(cores, default=0)}, the cores of the largest machine"
            raise UsageError("no machine of Ray has so many cores", where="`threads`", seen=threads, allowed=allowed)
        self.slots = slots
        self.about = f"{slots} at once on Ray, {len(nodes)} machines, {threads} threads each"
        variables = {**_handed_on(), **thread_variables(threads), **(wish.start.environment or {})}
        self._start = replace(wish.start, environment=variables)
        # A worker for each job: what a job leaves behind in the memory of a worker ends with it.
        self._task = ray.remote(max_calls=1)(jobs.run).options(num_cpus=threads, num_gpus=1 if in_all else 0)

    def start(self, job: Job) -> Any:
        return self._task.remote(job, self._start)

    def poll(self, running: Any) -> Outcome | None:
        ready, _ = self._ray.wait([running], timeout=0)
        if not ready:
            return None
        try:
            return self._ray.get(running)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome(jobs.STOPPED[1], None, 0.0)
        except self._ray.exceptions.RayError as error:  # the machine is gone, or the worker was ended
            return Outcome(jobs.OUT_OF_RESOURCES, None, 0.0, tuple(str(error).strip().splitlines()[-jobs.LAST_LINES :]))

    def stop(self, running: Any) -> None:
        self._ray.cancel(running, force=False)  # raises KeyboardInterrupt in `jobs.run`

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()


class SlurmJob:
    """What a job of Slurm calls; submitit calls `checkpoint` before the time of the job is up, and requeues it."""

    def __init__(self, job: Job, start: Start) -> None:
        self._job, self._start = job, start
        self._running: jobs.RunningJob | None = None

    def __call__(self) -> Outcome:
        while True:
            self._running = jobs.RunningJob(self._job, self._start)
            outcome = jobs.wait(self._running)
            if not outcome.stopped:
                return outcome
            time.sleep(
                STOP_S
            )  # Slurm has sent the signal: it ends this job too and queues it again; if not, it goes on

    def checkpoint(self) -> Any:
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
        from submitit.helpers import DelayedSubmission

        if self._running is not None:
            self._running.stop()
            jobs.wait(self._running)
        return DelayedSubmission(SlurmJob(self._job, self._start))


class SlurmPool:
    """Jobs of Slurm by submitit, all of them in the queue at once unless `jobs` says how many.

    The machines need sharpkeras, and see the directory of the sweep under the same path. A job whose time is up, or
    that is preempted, is queued again and goes on. Jobs stay in the queue when this process is killed; the same command
    then waits for those, by the id in the folder of each.
    """

    ID = "slurm_job"

    def __init__(self, wish: Wish, cluster: str = "slurm") -> None:
        require("submitit")
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # its import would close all handlers of `logging`
        import submitit

        self.slots = wish.jobs
        threads = wish.threads or CORES_EACH
        self._start = replace(
            wish.start, environment={**_handed_on(), **thread_variables(threads), **(wish.start.environment or {})}
        )
        self._folder, self._submitit, self._cluster = wish.folder.absolute(), submitit, cluster
        if cluster == "slurm" and shutil.which("sbatch") is None:
            step = "type the command on a machine that has it, or run the sweep on this one with `on=local`"
            raise ResourceError("Slurm's sbatch is not here", where="`on`", next_step=step)
        self._executor = submitit.AutoExecutor(
            folder=self._folder / "%j", cluster=cluster, slurm_max_num_timeout=MOST_REQUEUES
        )
        settings = {"cpus_per_task": threads, "name": "sharpkeras"}
        settings |= {"gpus_per_node": 1} if wish.device == "gpu" else {}
        own: dict[str, Any] = {"slurm_signal_delay_s": STOP_S}
        given = {name: int(value) if value.isdecimal() else value for name, value in (wish.slurm or {}).items()}
        common = ("timeout_min", "mem_gb", "nodes", "gpus_per_node", "cpus_per_task", "name")
        given = {name if name in common else f"slurm_{name}": value for name, value in given.items()}
        try:
            self._executor.update_parameters(**{**settings, **own, **given})
        except (NameError, TypeError, ValueError) as error:
            raise UsageError("is no setting of Slurm", where="`slurm`", seen=str(error)) from None
        self.about = f"jobs of Slurm, {threads} threads each"

    def start(self, job: Job) -> tuple[Job, Any]:
        note = Path(self._start.folder, job.folder, self.ID)
        with contextlib.suppress(OSError, ValueError):
            submitted = self._found(note.read_text().strip())
            if not submitted.done():
                return job, submitted
        submitted = self._executor.submit(SlurmJob(job, self._start))
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(submitted.job_id)
        return job, submitted

    def poll(self, running: tuple[Job, Any]) -> Outcome | None:
        job, submitted = running
        if not submitted.done():
            return None
        try:
            return submitted.result()
        except (self._submitit.core.utils.UncompletedJobError, self._submitit.core.utils.FailedJobError) as error:
            lines = str(error).strip().splitlines()[-jobs.LAST_LINES :]
            return Outcome(jobs.OUT_OF_RESOURCES, None, 0.0, tuple(lines))

    def stop(self, running: tuple[Job, Any]) -> None:
        running[1].cancel()

    def close(self) -> None:
        pass

    def _found(self, job_id: str) -> Any:
        """A job that was submitted before; raises ValueError for what is no id."""
        int(job_id)  # a part of a path
        kind = {"slurm": self._submitit.SlurmJob, "local": self._submitit.LocalJob}[self._cluster]
        return kind(folder=self._folder / job_id, job_id=job_id)


POOLS: dict[str, Callable[[Wish], Pool]] = {"local": LocalPool, "ray": RayPool, "slurm": SlurmPool}


def require(package: str) -> None:
    """Raises ConfigError with the command that installs a package, unless it is there."""
    if importlib.util.find_spec(package) is None:
        step = f'pip install "sharpkeras[{EXTRAS[package]}]"'
        raise ConfigError(f"the package {package} is not installed", where="`on`", next_step=step)


def _handed_on() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
