"""S3 that answers with errors, breaks off, stalls, forgets and lies: through a proxy before a real server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from pipeline.common.errors import StoreError, StoreUnavailableError
from pipeline.stores import Store, open_store, s3_bucket
from pipeline.stores.store import StoredFile
from tests.end_to_end.fleet import TINY, Fleet, environment
from tests.faulty_s3 import TRANSIENT, FaultyS3, Rule
from tests.servers import S3Server, Valkey
from tests.stores.doors import Door, LocalDoor, S3Door

pytestmark = pytest.mark.timeout(600)

MIB = 2**20
#: Three parts.
LARGE = random.Random(0).randbytes(17 * MIB)
SMALL = {f"pictures/{number:03}.png": random.Random(number).randbytes(500) for number in range(40)}


def bounded(*names: str, quick: tuple[str, ...]) -> list[ParameterSet]:
    """Parameters of which only the quick ones belong to the default run."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.faults) for name in names]


@pytest.fixture
def proxy(plain_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A proxy that does nothing wrong yet. This process's stores go through it, and are not patient for long."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3_bucket, "_READ_TIMEOUT_S", 1)
    monkeypatch.setattr(s3_bucket, "_PATIENCE_S", 4)
    monkeypatch.setattr(s3_bucket, "_LONGEST_PAUSE_S", 1)
    with FaultyS3(plain_s3) as proxy:
        settings = {**proxy.environment, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def store(proxy: FaultyS3) -> Store:
    return open_store(proxy.destination())


@pytest.fixture
def door(proxy: FaultyS3, store: Store) -> S3Door:
    """Around the proxy."""
    return S3Door(proxy.behind, store.url)


def write_shard(store: Store) -> list[StoredFile]:
    """A shard of every kind of file: streamed in parts, streamed whole, small ones, and its receipt."""
    draft = store.draft()
    try:
        sink = draft.sink("large.npy")
        for start in range(0, len(LARGE), MIB):
            sink.write(LARGE[start : start + MIB])
        for name, data in SMALL.items():
            draft.add(name, data)
        draft.sink("short.npy").write(b"short")
        files = draft.commit()
    except StoreError:
        draft.discard()
        raise
    store.write("receipt.json", b"{}")
    return files


def assert_whole(store: Store, door: S3Door, files: list[StoredFile]) -> None:
    expected = {"large.npy": LARGE, "short.npy": b"short", **SMALL}
    assert {file.name: file.sha256 for file in files} == {
        name: hashlib.sha256(data).hexdigest() for name, data in expected.items()
    }
    assert door.files() == {**expected, "receipt.json": b"{}"}
    assert door.leftovers() == []


# -- faults that pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", bounded(*TRANSIENT, "stall", "stall-stored", quick=("500", "reset-in-body")))
def test_faults_that_pass_are_got_past(proxy: FaultyS3, store: Store, door: S3Door, fault: str) -> None:
    """Two requests in a row of every method; of POSTs, which begin and complete uploads, there are no more."""
    proxy.stall_s = 1.5
    proxy.rules = [Rule(fault, method=method, times=2) for method in ("PUT", "POST", "HEAD")]
    files = write_shard(store)
    assert proxy.happened[fault] == 6
    if door.leftovers():
        # The answer that named an upload was lost, so that nobody could end it.
        assert fault in ("500-stored", "reset-after", "reset-in-answer", "cut", "stall-stored")
        open_store(store.url).sweep(-60)
    assert_whole(store, door, files)
    assert store.read("large.npy") == LARGE


@pytest.mark.parametrize("fault", bounded("500", "reset-in-answer", "cut", "stall", quick=("reset-in-answer",)))
def test_a_lease_is_replaced_in_spite_of_them(proxy: FaultyS3, store: Store, fault: str) -> None:
    assert store.write_lease(b"first", before=None)
    proxy.rules = [Rule(fault, method="GET", times=1)]
    assert store.write_lease(b"second", before=b"first")
    assert store.read_lease() == b"second"
    assert proxy.happened[fault] == 1


@pytest.mark.parametrize("fault", bounded("500", "reset-in-answer", "cut", "stall", quick=("reset-in-answer",)))
def test_reading_and_listing_get_past_them_too(proxy: FaultyS3, store: Store, fault: str) -> None:
    files = write_shard(store)
    proxy.rules = [Rule(fault, method="GET", skip=skip, times=1) for skip in (0, 2, 3)]
    assert store.read("large.npy") == LARGE
    with store.open("large.npy") as file:
        assert file.read() == LARGE
    assert sorted(entry.name for entry in store.list()) == sorted([*(file.name for file in files), "receipt.json"])
    assert proxy.happened[fault] == 3


@pytest.mark.faults
def test_retries_wait_longer_and_longer_and_at_random(proxy: FaultyS3, store: Store) -> None:
    """Measured at the server: four attempts of botocore's at once, then again after pauses."""
    times: list[float] = []
    choose = proxy.choose

    def timed(method: str, path: str) -> str:
        times.append(time.monotonic())
        return choose(method, path)

    proxy.choose = timed  # type: ignore[method-assign]
    proxy.rules = [Rule("500", method="PUT")]
    with pytest.raises(StoreUnavailableError, match="the server is overloaded or failing: try again later"):
        store.write("a", b"1")
    pauses = [second - first for first, second in pairwise(times)]
    assert len(times) >= 8
    assert max(pauses) > 0.4
    assert len({round(pause, 3) for pause in pauses}) > len(pauses) // 2


@pytest.mark.faults
def test_a_server_that_restarts_is_waited_for(proxy: FaultyS3, store: Store, door: S3Door) -> None:
    rule = Rule("reset-before")
    proxy.rules = [rule]
    threading.Timer(2, proxy.rules.clear).start()
    assert_whole(store, door, write_shard(store))


# -- what stays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "the server is overloaded or failing: try again later"),
        pytest.param("503", "the server is overloaded or failing: try again later", marks=pytest.mark.faults),
        ("reset-before", "the connection was interrupted repeatedly: check the server and the network"),
        ("reset-in-body", "the connection was interrupted repeatedly: check the server and the network"),
        pytest.param("stall", "the server takes too long to respond: try again later", marks=pytest.mark.faults),
        ("lost", "cannot be relied on: it reported the object as stored, but does not have it"),
        ("half", "cannot be relied on: it was sent"),
    ],
)
def test_faults_that_stay_fail_the_attempt_in_words(
    proxy: FaultyS3, store: Store, door: S3Door, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setattr(s3_bucket, "_PATIENCE_S", 0)
    store = open_store(store.url)
    pattern = "short" if fault in ("lost", "half") else f"large.*partNumber=2|pictures/007|{fault}"
    proxy.stall_s = 1.5
    proxy.rules = [Rule(fault, method="PUT", pattern=pattern)]
    with pytest.raises(StoreUnavailableError) as raised:
        write_shard(store)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "receipt.json" not in door.files()
    assert "large.npy" not in door.files()
    assert door.leftovers() == []
    proxy.rules = []
    assert_whole(store, door, write_shard(store))


def test_a_part_that_is_not_stored_never_becomes_an_object(proxy: FaultyS3, store: Store, door: S3Door) -> None:
    proxy.rules = [Rule("lost", method="PUT", pattern="large.*partNumber=2", times=1)]
    with pytest.raises(StoreError) as raised:
        write_shard(store)
    assert "large.npy: " in str(raised.value) or "large.npy at" in str(raised.value)
    assert "large.npy" not in door.files()
    assert door.leftovers() == []


@pytest.mark.parametrize("method", bounded("HEAD", "GET", quick=("HEAD",)))
def test_lies_about_sizes_are_not_believed(proxy: FaultyS3, store: Store, door: S3Door, method: str) -> None:
    if method == "HEAD":
        proxy.rules = [Rule("size", method="HEAD", pattern="short")]
        with pytest.raises(StoreUnavailableError, match="it was sent 5 bytes, but reports 6"):
            write_shard(store)
        assert "short.npy" not in door.files()
        return
    write_shard(store)
    proxy.rules = [Rule("size", method="GET")]
    assert {entry.name: entry.size_bytes for entry in store.list()}["short.npy"] == 6
    proxy.rules = [Rule("cut", method="GET")]
    with pytest.raises(StoreUnavailableError, match="interrupted repeatedly"):
        store.read("short.npy")


# -- completing an upload --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    bounded("500-stored", "200-error-stored", "reset-after", "stall-stored", quick=("500-stored", "200-error-stored")),
)
def test_an_upload_that_was_completed_unheard_is_taken_as_it_is(
    proxy: FaultyS3, store: Store, door: S3Door, fault: str
) -> None:
    """The server forgets an upload with its completion, so that asking again is answered NoSuchUpload."""
    proxy.stall_s = 2
    proxy.rules = [Rule(fault, method="POST", pattern="uploadId=", times=1)]
    assert_whole(store, door, write_shard(store))
    assert proxy.happened[fault] == 1
    assert proxy.count("POST", "uploadId=") >= 2


