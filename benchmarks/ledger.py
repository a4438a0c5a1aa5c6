"""The ledger and the records beside it: what a shard costs, a large job, a look at it, and going on with it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.client.making import resume, submit
from pipeline.common.settings import Settings, load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import prepare
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.packs import pack_of
from pipeline.datasets.receipts import EngineRecord, Receipt, Statistics
from pipeline.fleet.local import private_server
from pipeline.generators import find_generator
from pipeline.jobs.connection import connect
from pipeline.jobs.ledger import Claim, Ledger, NewJob
from pipeline.jobs.request import JobRequest
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from pipeline.stores.store import StoredFile
from tests.servers import RcloneS3

GENERATOR = "article-28"
_STAGES = {"noise": 0.1, "predict": 0.7, "encode": 0.1, "write": 0.2}
_CALLS = 3000
_SAMPLES = 10**9
_SHARDS = 10**6
_RECEIPTS = 100_000
#: Seconds that each request takes longer to a server far away.
_FAR_S = 0.05
#: One by one they take minutes in S3 (docs/decisions/0063-scan-of-receipts.md): a part of them shows the same.
_RECEIPTS_ALONE = 2_000
#: Names that S3 lists with one request, at most.
_PAGE = 1000
#: Samples of a shard whose receipt is written; the file beside it is real, if small.
_SHARD_SAMPLES = 1
_WRITERS = 8
#: For a server that asks for none, but whose client wants some.
_KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
_BUCKET = "bench"


def run(effort: Effort) -> Result:
    """Milliseconds of a claim with its commit; seconds of submit, status and resume; bytes of Redis."""
    with private_server() as url, folder() as place:
        settings = load_settings(redis_url=url)
        figures = [
            *_a_shard(settings, effort),
            *_submit(settings, place, effort),
            _status(settings, effort),
        ]
    figures += _scans(effort)
    return Result(
        title="Ledger and records",
        figures=figures,
        notes=[
            (
                "A shard: claim and commit, one after the other, by one client on a Unix socket; each is a script in "
                f"Valkey. The job of {_SAMPLES:,} samples has {len(_huge_spec().plan):,} shards."
            ),
            (
                "The scan is all of `resume DEST` with a Redis: listing, reading and judging every receipt, entering "
                "the job; one shard is missing. rclone, on the same cores, reads the whole folder for each page of a "
                "listing, so that listing 100,000 receipts takes it minutes; the server of packs is "
                "`benchmarks/sorted_s3.py`, in memory, which reads the page."
            ),
        ],
    )


def _a_shard(settings: Settings, effort: Effort) -> list[Figure]:
    """Claim plus commit within a job of a million shards, and the round trip that is in it twice."""
    ledger = Ledger(settings)
    _enter(ledger, "a-shard", _SHARDS)
    raw = connect(settings.redis_url)
    pairs, pings = [], []
    for _ in range(effort.rounds):
        calls = max(50, round(_CALLS * effort.share))
        start = time.perf_counter()
        for _ in range(calls):
            claim = ledger.claim("a-shard", "bench")
            assert isinstance(claim, Claim)
            ledger.commit("a-shard", claim, samples=8192, size_bytes=25_690_240, stage_seconds=_STAGES)
        pairs.append((time.perf_counter() - start) / calls * 1000)
        start = time.perf_counter()
        for _ in range(calls):
            raw.ping()
        pings.append((time.perf_counter() - start) / calls * 1000)
    return [
        Figure(case="claim plus commit of a shard", unit="ms", values=pairs, reach=1.0, smaller_is_better=True),
        Figure(case="PING, for comparison", unit="ms", values=pings),
    ]


def _submit(settings: Settings, place: Path, effort: Effort) -> list[Figure]:
    """A job of 10^9 samples: seconds as a call and as a command, kilobytes in Redis."""
    raw = connect(settings.redis_url)
    submit(GENERATOR, place / "warm", count=1000, redis_url=settings.redis_url)
    calls, commands, kilobytes, named = [], [], [], []
    for number in range(effort.rounds):
        before, keys = int(raw.info("memory")["used_memory"]), set(raw.keys())
        start = time.perf_counter()
        submit(GENERATOR, place / f"call-{number}", count=_SAMPLES, seed=number, redis_url=settings.redis_url)
        calls.append(time.perf_counter() - start)
        kilobytes.append((int(raw.info("memory")["used_memory"]) - before) / 1000)
        named.append(sum(int(raw.memory_usage(key) or 0) for key in set(raw.keys()) - keys) / 1000)
        place_too, seed = str(place / f"command-{number}"), str(number + 100)
        commands.append(_command(settings, "submit", GENERATOR, place_too, "--count", str(_SAMPLES), "--seed", seed))
    return [
        Figure(case="submit of 10^9 samples", unit="s", values=calls, reach=0.5, smaller_is_better=True),
        Figure(case="`noisemill submit` of 10^9 samples", unit="s", values=commands),
        Figure(
            case="Redis for it: used_memory", unit="KB", values=[max(0.0, each) for each in kilobytes], reach=100.0,
            smaller_is_better=True,
        ),
        Figure(
            case="Redis for it: MEMORY USAGE of its keys", unit="KB", values=named, reach=100.0, smaller_is_better=True
        ),
    ]  # fmt: skip


def _status(settings: Settings, effort: Effort) -> Figure:
    """`noisemill status` of a job of a million shards: half of them done, some in hands."""
    ledger = Ledger(settings)
    half = max(10, round(_SHARDS * effort.share / 2))
    _enter(ledger, "half-done", _SHARDS, done=((index, 1) for index in range(half)))
    for worker in range(200):
        ledger.claim("half-done", f"worker-{worker}")
    seconds = [_command(settings, "status", "half-done") for _ in range(effort.rounds + 1)][1:]
    return Figure(
        case="`noisemill status` of a job of 10^6 shards", unit="s", values=seconds, reach=0.3, smaller_is_better=True
    )


def _scans(effort: Effort) -> list[Figure]:
    """`resume` of a job of 100,000 receipts on disk and in S3, one receipt short of whole."""
    count = max(64, round(_RECEIPTS * effort.share))
    part = max(64, round(_RECEIPTS_ALONE * effort.share))
    # rclone hashes an object whenever it is asked about one; servers that keep an ETag do not.
    no_hash = {"RCLONE_ETAG_HASH": "none"}
    with mock.patch.dict(os.environ, no_hash), RcloneS3() as server:
        folder = server.folder / server.bucket
        make_records(folder / "many", count)
        make_records(folder / "part", part)
        local = _resumes(str(folder / "many"), min(effort.rounds, 2))
        with mock.patch.dict(os.environ, server.environment):
            alone = _resumes(f"s3://{server.bucket}/part", 1)
            pages = _pages(f"s3://{server.bucket}/many", effort.rounds)
        _pack(folder / "many", count)
        packed: list[float] = []
        far: list[float] = []
        for delay_s, seconds in ((0.0, packed), (_FAR_S, far)):
            with sorted_server(folder, delay_s) as endpoint, _keys(endpoint):
                seconds += _resumes(f"s3://{_BUCKET}/many", min(effort.rounds, 2))
        shutil.rmtree(folder / "many")
        huge = max(64, round(len(_huge_spec().plan) * effort.share))
        make_records(folder / "whole", huge, missing=0)
        _pack(folder / "whole", huge)
        with sorted_server(folder) as endpoint, _keys(endpoint):
            last_step = _seconds(lambda: finish_dataset(f"s3://{_BUCKET}/whole", "bench"))
    return [
        Figure(
            case=f"`resume` of {count:,} receipts, local", unit="s", values=local, reach=10.0, smaller_is_better=True
        ),
        Figure(
            case=f"`resume` of {count:,} receipts in packs, S3", unit="s", values=packed, reach=10.0,
            smaller_is_better=True,
        ),
        Figure(case=f"the same, {_FAR_S * 1000:g} ms away", unit="s", values=far),
        Figure(
            case=f"last step of a job of {huge:,} shards, S3", unit="s", values=[last_step], reach=60.0,
            smaller_is_better=True,
        ),
        Figure(case=f"`resume` of {part:,} receipts without packs, S3 (rclone)", unit="s", values=alone),
        Figure(case=f"a listing of {_PAGE:,} of {count:,} receipts, S3 (rclone)", unit="s", values=pages),
    ]  # fmt: skip


@contextmanager
def sorted_server(folder: Path, delay_s: float = 0.0) -> Iterator[str]:
    """The endpoint of a server that has a folder's files in one bucket, and lists them quickly; see `sorted_s3`."""
    command = [sys.executable, "-m", "benchmarks.sorted_s3", str(folder), str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def _keys(endpoint: str) -> Any:
    """The environment in which that server is the user's S3."""
    return mock.patch.dict(os.environ, AWS_ENDPOINT_URL=endpoint, **_KEYS)


def _pack(place: Path, count: int) -> None:
    """Writes the packs that workers would have written meanwhile."""
    for number in range(count // shards.PACK_SHARDS):
        indices = range(number * shards.PACK_SHARDS, (number + 1) * shards.PACK_SHARDS)
        path = place / shards.pack_name(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pack_of([(place / shards.receipt_name(index)).read_text() for index in indices]))


def _pages(destination: str, rounds: int) -> list[float]:
    """Seconds of the first page of a listing, once the server has read the folder."""
    store = open_store(destination)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        found = list(islice(store.list(f"{shards.RECEIPTS}/"), _PAGE))
        seconds.append(time.perf_counter() - start)
        if not found:
            raise RuntimeError("there are no receipts to list")
    return seconds[1:]


def _resumes(destination: str, rounds: int) -> list[float]:
    """Seconds of `resume`, each with a Redis that knows nothing."""
    seconds = []
    for _ in range(rounds):
        with private_server() as url:
            start = time.perf_counter()
            handle = resume(destination, redis_url=url)
            seconds.append(time.perf_counter() - start)
            job = handle.status()
            if (job.shards_done, job.shards) != (job.shards - 1, len(Dataset(destination).plan)):
                raise RuntimeError(f"the scan found {job.shards_done} of {job.shards} shards")
    return seconds


def make_records(place: Path, count: int, missing: int = 1) -> None:
    """A destination as a job leaves it that has made `count` shards, some short of all: job, files, receipts."""
    samples = (count + missing) * _SHARD_SAMPLES
    spec, uploads = JobRequest(count=samples, shard_size=_SHARD_SAMPLES, seed=1).resolve(find_generator(GENERATOR))
    store = prepare(spec, place, uploads)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((_SHARD_SAMPLES, *spec.sample_shape), spec.dtype))
    content = buffer.getvalue()
    dataset = Dataset(place)
    (place / shards.SHARDS).mkdir()
    store.write(shards.receipt_name(0), b"")  # Makes the folder.

    def write(index: int) -> None:
        [name] = dataset.file_names(index)
        (place / name).write_bytes(content)
        receipt = _receipt(spec, index, name, content)
        (place / shards.receipt_name(index)).write_text(receipt.to_json())

    with ThreadPoolExecutor(_WRITERS) as writers:
        for _ in writers.map(write, range(count)):
            pass


def _receipt(spec: JobSpec, index: int, name: str, content: bytes) -> Receipt:
    shard = spec.plan[index]
    return Receipt(
        samples_sha256=spec.samples_sha256,
        shard=index,
        first=shard.first,
        count=shard.count,
        files=(StoredFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),),
        statistics=Statistics(
            minimum=0.0, maximum=0.0, mean=0.0, repeated=0, constant=shard.count,
            classes=None if spec.classes is None else (shard.count, *(0 for _ in spec.classes[1:])),
        ),
        made_by=EngineRecord(
            engine="xla", batch=512, precision="float32", device="cpu", device_name="bench",
            versions={"noisemill": "0", "tensorflow": "0", "keras": "0", "numpy": np.__version__},
        ),
        attempt=1,
        worker="bench-1",
        finished_at=time.time(),
        seconds=_STAGES,
    )  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _huge_spec() -> JobSpec:
    return JobRequest(count=_SAMPLES).resolve(find_generator(GENERATOR))[0]


def _enter(ledger: Ledger, job_id: str, job_shards: int, done: Iterator[tuple[int, int]] | tuple[()] = ()) -> None:
    """A job of this number of shards of one sample, in the ledger alone."""
    spec = replace(_huge_spec(), count=job_shards, shard_size=1)
    assert ledger.enter(NewJob(job_id=job_id, spec=spec, destination="/nowhere"), done=done)


def _command(settings: Settings, *arguments: str) -> float:
    """Seconds of a command, from start to end of its process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "NOISEMILL_REDIS_URL": settings.redis_url}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start
