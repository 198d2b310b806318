"""One job on several devices and processes: what is refused, and the run directory, which process 0 alone writes."""

import atexit
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from sharpkeras.engine import signals
from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.runs import RunDirectory, files

ALL = "all"
HAS_DEVICES = "jax"  # the backend that divides batches


def checked_number(devices: Any) -> int | None:
    """The number that `devices` stands for, None for all; raises UsageError for what is neither."""
    if devices == ALL:
        return None
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UsageError("no number of devices", where="`devices`", seen=devices, allowed=f"1 or more, or {ALL}")
    return devices


def check_processes(coordinator: str | None, process_id: int | None, num_processes: int | None, devices: Any) -> None:
    """Raise UsageError unless the three name one process of a job, or none of them is given."""
    given = {"coordinator": coordinator, "process_id": process_id, "num_processes": num_processes}
    missing = [f"`{name}`" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise UsageError(
            "a job of several processes needs all three settings",
            where=", ".join(missing),
            seen="not given",
            allowed="`coordinator`, `process_id` and `num_processes`, in each process",
        )
    assert coordinator is not None and process_id is not None and num_processes is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        allowed = "HOST:PORT of process 0, such as 10.0.0.1:1234"
        raise UsageError("no address of a coordinator", where="`coordinator`", seen=coordinator, allowed=allowed)
    if num_processes < 2:
        raise UsageError(
            "a job of several processes has two or more",
            where="`num_processes`",
            seen=num_processes,
            allowed="2 or more",
            next_step="leave the three settings out for one process",
        )
    if not 0 <= process_id < num_processes:
        allowed = f"0 to {num_processes - 1}, each once"
        raise UsageError("no process of this job", where="`process_id`", seen=process_id, allowed=allowed)
    if devices not in (ALL, None):
        raise UsageError(
            "a job of several processes uses all devices of each",
            where="`devices`",
            seen=devices,
            allowed=ALL,
            next_step="leave `devices` out, or hide devices from the processes, such as by CUDA_VISIBLE_DEVICES",
        )


def begin(options: Any, batch_size: int) -> None:
    """Connect with the other processes and choose the devices; to be called before anything is computed.

    Args:
        options: RunOptions.
        batch_size: of the recipe.

    Raises:
        UsageError, ConfigError, ResourceError: the devices or processes are not to be had so.
    """
    check_processes(options.coordinator, options.process_id, options.num_processes, options.devices)
    is_divided = options.num_processes is not None
    number = checked_number(options.devices or (ALL if is_divided else 1))
    if keras.backend.backend() != HAS_DEVICES:
        visible = len(keras.distribution.list_devices())
        if is_divided or (number or visible) > 1:
            raise ConfigError(
                f"one job on several devices needs the backend {HAS_DEVICES}: Keras 3 does not work with TensorFlow's "
                "distribution strategies",
                where="`num_processes`" if is_divided else "`devices`",
                seen=f"{options.num_processes or options.devices} on {keras.backend.backend()}",
                allowed="one device in one process",
                next_step=f"`backend={HAS_DEVICES}`, or leave it out",
            )
        return
    from sharpkeras.backend import jax_devices

    if is_divided:
        jax_devices.join(options.coordinator, options.process_id, options.num_processes)
        signals.agree_by(jax_devices.agreement())
    number = jax_devices.use(number)
    if batch_size % number:
        raise ConfigError(
            f"{number} devices do not divide a batch evenly",
            where="`batch_size`",
            seen=batch_size,
            allowed=f"a multiple of {number}, such as {-(-batch_size // number) * number}",
            next_step="change `batch_size` or `devices`",
        )


def devices_in_words() -> str:
    """The devices that a run uses, as its first line names them."""
    names = backend_step().devices()
    if names is None:
        return ", ".join(keras.distribution.list_devices())
    return f"{', '.join(names)}, which divide each batch"


def conditions(num_processes: int | None) -> dict[str, str]:
    """What a run records of its devices: sums over a batch are rounded otherwise on another number of them."""
    number = len(backend_step().devices() or [None])
    return {"data_parallel": f"{number} device{'s' * (number > 1)} in {num_processes or 1} process(es)"}


def reserve_together(
    reserve: Callable[..., RunDirectory], out: str | os.PathLike[str], process_id: int
) -> RunDirectory:
    """The run directory of a process: for process 0 that of the run, for others a copy that goes with the process.

    So all begin from the same checkpoint, and hosts that share no disk can work together.

    Args:
        reserve: (path, **changes) → RunDirectory, reserved.
        out: the run directory.
        process_id: from 0.

    Raises:
        RunError: in others than process 0, where that could not open the run directory, and says why.
    """
    from sharpkeras.backend import jax_devices

    if process_id == 0:
        try:
            run = reserve(out)
        except BaseException:
            jax_devices.share(None)
            raise
        jax_devices.share(_packed(run.path) if run.resumed else b"")
        return run
    content = jax_devices.share(None)
    if content is None:
        raise RunError(
            "process 0 did not begin the run",
            where=str(out),
            next_step="see what that process says, and start all anew",
        )
    place = Path(tempfile.mkdtemp(prefix="sharpkeras-process-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    if content:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(place, filter="data")
    return reserve(place, overwrite=False, must_exist=False)


def _packed(path: Path) -> bytes:
    """What is in a run directory, apart from its lock, log and pictures, as an archive."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = entry.name in (files.LOCK, files.LOG) or entry.name.endswith(".png")
        return None if left_out or not (entry.isdir() or entry.isreg()) else entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in sorted(path.iterdir()):
            archive.add(entry, arcname=entry.name, filter=wanted)
    return buffer.getvalue()
