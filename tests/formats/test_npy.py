"""The npy format, read back by numpy itself."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats import FORMATS, Labels, SampleType
from pipeline.spec.plan import Shard
from pipeline.stores import Store
from tests.formats.suite import CLASSES, SHARD, FormatSuite, Samples, make_samples, write_shard


def _npy(array: Samples) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class TestNpy(FormatSuite):
    name = "npy"
    samples = (
        SampleType(shape=(4, 5, 1), dtype="float32", class_names=None),
        SampleType(shape=(4, 5, 3), dtype="uint8", class_names=CLASSES),
        SampleType(shape=(10,), dtype="float16", class_names=CLASSES),
        SampleType(shape=(2, 3, 4, 5, 6), dtype="float32", class_names=None),
    )
    refused = (
        (SampleType(shape=(4,), dtype="float64", class_names=None), "npy stores float32 or float16 or uint8"),
        (SampleType(shape=(4,), dtype="uint8", class_names=CLASSES, layout="class"), "no layout 'class'"),
    )

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        samples = np.load(root / "shards/00000003.npy", mmap_mode="r")
        assert isinstance(samples, np.memmap)
        labels = root / "shards/00000003.labels.npy"
        return np.array(samples), np.load(labels) if labels.exists() else None

    def damage(self, root: Path, sample: SampleType) -> Iterator[tuple[Path, bytes]]:
        path = root / "shards/00000003.npy"
        whole = path.read_bytes()
        yield from ((path, data) for data in _broken(whole))
        yield path, _npy(np.load(path)[:-1])
        yield path, _npy(np.asfortranarray(np.load(path)).astype("float64"))
        if sample.class_names is not None:
            path = root / "shards/00000003.labels.npy"
            yield path, path.read_bytes()[:-1]


def _broken(whole: bytes) -> Iterable[bytes]:
    return (b"", whole[:5], whole[:100], whole[:-1], b"x" + whole[1:], whole[:6] + b"\x09" + whole[7:])


def test_objects_are_never_unpickled(store: Store) -> None:
    sample = SampleType(shape=(), dtype="float32", class_names=None)
    store.write("shards/00000003.npy", _npy(np.array([print] * SHARD.count, dtype=object)))
    with pytest.raises(ValueError, match="malformed: it holds object"):
        FORMATS["npy"].read(store, SHARD, sample, None)


def test_files_are_byte_for_byte_numpys_own(store: Store) -> None:
    sample = SampleType(shape=(4, 5, 1), dtype="float32", class_names=None)
    samples, _ = make_samples(sample)
    write_shard(FORMATS["npy"], store, sample, samples, None)
    assert (Path(store.url) / "shards/00000003.npy").read_bytes() == _npy(samples)


def test_rows_are_read_without_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(index=0, first=0, count=2000)
    sample = SampleType(shape=(32, 32, 1), dtype="float32", class_names=None)
    samples, _ = make_samples(sample, count=shard.count)
    write_shard(FORMATS["npy"], store, sample, samples, None, shard=shard)
    file = Path(store.url) / "shards/00000000.npy"
    # Everything behind the rows that are asked for is cut off.
    file.write_bytes(file.read_bytes()[: 128 + 4096 * 20])
    rows = FORMATS["npy"].read_rows(store, shard, sample, None, slice(10, 20))
    np.testing.assert_array_equal(rows, samples[10:20])
