"""What every format must do.

A new format passes by subclassing FormatSuite and saying how to read its files by other means.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, UsageError
from pipeline.formats import FORMATS, Format, Labels, SampleType
from pipeline.spec.plan import Shard
from pipeline.stores import Store, StoredFile

CLASSES = ("T-shirt/top", "Trouser", "été")

#: Samples of a format that stores any shape: images, then others.
ANY_SHAPE = (
    SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES),
    SampleType(shape=(30, 31, 4), dtype="uint8", class_names=None),
    SampleType(shape=(6, 5, 3), dtype="float32", class_names=CLASSES),
    SampleType(shape=(10,), dtype="float16", class_names=None),
    SampleType(shape=(2, 3, 4, 5), dtype="uint8", class_names=CLASSES),
    SampleType(shape=(), dtype="float32", class_names=CLASSES),
)

#: Neither the first shard nor one that begins at a round number.
SHARD = Shard(index=3, first=21, count=7)

Samples = NDArray[Any]


def make_samples(sample: SampleType, count: int = SHARD.count, seed: int = 0) -> tuple[Samples, Labels | None]:
    """Samples and labels of this type, different for every seed."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (count, *sample.shape))
    samples = values.astype(sample.dtype) if sample.dtype == "uint8" else (values / 128 - 1).astype(sample.dtype)
    if sample.class_names is None:
        return samples, None
    return samples, random.integers(0, len(sample.class_names), count).astype(np.int32)


def write_shard(
    format_: Format,
    store: Store,
    sample: SampleType,
    samples: Samples,
    labels: Labels | None,
    *,
    shard: Shard = SHARD,
    cuts: Iterable[int] = (),
) -> list[StoredFile]:
    """Writes one shard in batches that end at `cuts`."""
    draft = store.draft()
    writer = format_.writer(draft, shard, sample)
    for start, stop in pairwise([0, *cuts, len(samples)]):
        writer.write(samples[start:stop], None if labels is None else labels[start:stop])
    writer.close()
    return draft.commit()


