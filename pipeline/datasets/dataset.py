"""Reads a dataset at its destination, complete or not."""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.common.adaptive_map import adaptive_map
from pipeline.common.errors import DatasetError, UsageError
from pipeline.common.garbage import kept_objects
from pipeline.datasets.candidates import Candidates, bits_of, unpack
from pipeline.datasets.inputs import Inputs
from pipeline.datasets.packs import are_packed, packed_receipts
from pipeline.datasets.reading import RowReader
from pipeline.datasets.receipts import Manifest, Receipt
from pipeline.formats import FORMATS
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import Shard
from pipeline.spec.selection import Selection, selection_from_json
from pipeline.stores import open_store
from pipeline.stores.records import read_record
from pipeline.stores.store import Entry, Store

#: Threads that read receipts, the number of receipts in the first task, by which it is decided whether threads help,
#: and in each of the others.
_READERS = 32
_TRIED = 8
_MOST_AT_A_TIME = 64
#: Shards in a part of a listing.
_SHARDS_LISTED = 2**13

#: Bytes of samples to cache, if the store or the format makes single reads slow.
_CACHE_BYTES = 256 * 2**20
#: Samples read at a time during iteration.
_STRIDE = 1024


class Dataset:
    """Samples, labels, latents and records of the dataset at a destination, of any format, local or in S3.

        dataset = Dataset("out")
        sample, label = dataset[123]
        samples, labels = dataset[-100:]

    It can be opened while its job still runs. Its length is that of the complete dataset, so an index always means the
    same sample. `available` is the number of samples made so far; iteration yields those, and reading a sample that is
    not made yet raises DatasetError. Returned arrays are copies, with shapes and dtypes as stored.

    May be used by several threads, pickled, and used in a forked process, as PyTorch's DataLoader does.
    At most `cache_bytes` of samples are cached if single reads are slow (S3, tar, parquet).
    Raises DatasetError if the destination has no job, or its job is malformed.
    """

    def __init__(self, destination: str | os.PathLike[str], *, cache_bytes: int = _CACHE_BYTES) -> None:
        store = open_store(destination)
        try:
            text = read_record(store, shards.JOB)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"{store.url} holds no dataset: there is no {shards.JOB}") from None
        self.spec = JobSpec.from_json(text, source=f"{store.url}/{shards.JOB}")
        self.plan = self.spec.plan
        self._format = FORMATS[self.spec.format]
        try:
            self._format.check(self.spec.sample_type)
        except UsageError as error:
            raise DatasetError(f"{store.url}/{shards.JOB}: {error}") from None
        self._cache_bytes = cache_bytes
        #: Shards known to be made.
        self._made: set[int] = set()
        self._all_made = False
        self._open(store)

    def _open(self, store: Store) -> None:
        self._store = store
        self._process = os.getpid()
        self._readable_inputs = Inputs(self.spec, store)
        self._readable_rows = RowReader(self.spec, store, self._cache_bytes)

    def _reopen_after_fork(self) -> None:
        # Connections to S3 must not be shared with the parent process.
        if self._process != os.getpid():
            self._open(open_store(self._store.url))

    def __reduce__(self) -> Any:
        return _reopened, (self.url, self._cache_bytes)

    @property
    def store(self) -> Store:
        """The store of its files."""
        self._reopen_after_fork()
        return self._store

    @property
    def _inputs(self) -> Inputs:
        self._reopen_after_fork()
        return self._readable_inputs

    @property
    def _rows(self) -> RowReader:
        self._reopen_after_fork()
        return self._readable_rows

    @property
    def url(self) -> str:
        """The URL or path of its destination."""
        return self._store.url

    def __len__(self) -> int:
        """Number of samples of the job, made or not."""
        return self.spec.count

    @property
    def available(self) -> int:
        """Number of samples that can be read now: those of finished shards."""
        if self.whole:
            return self.spec.count
        return sum(self.plan[index].count for index in self.receipts())

    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[Any], NDArray[np.int32] | None]: ...

    @overload
    def __getitem__(self, index: int) -> tuple[NDArray[Any], int | None]: ...

    def __getitem__(self, index: Any) -> tuple[NDArray[Any], Any]:
        """Sample and label at an index, negative ones from the end; for a slice, arrays of both.

        Labels are None for a generator without classes. Raises IndexError, DatasetError.
        """
        if isinstance(index, slice):
            return self._slice(range(*index.indices(len(self))))
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        samples, labels = self._slice(range(position % len(self), position % len(self) + 1))
        return samples[0], None if labels is None else int(labels[0])

    def _slice(self, indices: range) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
        if indices.step == 1:
            return self.samples(indices.start, len(indices)), self.labels(indices.start, len(indices))
        ascending = indices if indices.step > 0 else indices[::-1]
        each = [self.samples(position, 1) for position in ascending]
        samples = np.concatenate(each) if each else self.samples(0, 0)
        labels = self.labels(ascending.start, ascending.stop - ascending.start) if each else self.labels(0, 0)
        labels = None if labels is None else labels[:: ascending.step]
        if indices.step > 0:
            return samples, labels
        return samples[::-1].copy(), None if labels is None else labels[::-1].copy()

    def __iter__(self) -> Iterator[tuple[NDArray[Any], int | None]]:
        """Available samples and labels, in order."""
        for shard in self._readable():
            for first in range(shard.first, shard.first + shard.count, _STRIDE):
                count = min(_STRIDE, shard.first + shard.count - first)
                samples, labels = self.samples(first, count), self.labels(first, count)
                for row in range(count):
                    yield samples[row], None if labels is None else int(labels[row])

    def samples(self, first: int, count: int) -> NDArray[Any]:
        """Samples `first` to `first + count - 1`, shape (count, *sample_shape), dtype as stored."""
        parts = []
        while count > 0:
            shard = self.plan[first // self.spec.shard_size]
            self._check_made(shard)
            rows = range(first - shard.first, min(shard.count, first - shard.first + count))
            parts.append(self._rows.read(shard, lambda shard=shard: self.labels(shard.first, shard.count), rows))  # type: ignore[misc]
            first, count = first + len(rows), count - len(rows)
        if not parts:
            return np.empty((0, *self.spec.sample_shape), dtype=self.spec.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def labels(self, first: int = 0, count: int | None = None) -> NDArray[np.int32] | None:
        """Labels by the plan, int32 of shape (count,), all by default; None for a generator without classes."""
        return self._inputs.labels(first, len(self) - first if count is None else count)

    def latents(self, first: int, count: int = 1) -> NDArray[np.float32]:
        """Latents, float32 of shape (count, *latent_shape); of several candidates, those of the winners.

        Winners are known once their shard is made. Raises DatasetError before.
        """
        winners = self.winners(first, count)
        if winners is None:
            return self._inputs.latents(first, count).reshape(count, *self.spec.latent_shape)
        best_of, rows = self.spec.best_of, []
        for start in range(0, count, _STRIDE):
            some = winners[start : start + _STRIDE]
            each = self._inputs.latents((first + start) * best_of, len(some) * best_of)
            rows.append(each[np.arange(len(some)) * best_of + some])
        return np.concatenate(rows or [self._inputs.latents(0, 0)]).reshape(count, *self.spec.latent_shape)

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Latent, noise and attributes of all candidates side by side, as fed to the generator.

        Float32 (count * best_of, row_dim), the candidates of a sample one after another.
        """
        return self._inputs.rows(first, count)

    def winners(self, first: int, count: int) -> NDArray[np.int32] | None:
        """Which candidate became each sample, int32 (count,); None if there was no choice.

        Raises DatasetError for samples that are not made yet.
        """
        if self.spec.best_of == 1:
            return None
        return self._of_candidates(first, count, lambda each: (each.winners, bits_of(self.spec.best_of)))

    def below_min_score(self, first: int = 0, count: int | None = None) -> NDArray[np.int64]:
        """Indices of the samples in this range whose score is below the job's minimum; of all available by default.

        Empty if the job has no minimum score. Raises DatasetError for a range that is not made yet.
        """
        if self.spec.min_score is None:
            return np.empty(0, np.int64)
        if count is None:
            ranges = [(self.plan[index].first, self.plan[index].count) for index in self.made()]
        else:
            ranges = [(first, count)]
        found = [
            start + np.flatnonzero(self._of_candidates(start, length, lambda each: (each.below or "", 1)))
            for start, length in ranges
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _of_candidates(
        self, first: int, count: int, packed: Callable[[Candidates], tuple[str, int]]
    ) -> NDArray[np.int32]:
        """Numbers in the receipts for a range of samples; `packed` is the text of a shard, and the bits of each."""
        parts = []
        while count > 0:
            shard = self.plan[first // self.spec.shard_size]
            receipt = self.receipt(shard.index)
            if receipt is None or receipt.candidates is None:
                raise DatasetError(f"which candidates won is known once shard {shard.index} of {self.url} is made")
            text, bits = packed(receipt.candidates)
            taken = min(count, shard.first + shard.count - first)
            parts.append(unpack(text, shard.count, bits)[first - shard.first :][:taken])
            first, count = first + taken, count - taken
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def shards(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int32] | None]]:
        """Samples and labels of each finished shard, in order."""
        for shard in self._readable():
            yield self.samples(shard.first, shard.count), self.labels(shard.first, shard.count)

    def _readable(self) -> Iterator[Shard]:
        """All shards of a complete dataset, so that damage is noticed; else the finished ones."""
        return (self.plan[index] for index in self.made())

    def _check_made(self, shard: Shard) -> None:
        """Raises DatasetError unless the shard has been made. Does not check its content."""
        if not self.made_of([shard.index]):
            raise DatasetError(
                f"sample {shard.first} of {self.url} has not been made yet, nor the others of shard {shard.index}: "
                f"`available` is the number of samples made so far"
            )

    def made_of(self, indices: Iterable[int]) -> set[int]:
        """Those of these shards that have been made. Reads the receipts of unknown ones, and checks no contents."""
        asked = set(indices)
        unknown = asked - self._made
        if not unknown or self._all_made:
            return asked
        if self.whole:
            self._all_made = True
            return asked
        self._made.update(index for index in unknown if self._valid_receipt(index) is not None)
        return asked & self._made

    def file_names(self, index: int) -> list[str]:
        """The files of a shard, in the order in which they are written."""
        return self._file_names(self.plan[index])

    def _file_names(self, shard: Shard) -> list[str]:
        labels = self._inputs.labels(shard.first, shard.count) if self.spec.layout == "class" else None
        return self._format.names(shard, self.spec.sample_type, labels)

    def receipt(self, index: int) -> Receipt | None:
        """The receipt of a shard; None if there is none. Raises DatasetError if it is malformed or another job's.

        A receipt from before an extension, for a shard with fewer samples, counts as none.
        """
        try:
            text = read_record(self.store, shards.receipt_name(index))
        except FileNotFoundError:
            return None
        return self._parsed_receipt(index, text)

    def _parsed_receipt(self, index: int, text: bytes) -> Receipt | None:
        name, shard = shards.receipt_name(index), self.plan[index]
        receipt = Receipt.from_json(text, source=f"{self.store.url}/{name}")
        if not receipt.belongs_to(self.spec.samples_sha256, shard):
            raise DatasetError(f"{self.store.url}/{name} belongs to another job")
        if receipt.count < shard.count:
            return None
        counted, classes = receipt.statistics.classes, self.spec.classes
        if (counted is None) != (classes is None) or len(counted or ()) != len(classes or ()):
            raise DatasetError(f"{self.store.url}/{name} counts other classes than {shards.JOB} has")
        if not self._has_candidates(receipt):
            raise DatasetError(f"{self.store.url}/{name} has other candidates than {shards.JOB}")
        expected = self._file_names(shard)
        if [file.name for file in receipt.files] != expected:
            raise DatasetError(f"{self.store.url}/{name} names other files than the {len(expected)} that it must have")
        return receipt

    def _has_candidates(self, receipt: Receipt) -> bool:
        """Whether a receipt says which candidates won, if there was a choice, and nothing of it otherwise."""
        spec, found = self.spec, receipt.candidates
        if found is None or spec.best_of == 1:
            return found is None and spec.best_of == 1
        try:
            winners = unpack(found.winners, receipt.count, bits_of(spec.best_of))
            if found.below is not None:
                unpack(found.below, receipt.count, 1)
        except ValueError:
            return False
        classes = len(spec.classes or ("",))
        told = [] if found.scores is None else [found.scores.candidates, found.scores.winners]
        return (
            int(winners.max()) < spec.best_of
            and (found.below is None) == (spec.min_score is None)
            and all(len(means) == classes for means in told)
        )

    def selection(self) -> Selection | None:
        """The shards that should be here; None for all. Raises DatasetError if it is malformed."""
        try:
            return selection_from_json(
                read_record(self.store, shards.SELECTION), self.plan, f"{self.url}/{shards.SELECTION}"
            )
        except FileNotFoundError:
            return None

    def made(self) -> Sequence[int]:
        """The finished shards, in order; for a complete dataset without checking each."""
        all_made = len(self._made) == len(self.plan) or self.whole
        return range(len(self.plan)) if all_made else sorted(self.receipts())

    def manifest(self) -> Manifest | None:
        """The manifest; None while the dataset is incomplete. Raises DatasetError if it is malformed."""
        source = f"{self.store.url}/{shards.MANIFEST}"
        try:
            return Manifest.from_json(read_record(self.store, shards.MANIFEST), source=source)
        except FileNotFoundError:
            return None

    @property
    def exported_from(self) -> str | None:
        """The source of an export; None if a job made the dataset, or if the record is damaged."""
        try:
            record = json.loads(read_record(self.store, shards.ORIGIN))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        source = record.get("exported_from") if isinstance(record, dict) else None
        return source if isinstance(source, str) else None

    @kept_objects()
    def finished(self) -> dict[int, Receipt]:
        """The finished shards, by index: those with a valid receipt and files of the right sizes.

        Malformed or truncated ones do not count, so that they are made again. Contents are not hashed, as by `verify`.
        """
        receipts = self.receipts()
        # Listed after the receipts, since a shard is in place before its receipt.
        folders = {file.name.partition("/")[0] for receipt in receipts.values() for file in receipt.files}
        sizes = {entry.name: entry.size_bytes for folder in folders for entry in self._list(folder)}
        finished = {
            index: receipt
            for index, receipt in receipts.items()
            if all(sizes.get(file.name) == file.size_bytes for file in receipt.files)
        }
        self._made.update(finished)
        return finished

    def finished_shard(self, index: int) -> Receipt | None:
        """The receipt of a shard if it is finished, by the rules of `finished`; else None."""
        receipt = self._valid_receipt(index)
        if receipt is None:
            return None
        common = os.path.commonprefix([file.name for file in receipt.files])  # noqa: RUF071 (a store's prefix is one)
        sizes = {entry.name: entry.size_bytes for entry in self.store.list(common)} if receipt.files else {}
        return receipt if all(sizes.get(file.name) == file.size_bytes for file in receipt.files) else None

    @kept_objects()
    def receipts(self) -> dict[int, Receipt]:
        """All valid receipts of this job, by shard index."""
        listed, packs = self._listed_receipts()
        receipts: dict[int, Receipt] = {}
        packed = set()
        for index, text in packed_receipts(self.store, packs, listed):
            packed.add(index)
            with contextlib.suppress(DatasetError):
                receipt = self._parsed_receipt(index, text)
                if receipt is not None:
                    receipts[index] = receipt
        indices = [index for index in listed if index not in packed]
        # Several per task: passing one to a thread and back takes as long as reading it from disk.
        size = max(1, min(_MOST_AT_A_TIME, len(indices) // _READERS))
        parts = [indices[:_TRIED], *(indices[start : start + size] for start in range(_TRIED, len(indices), size))]
        for sound in adaptive_map(self._valid_receipts, parts, _READERS):
            receipts.update(sound)
        return dict(sorted(receipts.items())) if packed else receipts

    def _list(self, folder: str) -> Iterator[Entry]:
        """The files in a folder, of which shards have one or several."""
        parts = range(_SHARDS_LISTED, len(self.plan), _SHARDS_LISTED)
        return self.store.list(f"{folder}/", divided_at=[f"{folder}/{shards.shard_stem(index)}" for index in parts])

    def _listed_receipts(self) -> tuple[dict[int, str], list[int]]:
        """ETags of the receipts that lie there by shard index, and the numbers of the packs."""
        listed: dict[int, str] = {}
        packs = []
        for entry in self._list(shards.RECEIPTS):
            if (index := shards.receipt_index(entry.name)) is not None:
                if index < len(self.plan):
                    listed[index] = entry.etag
            elif (number := shards.pack_number(entry.name)) is not None:
                packs.append(number)
        return listed, packs if are_packed(self.store) else []

    def _valid_receipts(self, indices: list[int]) -> list[tuple[int, Receipt]]:
        found = ((index, self._valid_receipt(index)) for index in indices)
        return [(index, receipt) for index, receipt in found if receipt is not None]

    def _valid_receipt(self, index: int) -> Receipt | None:
        try:
            return self.receipt(index)
        except DatasetError:
            return None

    @property
    def whole(self) -> bool:
        """Whether a valid manifest of this job exists, so that all samples are there."""
        try:
            manifest = self.manifest()
        except DatasetError:
            return False
        return manifest is not None and manifest.spec_sha256 == self.spec.sha256


def _reopened(url: str, cache_bytes: int) -> Dataset:
    return Dataset(url, cache_bytes=cache_bytes)
