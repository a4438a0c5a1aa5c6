"""A dataset as it lies at its destination, finished or growing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import shards
from pipeline.errors import DatasetError, UsageError
from pipeline.formats import FORMATS
from pipeline.inputs import Inputs
from pipeline.receipts import Manifest, Receipt
from pipeline.spec import JobSpec
from pipeline.stores import open_store

_READERS = 16


class Dataset:
    """Samples, labels, latents and records of the dataset at a destination.

        dataset = Dataset("out")
        sample, label = dataset[123]

    Raises DatasetError if the destination holds no job, or what it holds is malformed.
    """

    def __init__(self, destination: str | os.PathLike[str]) -> None:
        self.store = open_store(destination)
        try:
            text = self.store.read(shards.JOB)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"{self.store.url} holds no dataset: there is no {shards.JOB}") from None
        self.spec = JobSpec.from_json(text, source=f"{self.store.url}/{shards.JOB}")
        self.plan = self.spec.plan
        self._format = FORMATS[self.spec.format]
        try:
            self._format.check(self.spec.sample_type)
        except UsageError as error:
            raise DatasetError(f"{self.store.url}/{shards.JOB}: {error}") from None
        self._inputs = Inputs(self.spec, self.store)

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.store.url

    def __len__(self) -> int:
        """Number of samples of the job, made or not."""
        return self.spec.count

    def __getitem__(self, index: int) -> tuple[NDArray[Any], int | None]:
        """Sample (shape and dtype as stored) and label of one index, negative ones from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        sample = self.samples(index, 1)[0]
        labels = self.labels(index, 1)
        return sample, None if labels is None else int(labels[0])

    def samples(self, first: int, count: int) -> NDArray[Any]:
        """Samples `first` to `first + count - 1`, shape (count, *sample_shape), dtype as stored."""
        parts = []
        while count > 0:
            shard = self.plan[first // self.spec.shard_size]
            start = first - shard.first
            stop = min(shard.count, start + count)
            labels = self._inputs.labels(shard.first, shard.count)
            rows = slice(start, stop)
            parts.append(self._format.read_rows(self.store, shard, self.spec.sample_type, labels, rows))
            first, count = first + stop - start, count - (stop - start)
        if not parts:
            return np.empty((0, *self.spec.sample_shape), dtype=self.spec.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def labels(self, first: int, count: int) -> NDArray[np.int32] | None:
        """Labels by the plan, int32 of shape (count,); None for a generator without classes."""
        return self._inputs.labels(first, count)

    def latents(self, first: int, count: int) -> NDArray[np.float32]:
        """Latents, float32 of shape (count, *latent_shape)."""
        return self._inputs.latents(first, count).reshape(count, *self.spec.latent_shape)

    def shards(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int32] | None]]:
        """Samples and labels of each shard, in order."""
        for shard in self.plan:
            yield self.samples(shard.first, shard.count), self.labels(shard.first, shard.count)

    def file_names(self, index: int) -> list[str]:
        """The files that a shard consists of, in the order in which they are written."""
        shard = self.plan[index]
        labels = self._inputs.labels(shard.first, shard.count) if self.spec.layout == "class" else None
        return self._format.names(shard, self.spec.sample_type, labels)

    def receipt(self, index: int) -> Receipt | None:
        """The receipt of a shard; None if there is none. Raises DatasetError if it is malformed or another's.

        One of the time before the dataset was extended, when the shard held fewer samples, is none.
        """
        name = shards.receipt_name(index)
        try:
            receipt = Receipt.from_json(self.store.read(name), source=f"{self.store.url}/{name}")
        except FileNotFoundError:
            return None
        if not receipt.belongs_to(self.spec.samples_sha256, self.plan[index]):
            raise DatasetError(f"{self.store.url}/{name} belongs to another job")
        if receipt.count < self.plan[index].count:
            return None
        counted, classes = receipt.statistics.classes, self.spec.classes
        if (counted is None) != (classes is None) or len(counted or ()) != len(classes or ()):
            raise DatasetError(f"{self.store.url}/{name} counts other classes than {shards.JOB} has")
        expected = self.file_names(index)
        if [file.name for file in receipt.files] != expected:
            raise DatasetError(f"{self.store.url}/{name} names other files than the {len(expected)} that it must have")
        return receipt

    def manifest(self) -> Manifest | None:
        """The manifest; None while the dataset is not whole. Raises DatasetError if it is malformed."""
        source = f"{self.store.url}/{shards.MANIFEST}"
        try:
            return Manifest.from_json(self.store.read(shards.MANIFEST), source=source)
        except FileNotFoundError:
            return None

    def finished(self) -> dict[int, Receipt]:
        """The shards that are done, by index: a sound receipt, and files of the sizes that it names.

        What is malformed or cut short does not count, so that it is made again. Contents are not
        hashed; that is `verify`.
        """
        receipts = self.receipts()
        if not receipts:
            return {}
        sizes = {entry.name: entry.size_bytes for entry in self.store.list("")}
        return {
            index: receipt
            for index, receipt in receipts.items()
            if all(sizes.get(file.name) == file.size_bytes for file in receipt.files)
        }

    def finished_shard(self, index: int) -> Receipt | None:
        """The receipt of a shard that is done, as `finished` judges it; None where it is not."""
        receipt = self._sound_receipt(index)
        if receipt is None:
            return None
        common = os.path.commonprefix([file.name for file in receipt.files])  # noqa: RUF071 (a store's prefix is one)
        sizes = {entry.name: entry.size_bytes for entry in self.store.list(common)} if receipt.files else {}
        return receipt if all(sizes.get(file.name) == file.size_bytes for file in receipt.files) else None

    def receipts(self) -> dict[int, Receipt]:
        """All sound receipts of this job, by shard index."""
        found = (shards.receipt_index(entry.name) for entry in self.store.list(shards.RECEIPTS + "/"))
        indices = [index for index in found if index is not None and index < len(self.plan)]
        with ThreadPoolExecutor(_READERS) as readers:
            receipts = readers.map(self._sound_receipt, indices)
            return {index: receipt for index, receipt in zip(indices, receipts, strict=True) if receipt}

    def _sound_receipt(self, index: int) -> Receipt | None:
        try:
            return self.receipt(index)
        except DatasetError:
            return None

    @property
    def whole(self) -> bool:
        """Whether a sound manifest of this very job says that all samples are there."""
        try:
            manifest = self.manifest()
        except DatasetError:
            return False
        return manifest is not None and manifest.spec_sha256 == self.spec.sha256
