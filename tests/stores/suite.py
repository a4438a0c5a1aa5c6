"""What every store must do. A new store passes by subclassing StoreSuite and giving its two fixtures."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.common.errors import StoreError
from pipeline.stores import Store, StoredFile, open_store
from tests.stores.doors import Door

MIB = 2**20

BAD_NAMES = ["", "/absolute", "..", "a/../b", "../b", "a//b", "./a", "a/", "nul\0", ".noisemill-x", ".noisemill-x/y"]

#: In the order of their bytes, which is not the order of their folders.
SORTED_NAMES = ["a", "a b/c", "a!", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "z/1.png", "ä/ö"]

_CRASH = """
import os, signal, sys
from pipeline.stores import open_store
draft = open_store(sys.argv[1]).draft()
sink = draft.sink("shards/00000000.npy")
for _ in range(20):
    sink.write(bytes(2**20))
os.kill(os.getpid(), signal.SIGKILL)
"""


def stored(name: str, data: bytes) -> StoredFile:
    """What a commit says of a file."""
    return StoredFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


class StoreSuite:
    """The contract of `Store` and `Draft`. Subclasses give the fixtures `destination` and `door`."""

    @pytest.fixture
    def destination(self) -> str:
        """A fresh, empty place for one test, as `open_store` takes it."""
        raise NotImplementedError

    @pytest.fixture
    def door(self, destination: str) -> Door:
        """Another way to look at `destination`."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, destination: str) -> Store:
        return open_store(destination)

    # Whole files.

    def test_write_then_read(self, store: Store, door: Door) -> None:
        store.write("job.json", b"{}")
        store.write("deep/er/file.bin", bytes(range(256)))
        assert door.files() == {"job.json": b"{}", "deep/er/file.bin": bytes(range(256))}
        assert door.leftovers() == []
        assert store.read("deep/er/file.bin") == bytes(range(256))

    def test_write_replaces(self, store: Store, door: Door) -> None:
        store.write("a/b", b"the first, longer one")
        store.write("a/b", b"second")
        assert door.files() == {"a/b": b"second"}

    def test_write_nothing(self, store: Store, door: Door) -> None:
        store.write("empty", b"")
        assert door.files() == {"empty": b""}
        assert store.read("empty") == b""

    @pytest.mark.parametrize("most", [1, 5, 6, 1000])
    def test_read_the_begin(self, store: Store, most: int) -> None:
        store.write("a", b"begin!")
        store.write("empty", b"")
        assert store.read("a", most_bytes=most) == b"begin!"[:most]
        assert store.read("a") == b"begin!"
        assert store.read("empty", most_bytes=most) == b""

    def test_read_what_another_wrote(self, store: Store, door: Door) -> None:
        door.put("x/y", b"by other means")
        assert store.read("x/y") == b"by other means"
        assert store.exists("x/y")

    @pytest.mark.parametrize("name", ["absent", "a/absent", "a/b/below a file", "a"])
    def test_absent(self, store: Store, name: str) -> None:
        store.write("a/b", b"1")
        assert not store.exists(name)
        for read in (store.read, store.open):
            with pytest.raises(FileNotFoundError) as raised:
                read(name)
            assert not isinstance(raised.value, StoreError)

    def test_nothing_there_yet(self, store: Store) -> None:
        assert list(store.list()) == []
        assert not store.exists("job.json")
        with pytest.raises(FileNotFoundError):
            store.read("job.json")
        store.delete(["job.json"])
        store.sweep()

    def test_delete(self, store: Store, door: Door) -> None:
        for name in ("a/1", "a/2", "b"):
            store.write(name, b"x")
        store.delete(name for name in ("a/1", "absent", "b", "b/below"))
        assert list(door.files()) == ["a/2"]

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_bad_names_are_refused(self, store: Store, door: Door, name: str) -> None:
        draft = store.draft()
        calls = [
            lambda: store.read(name),
            lambda: store.open(name),
            lambda: store.write(name, b""),
            lambda: store.exists(name),
            lambda: store.delete([name]),
            lambda: draft.sink(name),
            lambda: draft.add(name, b""),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"relative path|temporary"):
                call()
        draft.discard()
        assert door.files() == {}

    # Reading in pieces.

    def test_open_seeks(self, store: Store) -> None:
        data = random_bytes(3 * MIB + 17)
        store.write("big", data)
        with store.open("big") as file:
            assert file.seekable()
            assert file.read(10) == data[:10]
            assert file.seek(2 * MIB) == 2 * MIB
            assert file.read(MIB) == data[2 * MIB : 3 * MIB]
            assert file.tell() == 3 * MIB
            assert file.seek(-5, io.SEEK_END) == len(data) - 5
            assert file.read() == data[-5:]
            assert file.read(1) == b""
            file.seek(1)
            assert file.read() == data[1:]

    def test_open_fills_a_buffer(self, store: Store) -> None:
        data = random_bytes(9 * MIB + 1)
        store.write("big", data)
        buffer = bytearray(len(data))
        with store.open("big") as file:
            assert file.readinto(buffer) == len(data)  # type: ignore[attr-defined]
        assert buffer == data

    # Listing.

    def test_list_is_sorted_by_name(self, store: Store, door: Door) -> None:
        # No file system lets a file and a folder share a name, so "a" stays a folder.
        names = [name for name in SORTED_NAMES if name not in ("a", "a/b")]
        for name in reversed(names):
            door.put(name, name.encode())
        entries = list(store.list())
        assert [entry.name for entry in entries] == names
        assert [entry.size_bytes for entry in entries] == [len(name.encode()) for name in names]

    @pytest.mark.parametrize("divided_at", [["b"], ["a/b/c", "a/b/d"], ["0", "a/", "a0", "b/1", "z"]])
    def test_a_divided_list_is_the_same(self, store: Store, door: Door, divided_at: list[str]) -> None:
        for name in SORTED_NAMES[2:5] + SORTED_NAMES[6:]:
            door.put(name, b"x")
        for prefix in ("", "a/", "a"):
            assert list(store.list(prefix, divided_at=divided_at)) == list(store.list(prefix))

    def test_list_by_prefix(self, store: Store, door: Door) -> None:
        for name in (
            "receipts/00000000.json",
            "receipts/00000010.json",
            "receipts.json",
            "shards/1/2.png",
            "shards/1.npy",
        ):
            door.put(name, b"x")
        assert [entry.name for entry in store.list("receipts/")] == ["receipts/00000000.json", "receipts/00000010.json"]
        assert [entry.name for entry in store.list("receipts/0000001")] == ["receipts/00000010.json"]
        assert [entry.name for entry in store.list("receipts")] == [
            "receipts.json",
            "receipts/00000000.json",
            "receipts/00000010.json",
        ]
        assert [entry.name for entry in store.list("shards/1")] == ["shards/1.npy", "shards/1/2.png"]
        assert list(store.list("absent/")) == []

    def test_more_files_than_a_page(self, store: Store, door: Door) -> None:
        draft = store.draft()
        names = [f"many/{index:04d}" for index in range(1005)]
        for name in names:
            draft.add(name, b"x")
        draft.commit()
        assert [entry.name for entry in store.list("many/")] == names
        store.delete(names)
        assert door.files() == {}

    # Drafts.

    def test_commit_puts_all_in_place(self, store: Store, door: Door) -> None:
        draft = store.draft()
        first = draft.sink("shards/00000000.npy")
        assert first.write(b"head") == 4
        assert first.write(bytearray(b"er,")) == 3
        assert first.write(memoryview(b" data")) == 5
        draft.add("images/a/000000000001.png", b"one")
        draft.add("images/b/000000000000.png", b"zero")
        draft.sink("shards/00000000.labels.npy").write(b"labels")
        draft.add("empty", b"")
        files = draft.commit()
        expected = {
            "shards/00000000.npy": b"header, data",
            "images/a/000000000001.png": b"one",
            "images/b/000000000000.png": b"zero",
            "shards/00000000.labels.npy": b"labels",
            "empty": b"",
        }
        assert files == [stored(name, data) for name, data in expected.items()]
        assert door.files() == expected
        assert door.leftovers() == []

    def test_sink_takes_arrays(self, store: Store, door: Door) -> None:
        array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        draft = store.draft()
        sink = draft.sink("a")
        assert sink.write(array.data) == 96
        assert sink.write(array[:0].data) == 0
        assert draft.commit() == [stored("a", array.tobytes())]
        assert door.files() == {"a": array.tobytes()}

    @pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 30 * MIB])
    def test_sink_of_any_size(self, store: Store, door: Door, size: int) -> None:
        data = random_bytes(size)
        draft = store.draft()
        sink = draft.sink("big")
        for start in range(0, size, 1_000_003):
            sink.write(data[start : start + 1_000_003])
        assert draft.commit() == [stored("big", data)]
        assert door.files() == {"big": data}
        assert door.leftovers() == []

    def test_one_write_larger_than_any_buffer(self, store: Store, door: Door) -> None:
        data = random_bytes(26 * MIB)
        draft = store.draft()
        assert draft.sink("big").write(data) == len(data)
        draft.commit()
        assert door.files() == {"big": data}

    def test_sink_carries_a_tar_stream(self, store: Store, door: Door) -> None:
        draft = store.draft()
        with tarfile.open(fileobj=draft.sink("a.tar"), mode="w|") as tar:  # type: ignore[call-overload]
            member = tarfile.TarInfo("inside")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
        draft.commit()
        with tarfile.open(fileobj=io.BytesIO(door.files()["a.tar"])) as tar:
            assert tar.getnames() == ["inside"]

    def test_a_streamed_file_is_invisible_before_commit(self, store: Store, door: Door) -> None:
        door.put("shards/0", b"earlier")
        draft = store.draft()
        sink = draft.sink("shards/0")
        sink.write(bytes(10 * MIB))
        draft.sink("shards/1").write(b"new")
        assert door.files() == {"shards/0": b"earlier"}
        assert [entry.name for entry in store.list()] == ["shards/0"]
        draft.discard()

    def test_commit_replaces_an_earlier_attempt(self, store: Store, door: Door) -> None:
        for data in (b"first attempt", b"second"):
            draft = store.draft()
            draft.add("images/a/1.png", data)
            draft.sink("shards/0").write(data)
            draft.commit()
        assert door.files() == {"images/a/1.png": b"second", "shards/0": b"second"}

    def test_commit_keeps_what_lies_beside(self, store: Store, door: Door) -> None:
        door.put("images/a/1.png", b"another shard's")
        draft = store.draft()
        draft.add("images/a/2.png", b"ours")
        draft.commit()
        assert door.files() == {"images/a/1.png": b"another shard's", "images/a/2.png": b"ours"}

    def test_an_empty_draft_touches_nothing(self, store: Store, door: Door) -> None:
        draft = store.draft()
        assert draft.commit() == []
        draft.discard()
        assert door.files() == {}
        assert door.leftovers() == []

    def test_a_name_comes_once(self, store: Store) -> None:
        draft = store.draft()
        draft.add("a", b"1")
        with pytest.raises(ValueError, match="already"):
            draft.add("a", b"2")
        with pytest.raises(ValueError, match="already"):
            draft.sink("a")
        draft.discard()

    def test_discard_leaves_nothing(self, store: Store, door: Door) -> None:
        door.put("shards/0", b"earlier")
        draft = store.draft()
        draft.sink("shards/0").write(bytes(20 * MIB))
        draft.add("images/a/1.png", b"small")
        draft.sink("shards/1").write(b"unfinished")
        draft.discard()
        draft.discard()
        assert door.files() == {"shards/0": b"earlier"}
        assert door.leftovers() == []

    def test_discard_after_commit_keeps_the_files(self, store: Store, door: Door) -> None:
        draft = store.draft()
        draft.add("a", b"1")
        draft.sink("b").write(b"2")
        draft.commit()
        draft.discard()
        assert door.files() == {"a": b"1", "b": b"2"}

    def test_discard_of_a_lost_lease_keeps_the_other_attempts_files(self, store: Store, door: Door) -> None:
        slow, quick = store.draft(), store.draft()
        slow.add("shards/0/0.png", b"the same bytes")
        quick.add("shards/0/0.png", b"the same bytes")
        quick.commit()
        slow.discard(keep_placed=True)
        assert door.files() == {"shards/0/0.png": b"the same bytes"}
        assert door.leftovers() == []

    def test_a_draft_moves_to_another_thread(self, store: Store, door: Door) -> None:
        draft = store.draft()
        sink = draft.sink("a")

        def finish() -> None:
            sink.write(b"from afar")
            draft.add("b", b"too")
            draft.commit()

        thread = threading.Thread(target=finish)
        thread.start()
        thread.join()
        assert door.files() == {"a": b"from afar", "b": b"too"}

    def test_many_threads_share_a_store(self, store: Store, door: Door) -> None:
        def work(index: int) -> bytes:
            draft = store.draft()
            draft.sink(f"shards/{index}").write(bytes([index]) * 100_000)
            draft.add(f"images/{index}", b"x")
            draft.commit()
            store.write(f"receipts/{index}", b"r")
            return store.read(f"shards/{index}")

        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(work, range(16)))
        assert results == [bytes([index]) * 100_000 for index in range(16)]
        assert len(door.files()) == 48
        assert door.leftovers() == []

    # The lease.

    def test_a_lease_is_written_replaced_and_deleted(self, store: Store, door: Door) -> None:
        assert store.read_lease() is None
        assert store.lease_age_s() is None
        store.delete_lease(b"")
        assert not store.write_lease(b"x", before=b"y")
        assert store.read_lease() is None
        assert store.write_lease(b"first", before=None)
        assert not store.write_lease(b"second", before=None)
        assert not store.write_lease(b"second", before=b"other")
        assert store.read_lease() == b"first"
        assert store.write_lease(b"first", before=b"first")
        assert store.write_lease(b"second", before=b"first")
        assert store.read_lease() == b"second"
        age_s = store.lease_age_s()
        assert age_s is not None
        assert 0 <= age_s < 60
        store.delete_lease(b"first")
        assert store.read_lease() == b"second"
        store.sweep(-60)
        assert store.read_lease() == b"second", "it is no leftover"
        assert list(store.list()) == []
        store.delete_lease(b"second")
        assert store.read_lease() is None
        assert door.leftovers() == []

    @pytest.mark.parametrize("before", [None, b"old"])
    def test_of_many_one_gets_the_lease(self, store: Store, before: bytes | None) -> None:
        if before is not None:
            assert store.write_lease(before, before=None)
        with ThreadPoolExecutor(6) as threads:
            got = list(threads.map(lambda number: store.write_lease(b"%d" % number, before=before), range(6)))
        assert sum(got) == 1
        assert store.read_lease() == b"%d" % got.index(True)

    # Checks, crashes and what they leave.

    def test_check_writable_leaves_nothing(self, store: Store, door: Door) -> None:
        store.check_writable()
        store.check_writable()
        assert door.files() == {}
        assert door.leftovers() == []

    def test_url_opens_the_same_store(self, store: Store) -> None:
        store.write("a", b"1")
        again = open_store(store.url)
        assert again.url == store.url
        assert again.read("a") == b"1"

    def test_a_crash_leaves_nothing_visible(self, destination: str, store: Store, door: Door) -> None:
        crash = subprocess.run([sys.executable, "-c", _CRASH, destination], env=dict(os.environ), check=False)
        assert crash.returncode == -signal.SIGKILL
        assert door.files() == {}
        assert list(store.list()) == []
        assert door.leftovers() != []
        store.sweep()
        assert door.leftovers() != [], "too young to be swept"
        # A negative age: nothing is too young, whatever the server's clock says.
        store.sweep(-60)
        assert door.leftovers() == []
