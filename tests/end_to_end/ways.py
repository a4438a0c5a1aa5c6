"""Twelve ways to make one dataset, and the check that they make the same samples."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import Fleet

#: Names, and options beside count and seed; "s3" in a name: the destination.
WAYS = [
    ("shards", ["--shard-size", "128"]),
    ("odd-shards", ["--shard-size", "77"]),
    ("one-worker", ["--shard-size", "128", "--workers", "1"]),
    ("small-batch", ["--batch", "64"]),
    ("large-batch", ["--batch", "512"]),
    ("half", ["--dtype", "float16"]),
    ("bytes", ["--dtype", "uint8"]),
    ("png", ["--format", "png", "--shard-size", "100"]),
    ("png-class", ["--format", "png", "--layout", "class"]),
    ("tar", ["--format", "tar", "--shard-size", "250"]),
    ("tfrecord", ["--format", "tfrecord"]),
    ("parquet", ["--format", "parquet", "--dtype", "float32"]),
    ("s3", ["--shard-size", "128"]),
    ("s3-png", ["--format", "png"]),
]


def made(fleet: Fleet, generator: str, name: str, *arguments: str) -> Dataset:
    """A dataset that the fleet's workers make, below its folder or in S3."""
    destination = name if name.startswith("s3://") else str(fleet.folder / name)
    job = fleet.submit(generator, destination, *arguments)
    done = fleet.watch(job)
    assert done.returncode == 0, done.stderr
    return Dataset(destination)


def check_same(dataset: Dataset, reference: Dataset) -> None:
    """Asserts that samples of -1 to 1 are those of the reference, which is float32."""
    count = len(reference)
    assert np.array_equal(dataset.rows(0, count), reference.rows(0, count))
    assert np.array_equal(_labels(dataset), _labels(reference))
    samples, expected = dataset.samples(0, count), reference.samples(0, count)
    if samples.dtype == np.float32:
        # Workers may choose other engines, by how busy the machine was when each of them measured.
        same = _engines(dataset) == _engines(reference)
        assert np.array_equal(samples, expected) if same else np.allclose(samples, expected, rtol=0, atol=2e-6)
    elif samples.dtype == np.float16:
        assert np.allclose(samples, expected, rtol=0, atol=1e-3)
    else:
        levels = np.rint((np.clip(expected, -1, 1) + 1) / 2 * 255)
        assert np.abs(samples.astype(int) - levels).max() <= 1
        assert (samples != levels).mean() < 0.001


def _labels(dataset: Dataset) -> np.ndarray:
    labels = dataset.labels(0, len(dataset))
    assert labels is not None
    return labels


def _engines(dataset: Dataset) -> set[tuple[str, int]]:
    manifest = dataset.manifest()
    assert manifest is not None
    return {(record.engine, record.batch) for record in manifest.made_by}
