"""Memory that a process may still take: free memory of the machine, and the limits on it."""

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

CGROUP_FILES = {  # version → where it is mounted, its files of the limit and of the use, and its key of file caches
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(root: str | os.PathLike[str] = "/") -> int | None:
    """Bytes that this process may still take: the least that the machine, its control groups and its limits leave.

    Args:
        root: where /proc and /sys lie.

    Returns:
        Bytes, or None on a system that has none of these files and limits.
    """
    root = Path(root)
    left = [_of_machine(root), _of_address_space(root), *_of_control_groups(root)]
    return max(0, min(left)) if (left := [number for number in left if number is not None]) else None


def limit(more_bytes: int) -> None:
    """Let this process, and those that it starts, take so many bytes more than it has; a request beyond fails.

    Linux alone has such a limit; elsewhere nothing is done. It counts what is written to, not addresses, of which some
    libraries reserve many times what they use.
    """
    used = _kilobytes(Path("/proc/self/status"), "VmData")
    if used is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = used + more_bytes if hard == resource.RLIM_INFINITY else min(hard, used + more_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _of_machine(root: Path) -> int | None:
    return _kilobytes(root / "proc/meminfo", "MemAvailable")


def _of_address_space(root: Path) -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _kilobytes(root / "proc/self/status", "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _of_control_groups(root: Path) -> Iterator[int | None]:
    """What the process's own group and each above it leave, as far as this process can see them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            mount, *names = CGROUP_FILES[2 if number == "0" else 1]
            # A container may see its own group as the topmost one, whatever path it is told.
            own = Path(path.lstrip("/"))
            for group in (own, *own.parents):
                yield _of_control_group(root / "sys/fs/cgroup" / mount / group, *names)


def _of_control_group(group: Path, limit_name: str, usage_name: str, cache_key: str) -> int | None:
    limit, usage = (_text(group / name).strip() for name in (limit_name, usage_name))
    if not (limit.isdigit() and usage.isdigit()):  # "max" is no limit
        return None
    caches = re.search(rf"^{cache_key} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    return int(limit) - int(usage) + (int(caches[1]) if caches else 0)  # file caches give way


def _kilobytes(path: Path, key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB$", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
