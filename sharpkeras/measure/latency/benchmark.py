"""Latency benchmark of several networks, with intervals, and whether one is faster than another.

`interleaving` has the processes, `statistics` the intervals, `io.onnx_files` what a file must not be; this file puts
them together.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sharpkeras.errors import UsageError
from sharpkeras.io.hashes import sha256
from sharpkeras.io.onnx_files import declared_input, made_for, read_onnx
from sharpkeras.measure import memory
from sharpkeras.measure.latency import statistics
from sharpkeras.measure.latency.interleaving import PROCESSES, TIMEOUT_S, Launch, Times, take_turns
from sharpkeras.measure.machine import available_cores, busy_share, device_name, instruction_set

CPU = ("CPUExecutionProvider",)
ENGINE_BYTES = 2**30  # that an engine may take for itself
PERCENTILES = {50: 0, 90: 0, 95: 200, 99: 1000}  # percentile → runs needed, so that ten of them lie beyond it


class Contender(Protocol):
    """A network that `benchmark` can time, such as `OnnxFile`."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def launch(self, batch_size: int, threads: int, providers: Sequence[str]) -> Launch:
        """The process that times it; raises UsageError where the request does not fit."""


def benchmark(
    contenders: Sequence[Contender],
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    runs: int = 200,
    warmup_s: float = 0.5,
    providers: Sequence[str] = CPU,
    percentiles: Sequence[int] | None = None,
    seed: int = 0,
    processes: int = PROCESSES,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the latencies of several networks that take turns, and compare the others with the first.

    Args:
        contenders: the networks; the others are compared with the first.
        batch_sizes: images per run; the networks take turns at each of them.
        threads: of one operator; by default as many as there are cores available. Operators run one at a time.
        runs: timed runs of each network at each batch size, shared out among the processes.
        warmup_s: seconds of untimed runs at least; they go on until the time has settled.
        providers: execution providers, by ONNX Runtime's names; each has to be really used.
        percentiles: out of 50, 90, 95, 99; by default 50 and 90, and 99 from 1000 runs on.
        seed: of the order in which they take turns.
        processes, timeout_s, memory_bytes, progress: as in `interleaving.take_turns`, which measures each batch size.

    Returns:
        A dictionary that can be written as JSON. `models`: for each batch size and network its `name`, `p50_ms` with
        `p50_interval_ms` (95 %), `p90_ms`, ..., `images_per_second`, `peak_memory_mib` of its process, `unstable` with
        its reasons, and what the figures hold for. `comparisons`: for each batch size and further network the `ratio`
        of its median to that of the first, its 95 % `interval` and the `verdict`. `unstable`: whether a model is.

    Raises:
        UsageError: if an argument, or a model's declared input, does not fit.
        ConfigError: if a file is no valid ONNX model, an engine dies of it, or a package is missing.
        ResourceError: if an engine gives no answer in time, or needs more memory than it may take.
        SafetyError: if a model refers to other files or to a custom operator.
        VerificationError: if another provider than the requested ones was used.
    """
    cores = available_cores()
    reported: list[int] = []
    for batch_size in batch_sizes:
        reported = check_request(batch_size, threads, runs, warmup_s, percentiles, processes)
    # All are looked at before the first is timed.
    launches = {
        size: [contender.launch(size, threads or cores, providers) for contender in contenders] for size in batch_sizes
    }
    names = distinct([contender.name for contender in contenders])
    busy = busy_share()
    models, comparisons = [], []
    for batch_size, of_this_size in launches.items():
        measured = take_turns(of_this_size, runs, warmup_s, seed, processes, timeout_s, memory_bytes, progress)
        blocks = [[process.blocks for process in rounds] for rounds in measured]
        for name, launch, rounds, nanoseconds in zip(names, of_this_size, measured, blocks):
            figures = statistics.summary(nanoseconds, batch_size, reported, busy)
            setting = {"batch_size": batch_size, "threads": threads or cores, "runs": runs}
            models.append({"name": name, **launch.facts, **setting, **figures, **_circumstances(launch, rounds)})
        for name, other in list(zip(names, blocks))[1:]:
            pair = {"model": name, "to": names[0], "batch_size": batch_size}
            comparisons.append(pair | statistics.compare(blocks[0], other))
    return {"models": models, "comparisons": comparisons, "seed": seed, "unstable": any(m["unstable"] for m in models)}


def benchmark_onnx(path: str | os.PathLike[str], *, batch_size: int = 1, **timing: Any) -> dict[str, Any]:
    """Latency of one ONNX file with one image input: its entry among the `models` of `benchmark`.

    Args:
        path: the `.onnx` file.
        batch_size: images per run.
        timing: further arguments of `benchmark`.
    """
    return benchmark([OnnxFile(path)], batch_sizes=(batch_size,), **timing)["models"][0]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file as a contender of `benchmark`; untrusted, it is parsed and checked before ONNX Runtime sees it."""

    path: str | os.PathLike[str]

    @property
    def name(self) -> str:
        return str(self.path)

    def launch(self, batch_size: int, threads: int, providers: Sequence[str]) -> Launch:
        """The process that times the file; raises what `read_onnx` and `declared_input` raise."""
        path = Path(self.path)
        model = read_onnx(path)
        input, shape, dtype = declared_input(model, batch_size, path)
        target = made_for(model)
        request: dict[str, Any] = {"path": str(path.resolve()), "input": input, "shape": shape, "dtype": dtype}
        request |= {"threads": threads, "providers": list(providers)}
        content = path.read_bytes()
        facts: dict[str, Any] = {"file": path.name, "bytes": len(content), "sha256": sha256(content)}
        facts |= {"target": target} if target else {}
        input_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        return Launch(
            where=str(path),
            engine="ONNX Runtime",
            command=(sys.executable, "-m", "sharpkeras.measure.latency.worker"),
            request=request,
            providers=tuple(providers),
            facts=facts | {"input_shape": shape},
            warnings=(*too_many_threads(threads), *other_processor(target, path.name, providers)),
            # What a GPU's driver maps would be counted too.
            memory_bytes=memory_for(len(content), input_bytes, threads) if tuple(providers) == CPU else None,
        )


def memory_for(file_bytes: int, input_bytes: int, threads: int) -> int:
    """The limit, in bytes, on what ONNX Runtime may allocate for a file: many times what ordinary networks need.

    It is at most half of the free memory: a small file of a stranger could ask for all there is.

    Args:
        file_bytes: size of the file, whose weights ONNX Runtime copies into other layouts.
        input_bytes: size of one batch of images; activations are larger.
        threads: within an operator, each with a stack and buffers of its own.
    """
    needed = ENGINE_BYTES + 16 * file_bytes + 1024 * input_bytes + 2**26 * threads
    return min(needed, most_memory() or needed)


def most_memory() -> int | None:
    """Half of the memory that is free, in bytes; None where that is not known."""
    free = memory.available_bytes()
    return None if free is None else free // 2


def too_many_threads(threads: int) -> tuple[str, ...]:
    """The warning for more threads than cores, as a tuple; empty if there are enough."""
    cores = available_cores()
    return (f"{threads} threads on {cores} available cores",) if threads > cores else ()


def other_processor(target: str | None, name: str, providers: Sequence[str]) -> tuple[str, ...]:
    """The warning for a file that was made for another processor than the one it is timed on, as a tuple."""
    here = instruction_set() if tuple(providers) == CPU else "gpu"
    other = None not in (target, here) and target != here
    return (f"{name} was made for {target}, this is {here}: export it again with `target={here}`",) if other else ()


def distinct(names: Sequence[str]) -> list[str]:
    """The names, made distinct by a number behind repeated ones: a file can be measured beside itself."""
    return [f"{n} ({names[:i].count(n) + 1})" if n in names[:i] else n for i, n in enumerate(names)]


def _circumstances(launch: Launch, rounds: Sequence[Times]) -> dict[str, Any]:
    """What the figures of a network hold for."""
    facts = [process.facts for process in rounds]
    return {
        "warmup_runs": [fact["warmup_runs"] for fact in facts],
        "peak_memory_mib": round(max(fact["peak_memory_bytes"] for fact in facts) / 2**20, 1),
        "engine": launch.engine,
        "versions": facts[0]["versions"],
        "providers": facts[0]["providers"],
        "device": device_name(),
        "cores": available_cores(),
        "warnings": list(launch.warnings),
    }


def check_request(
    batch_size: int,
    threads: int | None,
    runs: int,
    warmup_s: float,
    percentiles: Sequence[int] | None,
    processes: int = PROCESSES,
) -> list[int]:
    """Check the arguments of a benchmark and return the percentiles to report."""
    numbers = [("`batch_size`", batch_size, 1), ("`runs`", runs, processes)]
    for flag, value, least in numbers + ([("`threads`", threads, 1)] if threads is not None else []):
        if not isinstance(value, int) or value < least:
            raise UsageError("expected a larger whole number", where=flag, seen=value, allowed=f"at least {least}")
    if not (math.isfinite(warmup_s) and warmup_s >= 0):
        raise UsageError("the warm-up has no such length", where="warmup_s", seen=warmup_s, allowed="0 seconds or more")
    if percentiles is None:
        return [percentile for percentile in (50, 90, 99) if runs >= PERCENTILES[percentile]]
    for percentile in percentiles:
        if percentile not in PERCENTILES:
            raise UsageError("unknown percentile", where="`percentiles`", seen=percentile, allowed=list(PERCENTILES))
        needed = PERCENTILES[percentile]
        if runs < needed:
            raise UsageError(f"p{percentile} needs at least {needed} runs", where="`runs`", seen=runs)
    return list(percentiles)
