"""The local store: the suite, and what only a file system can do wrong."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stores import peak_of_a_large_file
from pipeline.common.errors import StoreError
from pipeline.stores import Store, flushing, open_store
from tests.stores.doors import LocalDoor
from tests.stores.suite import StoreSuite


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def destination(self, tmp_path: Path) -> str:
        return str(tmp_path / "new" / "dataset")

    @pytest.fixture
    def door(self, destination: str) -> LocalDoor:
        return LocalDoor(Path(destination))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def store(root: Path) -> Store:
    store = open_store(root)
    store.check_writable()
    return store


def test_check_writable_makes_the_folder(root: Path, store: Store) -> None:
    assert root.is_dir()


def test_files_follow_the_umask(root: Path, store: Store) -> None:
    draft = store.draft()
    draft.add("a/b", b"1")
    draft.sink("c").write(b"2")
    draft.commit()
    store.write("d", b"3")
    umask = os.umask(0o022)
    os.umask(umask)
    for name in ("a/b", "c", "d"):
        assert (root / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert (root / "a").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("mib", [50, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_large_file_is_streamed_in_bounded_memory(root: Path, mib: int) -> None:
    assert peak_of_a_large_file(str(root), mib)["peak_mb"] < 20


# Links that lead out of the destination.


@pytest.fixture
def outside(tmp_path: Path, root: Path, store: Store) -> Path:
    """A folder outside, to which links inside lead: `out` to the folder, `secret` to a file in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(outside)
    (root / "secret").symlink_to(outside / "secret")
    return outside


