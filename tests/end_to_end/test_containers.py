"""The surroundings of a container: process 1, a root that is read-only, and 64 MB of shared memory, as Docker gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY, environment

#: What becomes of the mounts, in a namespace of their own; the folder of the test, $0, is at /mnt.
VIEW = (
    "mount --make-rprivate / && mount --bind $0 /mnt && mount -t tmpfs -o size=64m shm /dev/shm"
    " && mount -t tmpfs tmp /mnt/tmp && mount -t proc proc /proc && mount -o remount,bind,ro / && cd /mnt"
)
ALONE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]


@pytest.mark.timeout(900)
def test_generate_is_all_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()  # Not /tmp itself, which would hide a clone that is there.
    if subprocess.run([*ALONE, VIEW, str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount, and to make namespaces of process ids")
    told = environment("", "unused", Path("/mnt/cache"), HOME="/nowhere", TMPDIR="/mnt/tmp")
    script = f'{VIEW} && ! touch /here 2>/dev/null && exec "$@"'
    made = subprocess.run(
        [
            *ALONE,
            script,
            str(tmp_path),
            sys.executable,
            "-m",
            "pipeline.cli",
            "generate",
            TINY,
            "/mnt/out",
            "-n",
            "200",
        ],
        env=told,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "Traceback" not in made.stderr
    assert Dataset(tmp_path / "out").whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "tmp"]