def test_an_error_with_status_200_is_an_error(proxy: FaultyS3, store: Store, door: S3Door) -> None:
    proxy.rules = [Rule("200-error", method="POST", pattern="uploadId=", times=2)]
    assert_whole(store, door, write_shard(store))
    assert proxy.count("POST", "uploadId=") == 3


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["500", "200-error", "reset-before"])
def test_an_upload_that_cannot_be_completed_is_aborted(proxy: FaultyS3, store: Store, door: S3Door, fault: str) -> None:
    proxy.rules = [Rule(fault, method="POST", pattern="uploadId=")]
    with pytest.raises(StoreUnavailableError):
        write_shard(store)
    assert "large.npy" not in door.files()
    assert door.leftovers() == []


@pytest.mark.faults
def test_an_older_object_of_the_same_name_does_not_pass_for_the_new_one(
    proxy: FaultyS3, store: Store, door: S3Door
) -> None:
    """The server loses the upload; what lies under its key has the right length, and other bytes."""
    door.put("large.npy", bytes(len(LARGE)))
    proxy.rules = [Rule("500", method="POST", pattern="uploadId=")]
    with pytest.raises(StoreUnavailableError):
        write_shard(store)
    assert "receipt.json" not in door.files()


_UPLOAD = """
import sys, time
from pipeline.stores import open_store
sink = open_store(sys.argv[1]).draft().sink("large.npy")
sink.write(bytes(20 * 2**20))
print("begun", flush=True)
time.sleep(600)
"""