def test_links_do_not_lead_out(store: Store, outside: Path) -> None:
    draft = store.draft()
    draft.add("out/file", b"1")
    calls = [
        lambda: store.read("out/secret"),
        lambda: store.read("secret"),
        lambda: store.open("secret"),
        lambda: store.exists("out/secret"),
        lambda: store.write("out/file", b"1"),
        lambda: store.write("out/deeper/file", b"1"),
        lambda: store.delete(["out/secret"]),
        lambda: list(store.list("out/")),
        draft.commit,
    ]
    for call in calls:
        with pytest.raises(StoreError, match="symbolic link"):
            call()
    draft.discard()
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_links_do_not_lead_out_without_proc(store: Store, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("own", b"1")

    def absent(path: str) -> str:
        raise FileNotFoundError(path)

    # Where a file was opened is looked up in /proc, which not all systems have; resolving a path asks for links too.
    readlink = os.readlink
    monkeypatch.setattr(os, "readlink", lambda path: (absent if "/proc/" in str(path) else readlink)(path))
    assert store.read("own") == b"1"
    for name in ("out/secret", "secret"):
        with pytest.raises(StoreError, match="symbolic link"):
            store.read(name)


def test_a_folder_that_becomes_a_link_while_it_is_read(store: Store, root: Path, outside: Path) -> None:
    store.write("folder/secret", b"ours")
    assert store.read("folder/secret") == b"ours"
    (root / "folder").rename(root / "moved")
    (root / "folder").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        store.read("folder/secret")
    with pytest.raises(FileNotFoundError):
        store.read("moved/absent")


def test_a_link_is_replaced_not_followed(store: Store, root: Path, outside: Path) -> None:
    store.write("secret", b"ours")
    assert not (root / "secret").is_symlink()
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_inside_are_fine(store: Store, root: Path) -> None:
    (root / "real").mkdir()
    (root / "linked").symlink_to(root / "real")
    store.write("linked/file", b"1")
    assert (root / "real/file").read_bytes() == b"1"
    assert store.read("linked/file") == b"1"


def test_the_destination_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = open_store(tmp_path / "link")
    store.write("a/b", b"1")
    assert store.url == str(tmp_path / "real")
    assert (tmp_path / "real/a/b").read_bytes() == b"1"


# What goes wrong, in words.


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_in_place_of_the_folder(root: Path, below: str) -> None:
    root.write_bytes(b"a file")
    store = open_store(f"{root}{below}")
    with pytest.raises(StoreError, match=f"{root}{below}: a file lies where a folder should be"):
        store.check_writable()
    with pytest.raises(StoreError, match="a file lies where a folder should be"):
        store.draft().add("a", b"1")
    assert root.read_bytes() == b"a file"


def test_a_folder_that_nobody_may_write_to() -> None:
    store = open_store("/proc/noisemill")
    with pytest.raises(StoreError, match=r"^/proc/noisemill: "):
        store.check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permission_denied(root: Path, store: Store) -> None:
    root.chmod(0o555)
    with pytest.raises(StoreError, match="permission denied"):
        store.check_writable()


def test_a_full_disk(store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    draft = store.draft()
    draft.add("a/b", b"1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full") as raised:
        draft.commit()
    assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(StoreError, match="the disk is full"):
        store.write("c", b"2")
    monkeypatch.undo()
    draft.discard()
    assert list(root.iterdir()) == []


def test_a_commit_that_fails_half_way_is_taken_back(store: Store, root: Path) -> None:
    (root / "b").write_bytes(b"a file, not a folder")
    (root / "z/last").mkdir(parents=True)
    draft = store.draft()
    for name in ("a/1", "a/2", "z/last"):
        draft.add(name, b"x")
    with pytest.raises(StoreError, match="a folder lies where a file should be"):
        draft.commit()
    draft.discard()
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == ["b"]


def test_bytes_reach_the_disk_before_names_and_folders_after(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        events.append(("flush", str(Path(os.readlink(f"/proc/self/fd/{descriptor}")))))
        fsync(descriptor)

    def record_rename(source: str, target: str, **_: object) -> None:
        events.append(("rename", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    draft = store.draft()
    draft.sink("shards/0").write(b"1")
    draft.add("images/a/1", b"2")
    draft.commit()
    kinds = [kind for kind, _ in events]
    assert kinds == ["flush"] * 2 + ["rename"] * 2 + ["flush"] * 4
    assert {path for _, path in events[4:]} == {
        store.url,
        *(f"{store.url}/{n}" for n in ("shards", "images", "images/a")),
    }


def test_drafts_leave_no_descriptor_open(store: Store) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for end in ("commit", "discard"):
        draft = store.draft()
        draft.sink("a").write(b"1")
        draft.add("b", b"2")
        getattr(draft, end)()
    assert len(os.listdir("/proc/self/fd")) == before


# Sweeping.


def _age(path: Path, seconds: float) -> None:
    for each in [path, *path.rglob("*")]:
        os.utime(each, (time.time() - seconds,) * 2)


def test_a_running_draft_is_never_swept(store: Store, root: Path) -> None:
    draft = store.draft()
    draft.add("a", b"1")
    (staging,) = root.glob(".noisemill-*")
    _age(staging, 7200)
    open_store(root).sweep()
    draft.commit()
    assert (root / "a").read_bytes() == b"1"


def test_old_leftovers_are_swept_and_young_ones_kept(store: Store, root: Path) -> None:
    for name, age in (("old", 7200), ("young", 60)):
        (root / f".noisemill-{name}").mkdir()
        (root / f".noisemill-{name}/0").write_bytes(b"x")
        (root / f".noisemill-{name}-file").write_bytes(b"x")
        _age(root / f".noisemill-{name}", age)
        _age(root / f".noisemill-{name}-file", age)
    (root / ".hidden").write_bytes(b"not ours")
    _age(root / ".hidden", 7200)
    store.sweep()
    assert sorted(path.name for path in root.iterdir()) == [".hidden", ".noisemill-young", ".noisemill-young-file"]


def test_without_an_age_to_ask_for_no_clock_is_asked(store: Store, root: Path) -> None:
    (root / ".noisemill-staged").mkdir()
    (root / ".noisemill-staged/0").write_bytes(b"x")
    _age(root / ".noisemill-staged", -3600)  # The disk's clock, or another machine's, is an hour ahead of this one's.
    store.sweep(older_than_s=0)
    assert list(root.iterdir()) == []


def test_a_listing_passes_over_links_to_nothing_and_to_folders(store: Store, root: Path) -> None:
    store.write("a/file", b"1")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root)
    assert [entry.name for entry in store.list()] == ["a/file"]


# Many files at once.


def _many(store: Store, text: bytes) -> None:
    draft = store.draft()
    for number in range(100):
        draft.add(f"shards/0/{number}.png", text)
    draft.add("shards/0/metadata.jsonl", text)
    stored = draft.commit()
    assert len(stored) == 101


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often files were flushed, and renamed."""
    counts = {"fsync": 0, "rename": 0}

    def counting(name: str) -> Any:
        original = getattr(os, name)

        def call(*arguments: Any) -> None:
            counts[name] += 1
            original(*arguments)

        return call

    for name in counts:
        monkeypatch.setattr(os, name, counting(name))
    return counts


def test_a_new_folder_of_files_is_placed_in_one_step(store: Store, root: Path, counted: dict[str, int]) -> None:
    _many(store, b"first")
    assert counted["rename"] == 1
    _many(store, b"again")
    assert counted["rename"] == 1 + 1 + 101
    assert {path.read_bytes() for path in (root / "shards/0").iterdir()} == {b"again"}
    assert len(list((root / "shards/0").iterdir())) == 101


@pytest.mark.parametrize("there", ["file", "link"])
def test_a_folder_is_not_placed_over_what_is_none(store: Store, root: Path, outside: Path, there: str) -> None:
    (root / "shards").mkdir()
    if there == "file":
        (root / "shards/0").write_bytes(b"a file")
    else:
        (root / "shards/0").symlink_to(outside)
    with pytest.raises(StoreError, match=r"a file lies where a folder should be|symbolic link"):
        _many(store, b"x")
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.mark.parametrize(("kind", "each"), [("ext4", False), ("fuse.sshfs", True), ("nfs4", True), ("", True)])
def test_many_files_are_flushed_as_a_whole_where_that_is_known_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch, counted: dict[str, int], kind: str, each: bool
) -> None:
    monkeypatch.setattr(flushing, "_file_system", lambda device: kind)
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-amd64")
    _many(store, b"x")
    assert (counted["fsync"] >= 101) == each


def test_an_old_kernel_would_not_tell_of_failed_writes(
    store: Store, monkeypatch: pytest.MonkeyPatch, counted: dict[str, int]
) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.4.0")
    _many(store, b"x")
    assert counted["fsync"] >= 101


def test_a_whole_flush_that_fails_fails_the_commit(store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def syncfs(self, descriptor: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(flushing, "_file_system", lambda device: "ext4")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-amd64")
    monkeypatch.setattr(flushing, "_libc", lambda: Failing())
    with pytest.raises(StoreError, match="the disk reports a failure"):
        _many(store, b"x")
    assert not (root / "shards").exists()


def test_the_file_system_is_found(tmp_path: Path) -> None:
    found = subprocess.run(["stat", "-f", "-c", "%T", "/proc"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "proc"
    assert flushing._file_system(os.stat("/proc").st_dev) == "proc"
    assert flushing._file_system(os.makedev(4095, 7)) == ""


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_flushes_no_folders(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", refuse)
    store.write("a/b", b"1")
    assert store.read("a/b") == b"1"


def test_a_file_system_without_locks(store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    draft = store.draft()
    draft.add("a", b"1")
    draft.commit()
    assert store.write_lease(b"x", before=None)
    assert not store.write_lease(b"y", before=None)
    assert store.write_lease(b"y", before=b"x")
    assert store.read_lease() == b"y"


def test_a_sweep_passes_over_what_disappears_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a worker finishes a shard while a client adds a job."""
    store = open_store(str(tmp_path))
    draft = store.draft()
    draft.add("a.bin", b"abc")
    found = Path.rglob

    def committed_meanwhile(self: Path, pattern: str) -> Iterator[Path]:
        if list(tmp_path.glob(".noisemill-*/0/a.bin")):
            draft.commit()
            raise FileNotFoundError(self)
        return found(self, pattern)

    monkeypatch.setattr(Path, "rglob", committed_meanwhile)
    store.sweep()
    assert store.read("a.bin") == b"abc"
