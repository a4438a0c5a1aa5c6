"""The cores and the memory that this process may use: those of its container, where that has fewer than the machine.

A container sees all of the machine's cores and memory. Its limits are those of its control group (cgroup), and of the
groups around it; version 2 of them has one tree, version 1 one for each resource.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def visible_cores() -> int:
    """The number of cores that this process may run on, whatever its share of them is."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """The number of cores that this process can keep busy, at least 1: a quota of 1.5 cores counts as 2."""
    quotas = [_quota(*pair) for pair in _values(root, membership, "cpu", _CPU_FILES)]
    return max(1, min([visible_cores(), *(math.ceil(quota) for quota in quotas if quota is not None)]))


def memory_limit(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Bytes of memory to which the container is limited; None without a limit."""
    limits = [_whole(text) for [text] in _values(root, membership, "memory", _MEMORY_FILES)]
    return min((limit for limit in limits if limit is not None), default=None)


def usable_memory(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Bytes of memory that this process may use: the machine's, or less by the container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, memory_limit(root, membership) or machine)


#: The files of a limit in versions 2 and 1. Where version 2 has one file, its words are the values.
_CPU_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
_MEMORY_FILES = (("memory.max",), ("memory.limit_in_bytes",))


def _values(
    root: Path, membership: Path, controller: str, files: tuple[tuple[str, ...], tuple[str, ...]]
) -> Iterator[list[str]]:
    """The values of a limit in this process's group and in each group around it, where they can be read."""
    for version, folder in _groups(root, membership, controller):
        try:
            texts = [(folder / name).read_text(encoding="ascii") for name in files[version]]
        except (OSError, ValueError):
            continue
        values = " ".join(texts).split()
        if len(values) == (2 if controller == "cpu" else 1):
            yield values


def _groups(root: Path, membership: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of this process's group and of those around it, each with 0 (version 2) or 1 (version 1).

    Within a container, the path of its group is often that outside, and the root is its group; so the root counts too.
    """
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", f"1:{controller}:/"]:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        top = root / controller if names else root
        group = top / path.lstrip("/")
        for folder in [group, *group.parents]:
            if folder == top or top in folder.parents:
                yield (1 if names else 0), folder


def _quota(quota: str, period: str) -> float | None:
    """Cores; None without a quota, which version 1 writes as -1 and version 2 as max."""
    used, length = _whole(quota), _whole(period)
    return used / length if used and length else None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
