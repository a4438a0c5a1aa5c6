"""The cost of the stores, compared with boto3 and plain files; interleaved, on this machine alone.

S3 is `rclone serve s3` on loopback, which shares the processors with its client: read ratios, and processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.stores import Store, open_store, s3_draft
from pipeline.stores.s3_bucket import Bucket
from tests.servers import RcloneS3

MIB = 2**20
LARGE_BYTES = 128 * MIB
#: What the mill hands over at a time: a batch of 512 samples of 28x28, float32.
PIECE_BYTES = 512 * 28 * 28 * 4
PICTURES = 600
PICTURE = os.urandom(700)
THREADS = 16

_PEAK = """
import json, sys, time
from pathlib import Path
from pipeline.stores import open_store

def peak_mb():
    # Not getrusage: its value begins with the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6

store = open_store(sys.argv[1])
store.write("warm", b"up")
piece = bytes(2**20)
before, start = peak_mb(), time.perf_counter()
draft = store.draft()
sink = draft.sink("large.npy")
for _ in range(int(sys.argv[2])):
    sink.write(piece)
draft.commit()
print(json.dumps({"peak_mb": peak_mb() - before, "seconds": time.perf_counter() - start}))
"""


def run(effort: Effort) -> Result:
    """Ratios to boto3's own ways, and the memory that a large file takes."""
    # rclone hashes an object whenever it is asked about one, 0.3 s for 100 MB; servers that keep an ETag do not.
    os.environ["RCLONE_ETAG_HASH"] = "none"
    with RcloneS3() as server, folder() as place:
        os.environ.update(server.environment)
        figures = [
            *_large_objects(server, effort),
            _overlap(open_store(server.destination()), effort),
            *_small_objects(server, effort),
        ]
        for name, destination in (("S3", server.destination()), ("local disk", str(place / "local"))):
            peak = peak_of_a_large_file(destination, mib=max(16, round(1024 * effort.share)))
            figures.append(Figure(case=f"peak of memory, 1 GiB to {name}", unit="MB", values=[peak["peak_mb"]]))
    note = (
        f"npy: a file of {LARGE_BYTES // MIB} MiB in pieces of a batch. Overlap: of the shorter of making and sending, "
        f"what was hidden. png: PUTs of {len(PICTURE)} bytes from {THREADS} threads."
    )
    return Result(title="S3 on loopback against boto3's own ways", figures=figures, notes=[note])


def peak_of_a_large_file(destination: str, mib: int) -> dict[str, float]:
    """By how much streaming a file of this size (MiB) raises the peak of resident memory, MB of 10^6 bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, destination, str(mib)], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _large_objects(server: RcloneS3, effort: Effort) -> list[Figure]:
    """A shard of 128 MiB through a draft, against boto3's own multipart upload of the same parts and concurrency."""
    store = open_store(server.destination())
    size = max(9 * MIB, round(LARGE_BYTES * effort.share))
    data = memoryview(os.urandom(size))
    concurrency = s3_draft.CONCURRENT_PARTS
    transfer = TransferConfig(multipart_chunksize=8 * MIB, max_concurrency=concurrency, use_threads=True)
    client = Bucket(server.bucket).client

    def ours() -> None:
        draft = store.draft()
        sink = draft.sink("ours.npy")
        for start in range(0, size, PIECE_BYTES):
            sink.write(data[start : start + PIECE_BYTES])
        draft.commit()

    path = Path(server.folder) / "plain"
    path.write_bytes(data)

    def plain() -> None:
        client.upload_file(str(path), server.bucket, "plain.npy", Config=transfer)

    seconds = _interleaved({"draft": ours, "boto3": plain}, effort)
    ratios = [theirs / mine for mine, theirs in zip(seconds["draft"], seconds["boto3"], strict=True)]
    speed = [size / 1e6 / each for each in seconds["draft"]]
    return [
        Figure(case=f"npy, {concurrency} parts at a time, to boto3's own upload", values=ratios),
        Figure(case="npy, speed", unit="MB/s", values=speed),
    ]


def _overlap(store: Store, effort: Effort) -> Figure:
    """Whether the upload goes on while the next part is made: the making is a wait, as a device's is."""
    pieces = max(2, round(10 * effort.share))
    data = os.urandom(8 * MIB)

    def send(make_s: float) -> float:
        start = time.perf_counter()
        draft = store.draft()
        sink = draft.sink("overlap.npy")
        for _ in range(pieces):
            time.sleep(make_s)
            sink.write(data)
        draft.commit()
        return time.perf_counter() - start

    sending = min(send(0) for _ in range(2))
    making = sending * 1.5
    both = min(send(making / pieces) for _ in range(2))
    hidden = (sending + making - both) / min(sending, making)
    return Figure(case="npy, overlap of making and sending", values=[hidden])


def _small_objects(server: RcloneS3, effort: Effort) -> list[Figure]:
    """PUTs of 700 bytes from 16 threads, against a client as boto3 makes it."""
    bucket = Bucket(server.bucket)
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=32)
    pictures = effort.samples(PICTURES)
    plain = boto3.Session(botocore_session=botocore.session.Session()).client("s3", config=config)
    processor: dict[str, list[float]] = {"ours": [], "boto3": []}

    def put_all(name: str, put: Callable[[str], object]) -> None:
        start = time.process_time()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda number: put(f"{name}/{number}.png"), range(pictures)))
        processor[name].append((time.process_time() - start) / pictures * 1000)

    seconds = _interleaved({
        "ours": lambda: put_all("ours", lambda key: bucket.put(key, PICTURE)),
        "boto3": lambda: put_all("boto3", lambda key: plain.put_object(Bucket=server.bucket, Key=key, Body=PICTURE)),
    }, effort)  # fmt: skip
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["boto3"], strict=True)]
    rates = [pictures / each for each in seconds["ours"]]
    return [
        Figure(case="png, to boto3's defaults", values=ratios, rates=rates),
        Figure(case="png, processor time a PUT", unit="ms", values=processor["ours"][1:]),
        Figure(case="png, processor time a PUT by boto3's defaults", unit="ms", values=processor["boto3"][1:]),
    ]


def _interleaved(cases: dict[str, Callable[[], None]], effort: Effort) -> dict[str, list[float]]:
    """Seconds of each case, round by round; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(effort.rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds
