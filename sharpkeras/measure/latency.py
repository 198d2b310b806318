"""Milliseconds of an ONNX file under ONNX Runtime, measured so that the figure can be believed.

Each measurement is a fresh process (`python -m sharpkeras.measure.latency '<request>'`), since sessions that share a
process fight for its cores by spinning. Three of them run one after another: what they share is the model's doing,
what they differ in is the machine's.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from sharpkeras.errors import ConfigError, SafetyError, UsageError, VerificationError, printable

PROCESSES = 3
LARGEST_FILE = 2 * 2**30  # bytes; the limit of a protobuf
LARGEST_SPREAD = 0.10  # of the processes' medians, above which a machine is too noisy
LARGEST_BUSY_SHARE = 0.5  # of the cores, by others, before the start
INSTALL = "pip install onnx onnxruntime"
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
PERCENTILES = {50: 0, 90: 0, 95: 200, 99: 1000}  # percentile → runs needed, so that ten of them lie beyond it


def benchmark_onnx(
    path,
    *,
    batch_size=1,
    threads=None,
    runs=200,
    warmup_s=0.5,
    providers=("CPUExecutionProvider",),
    percentiles=None,
):
    """Latency of one ONNX file with one image input.

    Args:
        path: the `.onnx` file; untrusted, it is parsed and checked before ONNX Runtime sees it.
        batch_size: images per run.
        threads: of one operator; by default as many as there are cores available. Operators run one at a time.
        runs: timed runs, shared out among three processes.
        warmup_s: seconds of untimed runs at least; they go on until the time has settled.
        providers: execution providers, by ONNX Runtime's names; each has to be really used.
        percentiles: out of 50, 90, 95, 99; by default 50 and 90, and 99 from 1000 runs on.

    Returns:
        A dictionary that can be written as JSON: `p50_ms`, `p90_ms`, ..., `mean_ms`, `images_per_second`,
        the processes' medians and their `spread`, `unstable` with its reasons, and what the figures hold for.

    Raises:
        UsageError: if an argument, or the model's declared input, does not fit.
        ConfigError: if the file is no valid ONNX model, ONNX Runtime dies of it, or a package is missing.
        SafetyError: if the model refers to other files or to a custom operator.
        VerificationError: if another provider than the requested ones was used.
    """
    path, cores = Path(path), available_cores()
    percentiles = check_request(batch_size, threads, runs, warmup_s, percentiles)
    name, shape, dtype = declared_input(read_onnx(path), batch_size, path)
    request = {"path": str(path.resolve()), "input": name, "shape": shape, "dtype": dtype}
    request |= {"threads": threads or cores, "providers": list(providers), "warmup_s": warmup_s}
    busy = busy_share()
    results = [
        run_in_fresh_process(request | {"runs": len(range(process, runs, PROCESSES))}, path)
        for process in range(PROCESSES)
    ]
    check_providers(results, providers)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "batch_size": batch_size,
        "input_shape": shape,
        "threads": request["threads"],
        "runs": runs,
        **summary([result["nanoseconds"] for result in results], batch_size, percentiles, busy),
        "warmup_runs": [result["warmup_runs"] for result in results],
        "peak_memory_mib": round(max(result["peak_memory_bytes"] for result in results) / 2**20, 1),
        "providers": results[0]["providers"],
        "device": device_name(),
        "cores": cores,
        "onnxruntime": results[0]["onnxruntime"],
        "warnings": [f"{threads} threads on {cores} available cores"] if (threads or 0) > cores else [],
    }


def check_request(batch_size, threads, runs, warmup_s, percentiles):
    """The percentiles to report, once the arguments are known to make sense."""
    numbers = [("--batch-size", batch_size, 1), ("--runs", runs, PROCESSES)]
    for flag, value, least in numbers + ([("--threads", threads, 1)] if threads is not None else []):
        if not isinstance(value, int) or value < least:
            raise UsageError("expected a larger whole number", where=flag, seen=value, allowed=f"at least {least}")
    if not (math.isfinite(warmup_s) and warmup_s >= 0):
        raise UsageError("the warm-up has no such length", where="--warmup", seen=warmup_s, allowed="0 seconds or more")
    if percentiles is None:
        return [percentile for percentile in (50, 90, 99) if runs >= PERCENTILES[percentile]]
    for percentile in percentiles:
        if percentile not in PERCENTILES:
            raise UsageError("unknown percentile", where="--percentile", seen=percentile, allowed=list(PERCENTILES))
        needed = PERCENTILES[percentile]
        if runs < needed:
            raise UsageError(f"p{percentile} needs at least {needed} runs", where="--runs", seen=runs)
    return list(percentiles)


# ---- the file: nothing of it reaches ONNX Runtime before these checks ----


def read_onnx(path):
    """The file as an `onnx.ModelProto` that refers to nothing outside itself.

    Raises:
        UsageError: if there is no such file.
        SafetyError: if it refers to other files or to operators that only a custom library has.
        ConfigError: if it is too large or no valid ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("there is no such file", where=path)
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ConfigError("too large for an ONNX file", where=path, seen=f"{size} bytes", allowed="2 GiB")
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError(f"the package {error.name} is missing", next_step=INSTALL) from error
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ConfigError("not an ONNX file, or a damaged one", where=path, seen=str(error)) from error
    refuse_unsafe(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker also lets C++ exceptions through
        raise ConfigError("not a valid ONNX model", where=path, seen=first_line(error)) from error
    return model


def refuse_unsafe(model, path):
    """Raises SafetyError for external data, wherever it hides, and for operators of a custom library."""
    for message in onnx_messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.external_data or message.data_location == message.EXTERNAL):
            location = next((entry.value for entry in message.external_data if entry.key == "location"), "")
            problem = f"the tensor {printable(message.name)!r} is to be read from another file"
            raise SafetyError(problem, where=path, seen=location, allowed="data inside the ONNX file")
        if kind in ("NodeProto", "FunctionProto") and message.domain not in ONNX_DOMAINS:
            operator = getattr(message, "op_type", None) or message.name
            problem = f"the operator {printable(operator)!r} would need a custom library"
            raise SafetyError(problem, where=path, seen=message.domain, allowed="operators of ONNX itself")


