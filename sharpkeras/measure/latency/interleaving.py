"""Interleaved timing of several networks: a fresh process for each, of which one runs at a time.

What one machine does to one network a moment later it may no longer do to the next; so they take turns, a block of runs
each, in an order that is drawn anew for every turn. `worker` is the other end.
"""

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from sharpkeras.errors import ConfigError, ResourceError, VerificationError, says_out_of_memory
from sharpkeras.io.onnx_files import INSTALL

PROCESSES = 5  # rounds: fresh processes for each network; with three, intervals are twice as wide
BLOCK = 10  # runs of a turn, about
MOST_BLOCKS = 50  # of one process
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Launch:
    """Command, environment and facts of the process that times a network.

    Args:
        where: what the network is called in messages: a file, or engine and run directory.
        engine: what runs it, in words.
        command: the program and its arguments, but for the request.
        request: arguments of the engine's `open_…`, as JSON has them.
        providers: which have to be used, by the engine's own names.
        environment: variables that the process has besides those of this one.
        facts: what a report says beside times.
        warnings: sentences on what could not be as it was asked for.
        memory_bytes: that it may take beside what it has at its start; None where that is not limited.
    """

    where: str
    engine: str
    command: tuple[str, ...]
    request: dict[str, Any]
    providers: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Times:
    """Measured times of one process: nanoseconds, a list for each block, and the facts of its worker."""

    blocks: list[list[int]]
    facts: dict[str, Any]


