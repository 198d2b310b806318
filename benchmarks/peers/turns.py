"""Forms of a step measured in turn: each in a process of its own with all cores, while the others wait.

The first form gives the weights from which all start. What a form has to agree with after its first step, it says by
`gradients`: what the optimizers hold then is the gradient, so that nothing is traced or kept for the comparison alone.
"""

import ctypes
import importlib.metadata
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sharpkeras.measure.machine import device_name, peak_memory_bytes
from sharpkeras.measure.statistics import mean_interval

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "torch", "numpy")
GB = 2**30


class Form(Protocol):
    """What a process measures. `imported` is the time (perf_counter) at which its modules were there."""

    imported: float

    def state(self) -> Any:
        """What the first form hands to all others: arrays by official names, and the alphas of a search."""

    def load(self, start: Any) -> None:
        """Start from the state of the first form."""

    def step(self) -> Any:
        """One step, finished; its loss."""

    def gradients(self) -> dict[str, np.ndarray]:
        """After one step: what its gradients have left in the optimizers, by official names."""

    def begin_timing(self) -> None:
        """Called once before the timed steps."""

    def device_memory_gb(self) -> float | None:
        """Peak memory of the GPU; None without one."""


class Step(NamedTuple):
    """What was measured of a step; the seconds of the processor are those of all cores together."""

    loss: float
    seconds: float
    processor_seconds: float


class Tolerance(NamedTuple):
    """How much the first step of a form may differ from that of the first form.

    Args:
        loss: of the loss, absolute.
        gradients: of those of all weights, by the norm of the difference to the norm; the same for the alphas.
    """

    loss: float
    gradients: float


# Two orders of the same sums differ by a few of 10 million bits, which turns a few of a million ReLUs on or off: of
# gradients that changes the root of that share. In float64 the difference is below FLOAT64's.
FLOAT32 = Tolerance(1e-4, 0.02)
# Of 20 cells with the statistics of a batch, whose gradients a rounding reaches 20 times (seen: 0.16 in float32, and
# 9e-10 in float64, which is the comparison that says that both compute the same: `--precision float64`).
DEEP_FLOAT32 = Tolerance(1e-4, 0.3)
FLOAT64 = Tolerance(1e-9, 1e-6)
BFLOAT16 = Tolerance(0.05, 0.5)  # a network that rounds to 8 bits; its gradients are only of the same direction


def tolerance(form: str, precision: str = "float32") -> Tolerance:
    """That of a peer by its name, beside one of ours of a precision."""
    if form.endswith("autocast"):
        return BFLOAT16
    return {"float32": FLOAT32, "float64": FLOAT64}.get(precision, BFLOAT16)


def measure(
    make: Callable[[str, Any], Form],
    forms: Sequence[str],
    arguments: Any,
    steps: int,
    batch_size: int,
    tolerances: Mapping[str, Tolerance | None],
    told: Callable[[dict], None] = lambda reports: None,
) -> dict[str, dict[str, Any]]:
    """The figures of each form, by its name.

    Args:
        make: (form, arguments) → Form, a function of a module, called in the process of the form.
        forms: names; the first is the one that ratios are to.
        arguments: of `make`.
        steps: timed steps of each form after the first.
        batch_size: images of a step.
        tolerances: of the first step, by form; None for a form that computes something else.
        told: called with the figures so far, after the first steps and after each row of steps.

    Raises:
        SystemExit: if the first steps of two forms differ by more than that.
    """
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        processes = {form: stack.enter_context(ProcessPoolExecutor(1, spawn)) for form in forms}
        until_first_step = dict.fromkeys(forms, seconds_of_this_process())

        def ask(form: str, function: Callable[..., Any], *values: Any) -> Any:
            """What a function returns in the process of a form, while the others wait."""
            start = time.perf_counter()
            answer = processes[form].submit(function, *values).result()
            until_first_step[form] += time.perf_counter() - start
            return answer

        reports: dict[str, dict[str, Any]] = {}
        of_first: dict[str, Any] = {}
        for form in forms:
            report = ask(form, _prepare, make, form, arguments)
            if not of_first:
                of_first["state"] = ask(form, _state)
            first = ask(form, _first_step, of_first["state"])
            report |= {"first_step_s": first.seconds, "first_train_loss": first.loss}
            report["until_first_step_s"] = until_first_step[form]
            gradients = ask(form, _gradients)
            of_first.setdefault("gradients", gradients)
            reports[form] = report | difference(gradients, of_first["gradients"])
            told(reports)
        check_same(reports, tolerances)
        for form in forms:
            ask(form, _begin_timing)
        rows: list[dict[str, Step]] = []
        for _ in range(steps):
            rows.append({form: ask(form, _turn) for form in forms})
            for form in forms:
                report = reports[form] = reports[form] | times(form, forms[0], rows, batch_size) | ask(form, _memory)
                report["times_the_memory_of_the_first"] = report["peak_memory_gb"] / reports[forms[0]]["peak_memory_gb"]
            told(reports)
    return reports


