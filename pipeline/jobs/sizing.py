"""The size of a job: shards, bytes and, if workers are up, time."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.formats.image import image_shape
from pipeline.formats.png_file import MOST_STORED_BYTES, StoredPng
from pipeline.jobs.worker_info import WorkerInfo
from pipeline.spec.job_spec import JobSpec

_ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
_LABEL_BYTES = 4
#: Size of a compressed PNG of a photograph-like image as a share of its raw bytes: a rough estimate.
_PNG_SHARE = 0.7
_PNG_LEAST_BYTES = 100
#: Bytes per value in lists of TFRecord and Parquet files: float32, and uint8 in 32 bits or, in TFRecord files, fewer.
_VALUE_BYTES = 4
#: What is stored with each sample: frame, names of features, label, index, and the entry in the file's index.
_AROUND_BYTES = {"tfrecord": 100, "parquet": 50}


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The size of a job."""

    count: int
    shards: int
    shard_size: int
    size_bytes: int
    #: Whether the bytes are an estimate, as for PNG; those of npy are exact.
    estimated: bool
    #: Seconds on the workers that are up; None if there are none.
    seconds: float | None
    workers: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def estimate_size(spec: JobSpec, workers: Sequence[WorkerInfo]) -> Sizing:
    """The size of a spec, and its time on these workers."""
    # The judge, mostly much smaller than the generator, is left out.
    evaluations = spec.best_of * (spec.sampling.evaluations if spec.sampling else 1)
    rate = sum(worker.rate * worker.evaluations / evaluations for worker in workers)
    return Sizing(
        count=spec.count,
        shards=len(spec.plan),
        shard_size=spec.shard_size,
        size_bytes=_size_bytes(spec),
        estimated=spec.format not in ("npy", "null"),
        seconds=spec.count / rate if rate else None,
        workers=len(workers),
    )


def _size_bytes(spec: JobSpec) -> int:
    raw = math.prod(spec.sample_shape) * _ITEM_BYTES[spec.dtype]
    if spec.format == "null":
        return 0
    if spec.format == "npy":
        samples = spec.count * raw + _header_bytes(spec, spec.dtype, spec.sample_shape)
        labels = _LABEL_BYTES * spec.count + _header_bytes(spec, "int32", ())
        return samples if spec.classes is None else samples + labels
    encoded = _encoded_bytes(spec, raw)
    if spec.format == "tar":
        encoded = 1024 + math.ceil(encoded / 512) * 512 + (1024 if spec.classes else 0)
    return spec.count * (encoded + _AROUND_BYTES.get(spec.format, 0))


def _encoded_bytes(spec: JobSpec, raw: int) -> int:
    """Bytes of a sample as a PNG or, if it is not an image of uint8, as values."""
    shape = image_shape(spec.sample_shape)
    if spec.dtype != "uint8" or shape is None:
        return math.prod(spec.sample_shape) * _VALUE_BYTES
    stored = StoredPng(shape).size_bytes
    return stored if stored <= MOST_STORED_BYTES else round(_PNG_LEAST_BYTES + raw * _PNG_SHARE)


def _header_bytes(spec: JobSpec, dtype: str, row_shape: tuple[int, ...]) -> int:
    """Bytes of the headers of all shards' .npy files, which have the same length even for a short last shard."""
    header = io.BytesIO()
    fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (spec.plan[0].count, *row_shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    return len(header.getvalue()) * len(spec.plan)