class Worker:
    """Process that times one network on request; a context manager that ends it.

    Args:
        launch: what to start. The constructor returns once it is open and warm.
        warmup_s: seconds of its warm-up at least.
        timeout_s: seconds that it may take for any answer: to be open and warm, or for a block of runs.
        memory_bytes: that it may take, in place of what `launch` says.

    Raises:
        ConfigError: from any method, when the process has died; with the last line that it wrote to stderr.
        ResourceError: from any method, when it does not answer in time, which ends it, or needs more memory.
        VerificationError: from the constructor, when it runs without a provider that it was asked for.
    """

    def __init__(
        self, launch: Launch, warmup_s: float, timeout_s: float = TIMEOUT_S, memory_bytes: int | None = None
    ) -> None:
        self._launch, self._timeout_s, self._memory_bytes = launch, timeout_s, memory_bytes or launch.memory_bytes
        ours = {"warmup_s": warmup_s, "parent": os.getpid(), "memory_bytes": self._memory_bytes}
        self._errors = tempfile.TemporaryFile()  # a pipe that no one reads would fill up
        self._process: Any = subprocess.Popen(  # whose pipes may be None to a type checker
            [*launch.command, json.dumps(launch.request | ours)],
            cwd=Path(__file__).resolve().parents[2],  # `-m` finds sharpkeras from here, installed or not
            env=os.environ | launch.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
        )
        try:
            self.facts = self._reply()
            self._check_providers()
        except BaseException:
            self.close()
            raise

    def time(self, runs: int) -> list[int]:
        """Time so many runs; return the nanoseconds of each."""
        with contextlib.suppress(BrokenPipeError):  # of a dead process; that there is no reply tells
            self._process.stdin.write(f"{runs}\n")
            self._process.stdin.flush()
        return self._reply()

    def finish(self) -> dict[str, Any]:
        """Let the process end; return the facts that it told at its start and its end."""
        self._process.stdin.close()
        return self.facts | self._reply()

    def close(self) -> None:
        """End the process if it is still there."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _reply(self) -> Any:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        clock = threading.Timer(self._timeout_s, give_up)
        clock.start()
        try:
            line = self._process.stdout.readline()
        finally:
            clock.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        code = self._process.wait()
        if late.is_set():
            problem = f"{self._launch.engine} gave no answer within {self._timeout_s:g} s"
            raise ResourceError(
                problem, where=self._launch.where, next_step="give it more with `timeout_s`, or fewer `runs`"
            )
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        if code == ResourceError.exit_code or any(map(says_out_of_memory, said)):
            self._refuse_memory(said)
        if code < 0:  # what it said last may have nothing to do with it
            said.insert(0, f"ended by {signal.Signals(-code).name}")
        seen = "; ".join(said) or f"exit code {code}"
        next_step = INSTALL if "No module named 'onnx" in seen else None
        problem = f"{self._launch.engine} could not run the model"
        raise ConfigError(problem, where=self._launch.where, seen=seen, next_step=next_step)

    def _refuse_memory(self, said: Sequence[str]) -> NoReturn:
        problem, allowed = f"{self._launch.engine} needs more memory than it may take", None
        if self._memory_bytes is not None:
            allowed = f"{self._memory_bytes / 2**30:.3g} GiB"
        next_step = "lower `batch_size`; if you trust the file, give it more with `max_memory_gib`"
        raise ResourceError(problem, where=self._launch.where, seen="".join(said), allowed=allowed, next_step=next_step)

    def _check_providers(self) -> None:
        """ONNX Runtime falls back to the CPU in silence."""
        unused = [name for name in self._launch.providers if name not in self.facts["providers"]]
        if unused:
            problem = f"{self._launch.engine} did not use {', '.join(unused)}"
            seen, allowed = self.facts["providers"], self.facts["available"]
            raise VerificationError(problem, where="`providers`", seen=seen, allowed=allowed)


def take_turns(
    launches: Sequence[Launch],
    runs: int,
    warmup_s: float = 0.5,
    seed: int = 0,
    processes: int = PROCESSES,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Times]]:
    """Time several networks in turns, in fresh processes.

    Args:
        launches: a Launch for each.
        runs: timed runs of each, shared out among the rounds; at least as many.
        warmup_s: seconds of untimed runs of each process at least.
        seed: of the order in which the networks take their turns.
        processes: rounds, in each of which every network has a fresh process.
        timeout_s: seconds that a network may take to be open and warm, and for each of its turns.
        memory_bytes: that each process may take, in place of what its Launch says.
        progress: a function that is called after each turn with the number of turns done, and of all.

    Returns:
        For each network a list of `Times`, one for each round. Block b of round r of one network was measured right
        before or after block b of round r of the others.

    Raises:
        ConfigError, ResourceError, VerificationError: as Worker.
    """
    generator = np.random.default_rng(seed)
    shares = [len(range(number, runs, processes)) for number in range(processes)]
    blocks = [blocks_of(share) for share in shares]
    turns, done = len(launches) * sum(map(len, blocks)), itertools.count(1)

    def tell() -> None:
        if progress is not None:
            progress(next(done), turns)

    limited = functools.partial(Worker, warmup_s=warmup_s, timeout_s=timeout_s, memory_bytes=memory_bytes)
    rounds = [_one_round(launches, of_a_round, limited, generator, tell) for of_a_round in blocks]
    return [list(times) for times in zip(*rounds)]


def blocks_of(runs: int) -> list[int]:
    """The runs of one process in blocks of about equal size: (100) → ten of 10."""
    count = min(MOST_BLOCKS, max(1, runs // BLOCK))
    return [len(range(block, runs, count)) for block in range(count)]


def _one_round(
    launches: Sequence[Launch],
    blocks: Sequence[int],
    start: Callable[[Launch], Worker],
    generator: np.random.Generator,
    tell: Callable[[], None],
) -> list[Times]:
    """The `Times` of a fresh process for each network."""
    with contextlib.ExitStack() as stack:
        # One after the other, since each warms up by itself.
        workers = [stack.enter_context(start(launch)) for launch in launches]
        times: list[list[list[int]]] = [[] for _ in workers]
        for runs in blocks:
            for index in generator.permutation(len(workers)):
                times[index].append(workers[index].time(runs))
                tell()
        return [Times(measured, worker.finish()) for measured, worker in zip(times, workers)]