class FormatSuite:
    """The contract of `Format` and `ShardWriter`, for formats whose files can be read."""

    #: The name of the format.
    name: str
    #: Sample types that it stores.
    samples: tuple[SampleType, ...]
    #: Sample types that it refuses, each with words of the message.
    refused: tuple[tuple[SampleType, str], ...]

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        """Samples and labels of SHARD below `root`, read by means other than the format's own."""
        raise NotImplementedError

    def damage(self, root: Path, sample: SampleType) -> Iterable[tuple[Path, bytes]]:
        """Files of SHARD, each with content that is not what it should be."""
        raise NotImplementedError

    @pytest.fixture
    def format_(self) -> Format:
        return FORMATS[self.name]

    def test_its_defaults_are_among_what_it_knows(self, format_: Format) -> None:
        assert format_.name == self.name
        assert all(format_.default_dtype(sample.shape) in format_.dtypes for sample in self.samples)
        assert format_.layouts[0] == "flat"

    def test_what_it_refuses(self, format_: Format) -> None:
        for sample, words in self.refused:
            with pytest.raises(UsageError, match=words):
                format_.check(sample)

    def test_others_can_read_it(self, format_: Format, store: Store) -> None:
        for seed, sample in enumerate(self.samples):
            format_.check(sample)
            samples, labels = make_samples(sample, seed=seed)
            write_shard(format_, store, sample, samples, labels, cuts=(3,))
            found, found_labels = self.read_otherwise(Path(store.url), sample)
            _assert_equal(found, samples)
            assert (labels is None) == (found_labels is None)
            if labels is not None and found_labels is not None:
                _assert_equal(found_labels.astype(np.int32), labels)
            _clear(store)

    def test_it_reads_what_it_wrote(self, format_: Format, store: Store) -> None:
        self._check_round_trip(format_, store)

    def test_it_reads_what_it_wrote_to_s3(self, format_: Format, s3_store: Store) -> None:
        self._check_round_trip(format_, s3_store)

    def _check_round_trip(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            write_shard(format_, store, sample, samples, labels)
            found, found_labels = format_.read(store, SHARD, sample, labels)
            _assert_equal(found, samples)
            if labels is None:
                assert found_labels is None
            else:
                assert found_labels is not None
                _assert_equal(found_labels, labels)

    @pytest.mark.parametrize(
        "rows", [slice(0, 1), slice(2, 5), slice(6, None), slice(None), slice(3, 3), slice(-2, 99)]
    )
    def test_read_rows(self, format_: Format, store: Store, rows: slice) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            write_shard(format_, store, sample, samples, labels)
            _assert_equal(format_.read_rows(store, SHARD, sample, labels, rows), samples[rows])

    def test_rows_have_no_step(self, format_: Format, store: Store) -> None:
        samples, labels = make_samples(self.samples[0])
        write_shard(format_, store, self.samples[0], samples, labels)
        with pytest.raises(ValueError, match="step"):
            format_.read_rows(store, SHARD, self.samples[0], labels, slice(0, 6, 2))

    def test_names_are_the_files_in_the_order_written(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            files = write_shard(format_, store, sample, samples, labels)
            assert [file.name for file in files] == format_.names(SHARD, sample, labels)

    def test_the_same_bytes_however_batches_are_cut(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            whole = write_shard(format_, store, sample, samples, labels)
            for cuts in ((1,), (0, 3, 3), range(1, 7)):
                assert write_shard(format_, store, sample, samples, labels, cuts=cuts) == whole

    def test_another_attempt_replaces_the_first(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            first, labels = make_samples(sample, seed=1)
            second, _ = make_samples(sample, seed=2)
            for samples in (first, second):
                write_shard(format_, store, sample, samples, labels)
            _assert_equal(format_.read(store, SHARD, sample, labels)[0], second)

    def test_a_shard_of_one_sample(self, format_: Format, store: Store) -> None:
        shard = Shard(index=0, first=0, count=1)
        for sample in self.samples:
            samples, labels = make_samples(sample, count=1)
            write_shard(format_, store, sample, samples, labels, shard=shard)
            _assert_equal(format_.read(store, shard, sample, labels)[0], samples)

    def test_writers_check_what_they_are_given(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            wrong_labels = np.zeros(SHARD.count, dtype=np.int32) if labels is None else None
            wrong = [
                (samples[..., :-1], labels),
                (samples.astype("float64"), labels),
                (samples[::-1], labels),
                (samples, wrong_labels),
                (np.concatenate([samples, samples]), None if labels is None else np.concatenate([labels, labels])),
            ]
            if labels is not None:
                wrong += [(samples, bad) for bad in (labels + 100, labels - 100, labels[:3], labels.astype(np.int64))]
            for bad_samples, bad_labels in wrong:
                draft = store.draft()
                with pytest.raises(ValueError, match=r"samples|labels"):
                    format_.writer(draft, SHARD, sample).write(bad_samples, bad_labels)
                draft.discard()

    def test_missing_samples_are_noticed(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            draft = store.draft()
            writer = format_.writer(draft, SHARD, sample)
            writer.write(samples[:5], None if labels is None else labels[:5])
            with pytest.raises(ValueError, match="7 samples, 5 came"):
                writer.close()
            draft.discard()
        assert list(store.list()) == []

    def test_missing_files_are_named(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            for name in format_.names(SHARD, sample, labels):
                write_shard(format_, store, sample, samples, labels)
                store.delete([name])
                with pytest.raises(DatasetError, match=f"{name} is missing"):
                    format_.read(store, SHARD, sample, labels)

    def test_malformed_files_are_named(self, format_: Format, store: Store) -> None:
        for sample in self.samples:
            samples, labels = make_samples(sample)
            write_shard(format_, store, sample, samples, labels)
            for path, data in list(self.damage(Path(store.url), sample)):
                whole = path.read_bytes()
                path.write_bytes(data)
                with pytest.raises(DatasetError, match=f"{path.name} is malformed"):
                    format_.read(store, SHARD, sample, labels)
                path.write_bytes(whole)
            _clear(store)


def _clear(store: Store) -> None:
    store.delete([entry.name for entry in store.list()])


def _assert_equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
