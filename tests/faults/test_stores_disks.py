"""Disks that are full, read-only, gone or broken, under real jobs.

Full disks are tmpfs mounts of a few megabytes, so these need root (or `unshare -Urm pytest ...`) and skip without.
Quotas and failing disks cannot be had for real: `os.fsync` and `os.rename` are made to fail in the worker's process
(`failing_calls/sitecustomize.py`), as NFS and XFS report a quota and every file system a broken disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.common.errors import StoreError, StoreUnavailableError
from pipeline.stores import open_store
from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.servers import Valkey

SIZE = ["--count", "100k", "--shard-size", "500", "--seed", "4"]


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        """Mounts it, or changes it. Raises CalledProcessError."""
        again = "remount," if os.path.ismount(self.folder) else ""
        subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", self.folder], check=True,
                       capture_output=True)  # fmt: skip

    def make_read_only(self) -> None:
        """Between two files of the writer's, since the kernel refuses while one is open."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.mount("ro")
                return
            except subprocess.CalledProcessError:
                assert time.monotonic() < deadline
                time.sleep(0.005)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Not mounted yet. Skips where this user may not mount: nothing here could be tested, in CI neither."""
    disk = Disk(tmp_path / "disk")
    try:
        disk.mount("size=1m")
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("needs the right to mount: run as root, or in unshare -Urm")
    yield disk
    subprocess.run(["umount", "--lazy", disk.folder], check=False)


@dataclass
class Trouble:
    """What goes wrong under way, and how it is mended."""

    words: str
    options: str
    cause: Callable[[Disk, Path], None]
    mend: Callable[[Disk, Path], None]
    #: Function of `os` and errno, where it is injected.
    fault: str = ""


def _nothing(disk: Disk, destination: Path) -> None:
    """It comes by itself."""


def _trigger(disk: Disk, destination: Path) -> None:
    (disk.folder / "trigger").touch()


def _untrigger(disk: Disk, destination: Path) -> None:
    (disk.folder / "trigger").unlink()


def _move_away(disk: Disk, destination: Path) -> None:
    destination.rename(disk.folder / "away")


def _move_back(disk: Disk, destination: Path) -> None:
    assert not destination.exists()  # Made again, it would lack what lies in the other.
    (disk.folder / "away").rename(destination)


def _file_for_folder(disk: Disk, destination: Path) -> None:
    (destination / "shards").rename(disk.folder / "away")
    (destination / "shards").write_text("a file")


def _folder_again(disk: Disk, destination: Path) -> None:
    (destination / "shards").unlink()
    (disk.folder / "away").rename(destination / "shards")


def _remount(options: str) -> Callable[[Disk, Path], None]:
    return lambda disk, _: disk.mount(options)


FULL = "the disk is full: free space, or choose another destination"
TROUBLES = {
    "full": Trouble(FULL, "size=4m", _nothing, _remount("size=200m")),
    "inodes": Trouble(FULL, "size=200m,nr_inodes=90", _nothing, _remount("nr_inodes=100k")),
    "read-only": Trouble(
        "the file system is read-only: choose another destination", "size=200m",
        lambda disk, _: disk.make_read_only(), _remount("rw"),
    ),
    "gone": Trouble("", "size=200m", _move_away, _move_back),
    "file-for-folder": Trouble("a file lies where a folder should be", "size=200m", _file_for_folder, _folder_again),
    "quota": Trouble("the disk quota is used up", "size=200m", _trigger, _untrigger, "fsync:EDQUOT"),
    "flush": Trouble("the disk reports a failure", "size=200m", _trigger, _untrigger, "fsync:EIO"),
    "rename": Trouble("permission denied", "size=200m", _trigger, _untrigger, "rename:EACCES"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.faults
@pytest.mark.parametrize("name", TROUBLES)
def test_generate_says_what_is_wrong_once_and_resume_goes_on(
    tmp_path: Path, valkey: Valkey, disk: Disk, cache: Path, name: str
) -> None:
    trouble = TROUBLES[name]
    disk.mount(trouble.options)
    own = environment(valkey.url, "unused", cache)
    del own["NOISEMILL_REDIS_URL"]
    if trouble.fault:
        own |= {"NOISEMILL_TEST_FAULT": trouble.fault, "NOISEMILL_TEST_TRIGGER": str(disk.folder / "trigger"),
                "PYTHONPATH": str(Path(__file__).with_name("failing_calls"))}  # fmt: skip
    here, destination = Fleet(tmp_path, own), disk.folder / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "generate", TINY, str(destination), *SIZE],
        env=own, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    here.wait_until(lambda: process.poll() is not None or receipts(destination) >= 3)
    trouble.cause(disk, destination)
    started = time.monotonic()
    out, said = process.communicate(timeout=90)
    print(f"{name}: told after {time.monotonic() - started:.1f} s")
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in said
    errors = said[said.index("noisemill: ") :].splitlines()
    assert len(errors) == 2
    assert trouble.words in errors[0]
    assert ".noisemill-" not in errors[0]
    assert f"resume {destination}" in errors[1]

    trouble.mend(disk, destination)
    before = receipts(destination)
    assert before >= 3
    assert_receipts_hold(destination)
    resumed = here.run("resume", str(destination), "--json", timeout_s=120)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["made"] == 100_000 - 500 * before
    checked = here.run("verify", str(destination))
    assert checked.returncode == 0, checked.stderr
    assert [path.name for path in destination.iterdir() if path.name.startswith(".")] == []


def receipts(destination: Path) -> int:
    folder = destination / "receipts"
    return len([name for name in os.listdir(folder) if name.endswith(".json")]) if folder.is_dir() else 0


def assert_receipts_hold(destination: Path) -> None:
    """Through another door than ours: what has a receipt is there, byte for byte."""
    for path in (destination / "receipts").glob("*.json"):
        for file in json.loads(path.read_text())["files"]:
            data = (destination / file["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]


@pytest.mark.faults
def test_a_queued_job_fails_once_and_status_says_why(tmp_path: Path, valkey: Valkey, disk: Disk, cache: Path) -> None:
    disk.mount("size=4m")
    fleet = Fleet(tmp_path, environment(valkey.url, f"disk-{uuid.uuid4().hex[:6]}", cache))
    try:
        worker = fleet.start_worker()
        job = fleet.submit(TINY, str(disk.folder / "out"), *SIZE)
        fleet.wait_until(lambda: fleet.json("status", job)["state"] == "failed")
        state = fleet.json("status", job)
        assert FULL in state["error"]
        assert (state["failed"], state["shards_leased"]) == ({}, 0)
        assert FULL in fleet.run("status", job).stdout
        assert worker.said().count("the disk is full") == 1
        disk.mount("size=200m")
        assert fleet.run("resume", str(disk.folder / "out")).returncode == 0
        assert fleet.watch(job).returncode == 0
        assert fleet.run("verify", str(disk.folder / "out")).returncode == 0
        assert [path.name for path in (disk.folder / "out").iterdir() if path.name.startswith(".")] == []
    finally:
        fleet.stop()


# -- the store alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [("size=1m", "the disk is full"), ("nr_inodes=12", "the disk is full")])
def test_a_real_full_disk_tears_nothing(disk: Disk, options: str, words: str) -> None:
    disk.mount(options)
    store = open_store(disk.folder / "out")
    whole: list[str] = []

    def fill() -> None:
        for number in range(10):
            draft = store.draft()
            try:
                draft.sink(f"shards/{number}").write(bytes(200_000))
                whole.extend(file.name for file in draft.commit())
            finally:
                draft.discard()
            store.write(f"receipts/{number}", b"x" * 100)

    with pytest.raises(StoreError, match=words) as raised:
        fill()
    assert not isinstance(raised.value, StoreUnavailableError)
    assert f"{disk.folder}/out" in str(raised.value)
    assert ".noisemill-" not in str(raised.value)
    assert 0 < len(whole) < 10
    found = {entry.name: entry.size_bytes for entry in store.list("shards/")}
    assert found == dict.fromkeys(whole, 200_000)
    assert [path.name for path in (disk.folder / "out").iterdir() if path.name.startswith(".")] == []


def test_a_read_only_disk(disk: Disk) -> None:
    store = open_store(disk.folder / "out")
    store.write("a", b"1")
    disk.mount("ro")
    for call in (store.check_writable, lambda: store.write("a", b"2"), lambda: store.delete(["a"]),
                 lambda: store.draft().sink("b")):  # fmt: skip
        with pytest.raises(StoreError, match="the file system is read-only"):
            call()
    assert store.read("a") == b"1"


def test_a_folder_that_goes_is_not_made_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    store.write("job.json", b"{}")
    draft = store.draft()
    sink = draft.sink("shards/0")
    shutil.rmtree(tmp_path / "out")
    sink.write(bytes(3 * 2**20))
    for call in (
        draft.commit,
        store.check_writable,
        lambda: store.write("a", b"1"),
        lambda: store.draft().add("a", b"1"),
    ):
        with pytest.raises(StoreError, match="the folder has gone, or cannot be made"):
            call()
    draft.discard()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["x" * 256, "/".join(["x" * 200] * 21)])
def test_names_that_are_too_long(tmp_path: Path, below: str) -> None:
    with pytest.raises(StoreError, match="the path is too long: choose a shorter destination"):
        open_store(tmp_path / below).check_writable()


@pytest.mark.parametrize(
    ("code", "passing"), [(errno.ESTALE, True), (errno.ETIMEDOUT, True), (errno.EMFILE, True), (errno.EIO, False),
                          (errno.EDQUOT, False), (errno.ENOSPC, False), (errno.EINVAL, False)]
)  # fmt: skip
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_what_may_pass_and_what_somebody_must_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, passing: bool
) -> None:
    store = open_store(tmp_path / "out")
    store.write("a", b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    # EINVAL of a folder's flush is no failure: some mounted file systems cannot.
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError) as raised:
        store.write("a", b"new")
    monkeypatch.undo()
    assert isinstance(raised.value, StoreUnavailableError) == passing
    assert store.read("a") == b"old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
