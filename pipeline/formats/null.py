"""Writes no files: everything except writing, to find the bottleneck."""

from __future__ import annotations

from typing import Any, NoReturn

from numpy.typing import NDArray

from pipeline.common.errors import DatasetError
from pipeline.formats.format import BatchChecker, Labels, check_listed
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard
from pipeline.stores.store import Draft, Store


class NullFormat:
    """Counts samples and drops them."""

    name = "null"
    dtypes: tuple[str, ...] = ("float32", "float16", "uint8")
    layouts: tuple[str, ...] = ("flat",)
    libraries: tuple[str, ...] = ()
    per_sample = False

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """The generator's own values."""
        return "float32"

    def check(self, sample: SampleType) -> None:
        """Accepts any shape."""
        check_listed(self, sample)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> NullWriter:
        """Leaves `draft` empty."""
        return NullWriter(shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """No files."""
        return []

    def read(self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None) -> NoReturn:
        """Raises DatasetError."""
        raise DatasetError(f"{store.url} holds no samples: it was made with --format null")

    def read_rows(self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice) -> NoReturn:
        """Raises DatasetError."""
        self.read(store, shard, sample, labels)


class NullWriter:
    """Checks batches as the other formats do."""

    def __init__(self, shard: Shard, sample: SampleType) -> None:
        self._intake = BatchChecker(shard, sample)

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Counts samples."""
        self._intake.take(samples, labels)

    def close(self) -> None:
        """Checks the number of samples."""
        self._intake.finish()