def onnx_messages(message):
    """`message` and every protobuf message in it: nodes, tensors, and those of subgraphs and functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if hasattr(value, "__len__") else [value]:
                yield from onnx_messages(child)


def declared_input(model, batch_size, path):
    """(name, shape with the batch size put in, NumPy dtype) of the model's one input.

    Raises:
        UsageError: if there is not one input of a static shape, or the batch size is fixed to another one.
    """
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise UsageError("expected a model with one input", where=path, seen=[value.name for value in inputs])
    tensor = inputs[0].type.tensor_type
    declared = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    if not declared or not all(isinstance(size, int) for size in declared[1:]):
        allowed = "static sizes but for the batch, such as ['batch', 32, 32, 3]"
        raise UsageError("the model's declared input shape is not static", where=path, seen=declared, allowed=allowed)
    if isinstance(declared[0], int) and declared[0] != batch_size:
        problem = f"the model's batch size is fixed, {batch_size} does not fit"
        raise UsageError(problem, where=path, seen=declared, next_step=f"use --batch-size {declared[0]}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in "fui":
        raise UsageError("the model's input is no image", where=path, seen=str(dtype), allowed="floats or integers")
    return inputs[0].name, [batch_size, *declared[1:]], dtype.name


# ---- the measurement ----


def run_in_fresh_process(request, path):
    """What `time_runs(**request)` returns in a process of its own, whose death does not harm this one."""
    root = Path(__file__).resolve().parents[2]  # `-m` finds sharpkeras from here, installed or not
    command = [sys.executable, "-m", "sharpkeras.measure.latency", json.dumps(request)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        next_step = INSTALL if "No module named" in lines[-1] else None
        raise ConfigError("ONNX Runtime could not run the model", where=path, seen=lines[-1], next_step=next_step)
    return json.loads(done.stdout.splitlines()[-1])


def time_runs(path, input, shape, dtype, threads, providers, warmup_s, runs):
    """Opens the model, warms it up and times it; runs in the fresh process.

    Returns:
        A dictionary with `nanoseconds` (one per run), `warmup_runs`, `providers` (those used), `available` (those
        there are), `onnxruntime` (its version) and `peak_memory_bytes` of this process.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    available = onnxruntime.get_available_providers()  # an unknown name would be an error of another kind
    session = onnxruntime.InferenceSession(path, options, providers=[name for name in providers if name in available])
    # Noise, since zeros would be faster than real images; up to 127, which fits every integer type.
    generator = np.random.default_rng(0)
    images = generator.standard_normal(shape) if dtype.startswith("float") else generator.integers(0, 128, size=shape)
    feed = {input: images.astype(dtype)}

    def one_run():
        start = time.perf_counter_ns()
        session.run(None, feed)
        return time.perf_counter_ns() - start

    warmup_runs = warm_up(one_run, warmup_s)
    return {
        "nanoseconds": [one_run() for _ in range(runs)],
        "warmup_runs": warmup_runs,
        "providers": session.get_providers(),
        "available": available,
        "onnxruntime": onnxruntime.__version__,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def warm_up(one_run, seconds, window=10, tolerance=0.05):
    """Runs for `seconds`, then until the median of ten runs is within 5 % of the ten before; ten times as long at most.

    Returns:
        The number of runs it took.
    """
    start, times = time.monotonic(), []
    while (elapsed := time.monotonic() - start) < 10 * seconds or not times:
        times.append(one_run())
        last, before = times[-window:], times[-2 * window : -window]
        if elapsed >= seconds and len(before) == window:
            if abs(statistics.median(last) / statistics.median(before) - 1) < tolerance:
                break
    return len(times)


def summary(nanoseconds, batch_size, percentiles, busy):
    """The pooled figures of several processes, and whether the machine was quiet enough to believe them.

    Args:
        nanoseconds: one list of times per process.
        batch_size: images per run.
        percentiles: which to report.
        busy: share of the machine's cores that others used before the start, in [0, 1].
    """
    milliseconds = np.concatenate([np.asarray(times) for times in nanoseconds]) / 1e6
    medians = [statistics.median(times) / 1e6 for times in nanoseconds]
    spread = max(medians) / min(medians) - 1
    reasons = []
    if busy > LARGEST_BUSY_SHARE:
        reasons.append(f"{busy:.0%} of the cores were busy before the start")
    if spread > LARGEST_SPREAD:
        reasons.append(f"the medians of {len(medians)} processes differ by {spread:.0%}")
    return {
        **{f"p{percentile}_ms": float(np.percentile(milliseconds, percentile)) for percentile in percentiles},
        "mean_ms": float(milliseconds.mean()),
        "images_per_second": float(1000 * batch_size / milliseconds.mean()),
        "process_medians_ms": medians,
        "spread": spread,
        "busy_share_before": busy,
        "unstable": bool(reasons),
        "unstable_because": reasons,
    }


# ---- the machine ----


def check_providers(results, providers):
    """Raises VerificationError if a process ran without a requested provider; ONNX Runtime falls back in silence."""
    for result in results:
        if not set(providers) <= set(result["providers"]):
            problem = f"ONNX Runtime did not use {', '.join(providers)}"
            raise VerificationError(problem, where="--providers", seen=result["providers"], allowed=result["available"])


def available_cores():
    """Cores that this process may use: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota: no such file, or "max"
        return cores


def busy_share(seconds=0.3):
    """Share of the machine's cores at work while this process sleeps.

    The load average would count the export that came just before.
    """

    def ticks():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all, idle and waiting for a disk

    try:
        all_before, idle_before = ticks()
        time.sleep(seconds)
        all_after, idle_after = ticks()
        return 1 - (idle_after - idle_before) / (all_after - all_before)
    except (OSError, ValueError, ZeroDivisionError, IndexError):
        return os.getloadavg()[0] / os.cpu_count()


def peak_memory_bytes():
    """Largest resident size of this process.

    Linux hands `ru_maxrss` on from the process that started it, so that a small model measured by a large program
    would look as large as the program; VmHWM starts afresh.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_name():
    """Name of the CPU."""
    try:
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].strip(" \t:")
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def first_line(error):
    """First line of an exception's message, since those of ONNX run over many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    print(json.dumps(time_runs(**json.loads(sys.argv[1]))))
