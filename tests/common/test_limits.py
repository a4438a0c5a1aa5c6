"""Limits of containers, as both versions of control groups write them down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.common import limits

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "visible_cores", lambda: 64)


def tree(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree of groups, and the file that names this process's own."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "cgroup").mkdir(exist_ok=True)
    (folder / "self").write_text(membership)
    return folder / "cgroup", folder / "self"


@pytest.mark.parametrize(("membership", "files", "cores", "memory"), [
    # Version 2, in a container: the root is its group.
    ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1000\n"}, 2, 1000),
    ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, 64, None),
    ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64, None),
    ("0::/\n", {"cpu.max": "1000 100000\n"}, 1, None),
    # The least of the groups around it counts.
    ("0::/kube/pod/box\n", {
        "kube/pod/box/cpu.max": "max 100000", "kube/pod/cpu.max": "300000 100000", "kube/cpu.max": "800000 100000",
        "kube/pod/box/memory.max": "5000", "kube/pod/memory.max": "max", "kube/memory.max": "4000",
        "memory.max": "9000",
    }, 3, 4000),
    # The path is that outside of the container, where it does not exist.
    ("0::/../outside\n", {"cpu.max": "200000 100000"}, 2, None),
    # Version 1.
    ("5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n", {
        "cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "7000",
    }, 3, 7000),
    ("5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n", {
        "cpu/docker/x/cpu.cfs_quota_us": "-1", "cpu/docker/x/cpu.cfs_period_us": "100000",
        "memory/docker/x/memory.limit_in_bytes": "8000", "memory/memory.limit_in_bytes": "9223372036854771712",
    }, 64, 8000),
    # Nothing there, or nothing that can be read.
    ("", {}, 64, None),
    ("nonsense", {"cpu.max": "", "memory.max": "much"}, 64, None),
    ("0::/\n", {"cpu.max": "100000 0", "memory.max": "-5"}, 64, None),
])  # fmt: skip
def test_limits(tmp_path: Path, membership: str, files: dict[str, str], cores: int, memory: int | None) -> None:
    places = tree(tmp_path, membership, files)
    assert limits.usable_cores(*places) == cores
    assert limits.memory_limit(*places) == memory
    assert limits.usable_memory(*places) == min(MACHINE, memory or MACHINE)


def test_without_control_groups(tmp_path: Path) -> None:
    places = tmp_path / "none", tmp_path / "nothing"
    assert (limits.usable_cores(*places), limits.memory_limit(*places)) == (64, None)
    assert limits.usable_cores() >= 1


def test_fewer_cores_than_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "visible_cores", lambda: 2)
    assert limits.usable_cores(*tree(tmp_path, "0::/\n", {"cpu.max": "400000 100000"})) == 2
