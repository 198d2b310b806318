"""The machine of a measurement: its processor, its cores, and the load on them."""

import os
import platform
import sys
import time
from pathlib import Path


def cores_by_affinity() -> int:
    """Cores that this process may run on, whatever the container's quota is."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the container's quota where there is one."""
    cores = cores_by_affinity()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota: no such file, or "max"
        return cores


def busy_share(seconds: float = 0.3) -> float:
    """Share of the machine's cores at work while this process sleeps.

    The load average would count the export that came just before.
    """

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all, idle and waiting for a disk

    try:
        all_before, idle_before = ticks()
        time.sleep(seconds)
        all_after, idle_after = ticks()
        return 1 - (idle_after - idle_before) / (all_after - all_before)
    except (OSError, ValueError, ZeroDivisionError, IndexError):
        return os.getloadavg()[0] / (os.cpu_count() or 1)


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, in bytes.

    Linux hands `ru_maxrss` on from the process that started it, so that a small model measured by a large program
    would look as large as the program; VmHWM starts afresh.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def instruction_set() -> str | None:
    """What decides about the layouts of ONNX Runtime: "avx512", "avx2" or "arm"; None where that is not known."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm"
    try:
        flags = Path("/proc/cpuinfo").read_text().split("\nflags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return None
    return next((name for name, flag in (("avx512", "avx512f"), ("avx2", "avx2")) if flag in flags), None)


def device_name() -> str:
    """Name of the CPU."""
    try:
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].strip(" \t:")
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
