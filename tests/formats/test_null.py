"""The null format: the same checks as the others, no files."""

from __future__ import annotations

import pytest

from pipeline.common.errors import DatasetError
from pipeline.formats import FORMATS, SampleType
from pipeline.stores import Store
from tests.formats.suite import CLASSES, SHARD, make_samples, write_shard

NULL = FORMATS["null"]
SAMPLE = SampleType(shape=(6, 5, 1), dtype="float32", class_names=CLASSES)


def test_nothing_is_written(store: Store) -> None:
    NULL.check(SAMPLE)
    samples, labels = make_samples(SAMPLE)
    assert write_shard(NULL, store, SAMPLE, samples, labels, cuts=(3,)) == []
    assert NULL.names(SHARD, SAMPLE, labels) == []
    assert list(store.list()) == []


def test_samples_are_counted_and_checked(store: Store) -> None:
    samples, labels = make_samples(SAMPLE)
    writer = NULL.writer(store.draft(), SHARD, SAMPLE)
    with pytest.raises(ValueError, match="not C-contiguous"):
        writer.write(samples.astype("float16"), labels)
    with pytest.raises(ValueError, match="7 samples, 0 came"):
        writer.close()


def test_nothing_can_be_read(store: Store) -> None:
    with pytest.raises(DatasetError, match="--format null"):
        NULL.read(store, SHARD, SAMPLE, None)
    with pytest.raises(DatasetError, match="--format null"):
        NULL.read_rows(store, SHARD, SAMPLE, None, slice(0, 1))
