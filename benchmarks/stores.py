"""What the stores cost beside what they stand on: boto3 and plain files, interleaved, on this machine alone.

S3 is `rclone serve s3` on loopback, which shares the processors with its client: read ratios, and processor time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from pipeline.stores import Store, open_store, s3_draft
from pipeline.stores.s3_bucket import Bucket
from tests.servers import RcloneS3

MIB = 2**20
ROUNDS = 4
LARGE_BYTES = 128 * MIB
#: What the mill hands over at a time: a batch of 512 samples of 28x28, float32.
PIECE_BYTES = 512 * 28 * 28 * 4
PICTURES = 300
PICTURE = os.urandom(700)
THREADS = 16

_PEAK = """
import json, resource, sys, time
from pipeline.stores import open_store

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

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


def run() -> dict[str, Any]:
    """Ratios and figures of each case; prints them."""
    figures: dict[str, Any] = {}
    with RcloneS3() as server, tempfile.TemporaryDirectory(prefix="noisemill-bench-") as folder:
        os.environ.update(server.environment)
        figures["npy"] = _large_objects(server)
        figures["overlap"] = _overlap(open_store(server.destination()))
        figures["png"] = _small_objects(server)
        for name, destination in (("S3Sink", server.destination()), ("LocalSink", str(Path(folder) / "local"))):
            figures[name] = peak_of_a_large_file(destination, mib=1024)
            print(f"1 GiB through {name}: peak of memory +{figures[name]['peak_mb']:.0f} MB, "
                  f"{figures[name]['seconds']:.1f} s")  # fmt: skip
    return figures


def peak_of_a_large_file(destination: str, mib: int) -> dict[str, float]:
    """What a process that streams a file of so many MiB adds to its peak of resident memory, MB of 10^6 bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, destination, str(mib)], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _large_objects(server: RcloneS3) -> dict[str, Any]:
    """A shard of 128 MiB through a draft, against boto3's own multipart upload of the same parts and concurrency."""
    store = open_store(server.destination())
    data = os.urandom(LARGE_BYTES)
    concurrency = s3_draft.CONCURRENT_PARTS
    transfer = TransferConfig(multipart_chunksize=8 * MIB, max_concurrency=concurrency, use_threads=True)
    client = Bucket(server.bucket).client

    def ours() -> None:
        draft = store.draft()
        sink = draft.sink("ours.npy")
        for start in range(0, LARGE_BYTES, PIECE_BYTES):
            sink.write(data[start : start + PIECE_BYTES])
        draft.commit()

    path = Path(server.folder) / "plain"
    path.write_bytes(data)

    def plain() -> None:
        client.upload_file(str(path), server.bucket, "plain.npy", Config=transfer)

    seconds = _interleaved({"draft": ours, "boto3": plain})
    ratios = [b / a for a, b in zip(seconds["draft"], seconds["boto3"], strict=True)]
    print(f"npy, 128 MiB to S3, {concurrency} parts at a time: {LARGE_BYTES / 1e6 / min(seconds['draft']):.0f} MB/s, "
          f"{_spread(ratios)} of boto3's own upload")  # fmt: skip
    return {"seconds": seconds, "ratios": ratios}


def _overlap(store: Store) -> dict[str, float]:
    """Whether the upload goes on while the next part is made: the making is a wait, as a device's is."""
    pieces = 10
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
    print(f"overlap: sending alone {sending:.2f} s, making alone {making:.2f} s, both {both:.2f} s")
    return {"sending_s": sending, "making_s": making, "both_s": both}


def _small_objects(server: RcloneS3) -> dict[str, Any]:
    """PUTs of 700 bytes from 16 threads, against a client as boto3 makes it."""
    bucket = Bucket(server.bucket)
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=32)
    plain = boto3.Session(botocore_session=botocore.session.Session()).client("s3", config=config)
    processor: dict[str, list[float]] = {"ours": [], "boto3": []}

    def put_all(name: str, put: Callable[[str], object]) -> None:
        start = time.process_time()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda number: put(f"{name}/{number}.png"), range(PICTURES)))
        processor[name].append((time.process_time() - start) / PICTURES * 1000)

    seconds = _interleaved({
        "ours": lambda: put_all("ours", lambda key: bucket.put(key, PICTURE)),
        "boto3": lambda: put_all("boto3", lambda key: plain.put_object(Bucket=server.bucket, Key=key, Body=PICTURE)),
    })  # fmt: skip
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["boto3"], strict=True)]
    told = {name: f"{statistics.median(times):.2f} ms" for name, times in processor.items()}
    rate = PICTURES / statistics.median(seconds["ours"])
    print(f"png, 700 bytes a PUT from {THREADS} threads: {rate:.0f} PUT/s, {_spread(ratios)} times boto3's defaults")
    print(f"processor time a PUT: {told['ours']}, not {told['boto3']}")
    return {"seconds": seconds, "ratios": ratios, "processor_ms": processor}


def _interleaved(cases: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each case, round by round; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
