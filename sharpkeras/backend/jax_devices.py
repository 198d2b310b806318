"""Data parallelism on JAX: a batch is divided by devices, each of which holds the whole state.

The compiled step is one program for the whole batch, and XLA divides it (GSPMD). So the means of a loss, of gradients
and of BatchNorm are those of the whole batch, and random numbers do not depend on the number of devices.

`jax.sharding` is used directly. With `keras.distribution.DataParallel` every variable would belong to all processes,
and the work that each process does alone, such as reading alphas and evaluating, would have to be divided too. Here a
model's variables stay on the first device of the process; the state of the compiled step alone is on all devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sharpkeras.errors import ResourceError

SHUTDOWN_S, HEARTBEAT_S = 10, 60  # how long a process waits for others that do not end, or are silent
STEPS_BETWEEN_AGREEMENTS = 8  # each is a message between hosts, for which a step has to wait

_mesh: Mesh | None = None


def join(coordinator: str, process_id: int, num_processes: int) -> None:
    """Connect with the other processes of the job; to be called before any other operation of JAX.

    `keras.distribution.initialize` makes the same call, without the limits of time.
    """
    if not jax.distributed.is_initialized():
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )


def use(number: int | None) -> int:
    """Divide the batches of the steps that are compiled from now on by so many devices; return their number.

    Args:
        number: 1 leaves them undivided; None is all devices, of all processes.

    Raises:
        ResourceError: there are not as many.
    """
    global _mesh
    there = jax.devices()
    number = number or len(there)
    if number > len(there):
        raise ResourceError(
            "there are fewer devices than asked for",
            where="`devices`",
            seen=number,
            allowed=f"1 to {len(there)}: {', '.join(map(_name, there))}",
            next_step="`devices=all` takes all there are",
        )
    _mesh = Mesh(np.array(there[:number]), ("batch",)) if number > 1 else None
    return number


def names() -> list[str] | None:
    """The devices that batches are divided by, such as "gpu:0"; None where they are not divided."""
    return None if _mesh is None else [_name(device) for device in _mesh.devices]


def replicated() -> NamedSharding | None:
    """The sharding of what is the same on every device; None where batches are not divided."""
    return None if _mesh is None else NamedSharding(_mesh, PartitionSpec())


def state(value: Any) -> Any:
    """A copy of an array on every device, that a step may overwrite."""
    if _mesh is None:
        return jax.numpy.copy(value)
    return _placed(np.array(value), PartitionSpec())


def data(batch: Any, axis: int = 0) -> Any:
    """A batch, of nested tuples, with each of its arrays divided by the devices along an axis.

    Every process has the whole batch, and puts on its devices their parts of it.
    """
    if _mesh is None:
        return batch
    spec = PartitionSpec(*[None] * axis, "batch")
    return jax.tree.map(lambda array: _placed(np.asarray(array), spec), batch)


def local(value: Any) -> Any:
    """What `state` made, as an array on the first device of this process."""
    return value if _mesh is None else value.addressable_data(0)


def share(content: bytes | None) -> bytes | None:
    """What process 0 calls this with, in every process of the job; None where that could not make anything."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if content is None else len(content))))
    if size <= 0:
        return None if size < 0 else b""
    own = np.frombuffer(content, np.uint8) if content else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()


def agreement() -> Callable[[int | None], int | None]:
    """A function that all processes call equally often with their signal or None; each gets one of the signals."""
    calls = 0

    def agreed(signal: int | None) -> int | None:
        nonlocal calls
        calls += 1
        if calls % STEPS_BETWEEN_AGREEMENTS:
            return None
        return int(np.max(multihost_utils.process_allgather(np.int32(signal or 0)))) or None

    return agreed


def _placed(array: np.ndarray, spec: PartitionSpec) -> Any:
    assert _mesh is not None
    return jax.make_array_from_callback(array.shape, NamedSharding(_mesh, spec), lambda index: array[index])


def _name(device: Any) -> str:
    return f"{device.platform}:{device.id}"
