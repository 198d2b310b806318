"""Worker process that times a network: it opens one engine and runs it on request.

`python -m sharpkeras.measure.latency.worker '<request>'` is that of ONNX Runtime; other engines have a module of their
own, which calls `serve` too. What the two ends say to each other is a line of JSON each: the worker answers the start
with what it opened, each number of runs with their times, and the end of its stdin with what it needed. It takes no
more memory than it is allowed to, and ends when the process that started it does.
"""

import contextlib
import ctypes
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sharpkeras.errors import ResourceError, SharpKerasError, is_out_of_memory, printable
from sharpkeras.measure import memory
from sharpkeras.measure.machine import peak_memory_bytes

PR_SET_PDEATHSIG = 1  # of prctl(2)
LOOKS_S = 1.0  # between two looks for the parent, where the system does not tell of its end
WARMUP_FACTOR = 10  # how many times as long as it should a warm-up lasts at most


def serve(open_engine: Callable[..., tuple[Callable[[], int], dict[str, Any]]]) -> None:
    """Open an engine, warm it up and time it as stdin says, until that ends.

    Args:
        open_engine: takes the request (the JSON on the command line, without `warmup_s`, `parent` and `memory_bytes`)
            as keyword arguments; returns a function that runs the network once and returns the nanoseconds, and a
            dictionary of what it is.
    """
    # Libraries may print: what they say goes to stderr, the replies where stdout was.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # at once, so that an error's own line stays the last

    def reply(value: Any) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    request = json.loads(sys.argv[1])
    warmup_s, parent, memory_bytes = (request.pop(name, None) for name in ("warmup_s", "parent", "memory_bytes"))
    if parent is not None:
        end_with(parent)
    if memory_bytes is not None:
        memory.limit(memory_bytes)
    with _told_in_a_line():
        one_run, facts = open_engine(**request)
        reply(facts | {"warmup_runs": warm_up(one_run, warmup_s)})
        for line in sys.stdin:
            one_run()  # untimed, since another model may have had the caches meanwhile
            reply([one_run() for _ in range(int(line))])
        reply({"peak_memory_bytes": peak_memory_bytes()})


@contextlib.contextmanager
def _told_in_a_line() -> Iterator[None]:
    """End the process on an error that is known, with its message as the last line of stderr."""
    try:
        yield
    except SharpKerasError as error:
        sys.exit(" ".join(str(error).split()))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(printable(str(error).strip().split("\n")[0] or "out of memory") + "\n")
        sys.exit(ResourceError.exit_code)


def end_with(parent: int) -> None:
    """End this process as soon as its parent, of process id `parent`, is gone, even if that was killed.

    Linux sends SIGKILL; elsewhere a thread looks every LOOKS_S seconds.

    The end of stdin is not enough: an engine in a run that hangs does not read it.
    """
    try:
        told = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (AttributeError, OSError):  # Linux alone has it
        told = False

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOKS_S)
        os._exit(1)

    if os.getppid() != parent:  # which ended before it could be asked for
        os._exit(1)
    if not told:
        threading.Thread(target=look, daemon=True).start()


def warm_up(one_run: Callable[[], int], seconds: float, window: int = 10, tolerance: float = 0.05) -> int:
    """Warm up for `seconds`, then until the median of ten runs is within 5 % of the ten before, at most ten times that.

    Returns:
        The number of runs it took.
    """
    start = time.monotonic()
    times: list[int] = []
    while (elapsed := time.monotonic() - start) < WARMUP_FACTOR * seconds or not times:
        times.append(one_run())
        last, before = times[-window:], times[-2 * window : -window]
        if elapsed >= seconds and len(before) == window:
            if abs(statistics.median(last) / statistics.median(before) - 1) < tolerance:
                break
    return len(times)


def timed(call: Callable[[], Any]) -> Callable[[], int]:
    """A function that calls `call` once and returns the nanoseconds that it took."""

    def one_run() -> int:
        start = time.perf_counter_ns()
        call()
        return time.perf_counter_ns() - start

    return one_run


def noise(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Images of noise, since zeros would be faster than real ones; integers up to 127, which fits every type."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal(shape) if dtype.startswith("float") else generator.integers(0, 128, size=shape)
    return images.astype(dtype)


def open_onnx(
    path: str, input: str, shape: Sequence[int], dtype: str, threads: int, providers: Sequence[str]
) -> tuple[Callable[[], int], dict[str, Any]]:
    """An ONNX file in ONNX Runtime, for `serve`; arrays of NumPy go in and come out.

    The facts are `providers` (those used), `available` (those there are) and `versions`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin make a run faster, but must not spin on while it is another model's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    available = onnxruntime.get_available_providers()  # an unknown name would be an error of another kind
    session = onnxruntime.InferenceSession(path, options, providers=[name for name in providers if name in available])
    feed = {input: noise(shape, dtype)}
    used = session.get_providers()
    facts = {"providers": used, "available": available, "versions": {"onnxruntime": onnxruntime.__version__}}
    return timed(lambda: session.run(None, feed)), facts


if __name__ == "__main__":
    serve(open_onnx)