def check_same(reports: Mapping[str, dict[str, Any]], tolerances: Mapping[str, Tolerance | None]) -> None:
    """SystemExit unless the first steps agree with that of the first form."""
    first = next(iter(reports.values()))
    for form, report in reports.items():
        allowed = tolerances[form]
        loss = abs(report["first_train_loss"] - first["first_train_loss"])
        found = [report[name] for name in ("gradient_difference", "alpha_gradient_difference") if name in report]
        # Written so that a NaN is refused.
        if allowed and not (loss <= allowed.loss and all(part <= allowed.gradients for part in found)):
            seen = f"loss {loss:.3g}, gradients {' and '.join(f'{part:.3g}' for part in found)}"
            raise SystemExit(f"{form} does not compute the step of {next(iter(reports))}: {seen}; allowed {allowed}")


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """‖found - expected‖ / ‖expected‖ of all arrays together; the same of the alphas, where there are some."""

    def relative(names: Sequence[str]) -> float:
        distance = sum(float(np.sum((found[name].astype("float64") - expected[name]) ** 2)) for name in names)
        return float(np.sqrt(distance / sum(float(np.sum(expected[name].astype("float64") ** 2)) for name in names)))

    if set(found) != set(expected):
        raise ValueError(f"other gradients: {sorted(set(found) ^ set(expected))[:8]}")
    weights = [name for name in expected if name != "alphas"]
    alphas = {"alpha_gradient_difference": relative(["alphas"])} if "alphas" in expected else {}
    return {"gradient_difference": relative(weights), **alphas}


def times(form: str, first: str, rows: Sequence[Mapping[str, Step]], batch_size: int) -> dict[str, Any]:
    """Median and interval of a form's steps so far, and of its ratio to the first form in the same row."""
    median, interval = center([row[form].seconds for row in rows])
    ratio, ratio_interval = center([row[form].seconds / row[first].seconds for row in rows])
    processor, _ = center([row[form].processor_seconds for row in rows])
    cost, cost_interval = center([row[form].processor_seconds / row[first].processor_seconds for row in rows])
    return {
        "steps": len(rows),
        "step_s_median": median,
        "step_s_interval": interval,
        "images_per_s": batch_size / median,
        "step_processor_s_median": processor,
        "times_the_seconds_of_the_first": ratio,
        "times_the_seconds_interval": ratio_interval,
        "times_the_processor_seconds_of_the_first": cost,
        "times_the_processor_seconds_interval": cost_interval,
    }


def center(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """The median, and a 95 % t-interval of the geometric mean; None for a single value."""
    logs = mean_interval([float(np.log(value)) for value in values])
    interval = None if logs.spread is None else np.exp([logs.value - logs.spread, logs.value + logs.spread]).tolist()
    return float(np.median(values)), interval


def machine() -> dict[str, Any]:
    """The machine, its load, and the versions of the frameworks that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def seconds_of_this_process() -> float:
    """Seconds since this process was started, by the kernel."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


# --- in the process of a form ---

_here: dict[str, Form] = {}  # "form": what this process measures


def _prepare(make: Callable[[str, Any], Form], form: str, arguments: Any) -> dict[str, float]:
    start = time.perf_counter()
    _here["form"] = make(form, arguments)
    imported = _here["form"].imported
    return {"import_s": imported - start, "build_s": time.perf_counter() - imported}


def _state() -> Any:
    return _here["form"].state()


def _first_step(start: Any) -> Step:
    """The first step, from given weights and alphas; tracing included."""
    _here["form"].load(start)
    return _timed_step()


def _turn() -> Step:
    """A timed step behind one that is not."""
    _here["form"].step()
    step = _timed_step()
    give_back_memory()
    return step


def give_back_memory() -> None:
    """The free memory of this process to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _timed_step() -> Step:
    start, processor_start = time.perf_counter(), time.process_time()
    loss = float(_here["form"].step())
    return Step(loss, time.perf_counter() - start, time.process_time() - processor_start)


def _gradients() -> dict[str, np.ndarray]:
    gradients = _here["form"].gradients()
    give_back_memory()
    return gradients


def _begin_timing() -> None:
    _here["form"].begin_timing()


def _memory() -> dict[str, float | None]:
    return {"peak_memory_gb": peak_memory_bytes() / GB, "peak_device_memory_gb": _here["form"].device_memory_gb()}