@pytest.mark.faults
def test_what_a_killed_process_was_uploading_is_swept(proxy: FaultyS3, store: Store, door: S3Door) -> None:
    process = subprocess.Popen([sys.executable, "-c", _UPLOAD, store.url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate()
    assert door.files() == {}
    assert door.leftovers() == [f"{store.url.partition(proxy.bucket + '/')[2]}/large.npy"]
    open_store(store.url).sweep()
    assert door.leftovers() != []  # It might still be somebody's.
    open_store(store.url).sweep(-60)
    assert door.leftovers() == []
    assert_whole(store, door, write_shard(store))


# -- whole jobs ------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, proxy: FaultyS3, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A command line, and workers where they are started, whose S3 is the proxy."""
    cache = tmp_path_factory.getbasetemp() / "cache-of-faults"
    fleet = Fleet(tmp_path, environment(valkey.url, f"s3-{uuid.uuid4().hex[:6]}", cache))
    yield fleet
    fleet.stop()


def hashes(door: Door) -> dict[str, str]:
    """SHA-256 of every file of the samples, as it lies there: read around the proxy."""
    return {n: hashlib.sha256(data).hexdigest() for n, data in door.files().items() if n.startswith("shards/")}


def generate_quietly(here: Fleet, *arguments: str) -> dict[str, str]:
    """Hashes of the same dataset made without faults, on disk."""
    done = here.run("generate", TINY, str(here.folder / "quiet"), *arguments)
    assert done.returncode == 0, done.stderr
    return hashes(LocalDoor(here.folder / "quiet"))


def test_generate_through_faults_is_byte_identical(proxy: FaultyS3, here: Fleet) -> None:
    size = ["--count", "3000", "--shard-size", "200", "--seed", "6"]
    destination = proxy.destination()
    proxy.rate = 0.06
    done = here.run("generate", TINY, destination, *size)
    assert done.returncode == 0, done.stderr
    proxy.rate = 0
    print(f"{sum(proxy.happened.values())} of {len(proxy.requests)} requests failed: {dict(proxy.happened)}")
    assert sum(proxy.happened.values()) > 3
    assert hashes(S3Door(proxy.behind, destination)) == generate_quietly(here, *size)
    assert here.run("verify", destination).returncode == 0


@pytest.mark.faults
@pytest.mark.parametrize(
    "arguments",
    [
        ["--count", "1500", "--shard-size", "300", "--format", "png"],
        ["--count", "250k", "--shard-size", "50k"],  # 13 MB: multipart uploads.
    ],
)
def test_queued_jobs_through_faults_are_byte_identical(proxy: FaultyS3, here: Fleet, arguments: list[str]) -> None:
    first, second = here.start_worker(ready=False), here.start_worker(ready=False)
    here.wait_until(lambda: here.is_up(first) and here.is_up(second))
    destination = proxy.destination()
    proxy.rate = 0.03
    proxy.rules = [Rule("500-stored", method="POST", pattern="uploadId=", times=2)]
    job = here.submit(TINY, destination, *arguments)
    watched = here.watch(job)
    assert watched.returncode == 0, watched.stderr
    proxy.rate = 0
    state = here.json("status", job)
    print(f"{sum(proxy.happened.values())} of {len(proxy.requests)} requests failed: {dict(proxy.happened)}")
    assert (state["state"], state["shards_done"]) == ("done", state["shards"])
    assert hashes(S3Door(proxy.behind, destination)) == generate_quietly(here, *arguments)
    assert here.run("verify", destination).returncode == 0
    assert S3Door(proxy.behind, destination).leftovers() == []


@pytest.mark.faults
def test_a_job_waits_for_its_store_then_fails_with_the_cause_then_goes_on(proxy: FaultyS3, here: Fleet) -> None:
    here.environment["NOISEMILL_STORE_PATIENCE_S"] = "10"
    here.start_worker()
    destination = proxy.destination()
    proxy.rules = [Rule("503", method="PUT", pattern="shards/00000003")]
    job = here.submit(TINY, destination, "--count", "2000", "--shard-size", "200")
    here.wait_until(lambda: here.json("status", job)["held_at"] is not None, timeout_s=170)
    told = here.run("status", job).stdout
    assert "the server is overloaded or failing: try again later" in told
    watched = here.watch(job, timeout_s=170)
    assert watched.returncode == 1
    assert "the server is overloaded or failing" in watched.stderr
    state = here.json("status", job)
    assert (state["state"], state["failed"]) == ("failed", {})
    assert state["shards_done"] == 3
    proxy.rules = []
    assert here.run("resume", job).returncode == 0
    assert here.watch(job).returncode == 0
    assert here.run("verify", destination).returncode == 0


@pytest.mark.faults
def test_a_picture_that_the_server_loses_is_missed_before_the_manifest(proxy: FaultyS3, here: Fleet) -> None:
    size = ["--count", "600", "--shard-size", "200", "--format", "png"]
    destination = proxy.destination()
    proxy.rules = [Rule("lost", method="PUT", pattern="000000000345.png", times=1)]
    done = here.run("generate", TINY, destination, *size)
    assert done.returncode == 1
    assert "is not whole: shard 1 is missing or damaged (1 in all)" in done.stderr
    assert "manifest.json" not in S3Door(proxy.behind, destination).files()
    resumed = here.run("resume", destination, "--json", NOISEMILL_REDIS_URL="")
    assert json.loads(resumed.stdout)["made"] == 200
    assert hashes(S3Door(proxy.behind, destination)) == generate_quietly(here, *size)


@pytest.mark.faults
def test_the_run_after_a_kill_ends_what_it_was_uploading(proxy: FaultyS3, here: Fleet) -> None:
    destination = proxy.destination()
    door = S3Door(proxy.behind, destination)
    size = ["--count", "300k", "--shard-size", "150k"]  # 38 MB: five parts
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "generate", TINY, destination, *size],
        env=here.environment, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # Of a shard: the probe whether one may write there passes by itself.
    here.wait_until(lambda: any("shards/" in name for name in door.leftovers()))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    here.wait_until(lambda: door.leftovers() != [])
    resumed = here.run("resume", destination, NOISEMILL_REDIS_URL="")
    assert resumed.returncode == 0, resumed.stderr
    assert door.leftovers() == []
    assert here.run("verify", destination).returncode == 0
