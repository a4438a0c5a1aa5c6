"""One TFRecord file per shard for tf.data and TensorFlow Datasets, and an index for reading single records."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.format import (
    BatchChecker,
    Labels,
    check_listed,
    is_png,
    labels_of,
    malformed,
    picture_dtype,
    row_range,
)
from pipeline.formats.image import decode_image, encode_pngs
from pipeline.formats.tf_example import (
    FRAME_BYTES,
    Feature,
    Kind,
    decoded_integer,
    decoded_values,
    encoded_integer,
    encoded_values,
    examples,
    framed_example,
)
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard, shard_name
from pipeline.stores.store import Draft, Store

#: Features, in the order in which they are written. TensorFlow Datasets gives these names to images and classes.
_IMAGE, _INDEX, _LABEL, _SAMPLE = "image", "index", "label", "sample"


class TfrecordFormat:
    """A `tf.train.Example` per sample: `image` (a PNG) or `sample` (its values in order), `index` and `label`.

    Images of uint8 are PNGs. Values of float16 are stored as float32, those of uint8 as int64, the only types there
    are. The index has a line `OFFSET SIZE` for each record, in bytes, as DALI's `tfrecord2idx` writes it.
    """

    name = "tfrecord"
    dtypes: tuple[str, ...] = ("float32", "float16", "uint8")
    layouts: tuple[str, ...] = ("flat",)
    libraries: tuple[str, ...] = ()
    per_sample = True

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """uint8 for images."""
        return picture_dtype(shape)

    def check(self, sample: SampleType) -> None:
        """Accepts any shape."""
        check_listed(self, sample)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> TfrecordWriter:
        """Streams the records into one file."""
        return TfrecordWriter(draft, shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The records, then the index."""
        return [_records_name(shard), _index_name(shard)]

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """The whole file."""
        samples, found = _read(store, shard, sample, range(shard.count))
        if sample.class_names is None:
            return samples, None
        with malformed(store, _records_name(shard)):
            return samples, labels_of(found, shard)

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """Reads the index and these records."""
        return _read(store, shard, sample, row_range(shard, rows))[0]


class TfrecordWriter:
    """Streams one shard, batch by batch."""

    def __init__(self, draft: Draft, shard: Shard, sample: SampleType) -> None:
        self._draft = draft
        self._shard = shard
        self._sample = sample
        self._intake = BatchChecker(shard, sample)
        self._sink = draft.sink(_records_name(shard))
        self._size_bytes = 0
        self._index = io.StringIO()
        #: Records of the last batch, perhaps still being encoded.
        self._encoding: Iterable[bytes] = ()

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Appends records."""
        first = self._intake.take(samples, labels)
        # The batch before is written while this one is encoded.
        encoding, self._encoding = self._encoding, _records(first, samples, labels, as_png=is_png(self._sample))
        self._append(encoding)

    def close(self) -> None:
        """Writes the last records and the index."""
        self._intake.finish()
        self._append(self._encoding)
        self._draft.add(_index_name(self._shard), self._index.getvalue().encode())

    def _append(self, encoding: Iterable[bytes]) -> None:
        records = list(encoding)
        for record in records:
            self._index.write(f"{self._size_bytes} {len(record)}\n")
            self._size_bytes += len(record)
        self._sink.write(b"".join(records))


def _records_name(shard: Shard) -> str:
    return shard_name(shard.index, ".tfrecord")


def _index_name(shard: Shard) -> str:
    return shard_name(shard.index, ".tfrecord.idx")


def _records(first: int, samples: NDArray[Any], labels: Labels | None, *, as_png: bool) -> Iterator[bytes]:
    """Records of samples from `first` on. Encoding of images begins at once."""
    if as_png:
        stored: Iterator[Feature] = ((_IMAGE, Kind.BYTES, image) for image in encode_pngs(samples))
    else:
        stored = ((_SAMPLE, *encoded_values(values)) for values in samples)
    if labels is None:
        return (_record(index, feature, None) for index, feature in enumerate(stored, start=first))
    pairs = zip(stored, labels.tolist(), strict=True)
    return (_record(index, feature, label) for index, (feature, label) in enumerate(pairs, start=first))


def _record(index: int, stored: Feature, label: int | None) -> bytes:
    features: list[Feature] = [stored, (_INDEX, Kind.INTEGERS, encoded_integer(index))]
    if label is not None:
        features.append((_LABEL, Kind.INTEGERS, encoded_integer(label)))
    return framed_example(sorted(features))


def _read(store: Store, shard: Shard, sample: SampleType, rows: range) -> tuple[NDArray[Any], list[int]]:
    """These samples, (n, *shape), and their labels if there are classes."""
    samples = np.empty((len(rows), *sample.shape), dtype=sample.dtype)
    labels = []
    start, stop = _extent(store, shard, rows)
    with malformed(store, _records_name(shard)), store.open(_records_name(shard)) as file:
        if file.seek(0, io.SEEK_END) < stop:
            raise ValueError(f"it ends before {stop:,} bytes, the end of a record by its index")
        file.seek(start)
        records = examples(file.read(stop - start))
        for row, found in zip(range(len(rows)), records, strict=True):
            if _integer(found, _INDEX) != shard.first + rows[row]:
                raise ValueError(f"the record of sample {shard.first + rows[row]} is not where it should be")
            if sample.class_names is not None:
                labels.append(_integer(found, _LABEL))
            samples[row] = _stored(found, sample)
    return samples, labels


def _integer(found: dict[str, tuple[Kind, bytes]], name: str) -> int:
    kind, values = found.get(name, (None, b""))
    if kind != Kind.INTEGERS:
        raise ValueError(f"a record has no {name}")
    return decoded_integer(values)


def _stored(found: dict[str, tuple[Kind, bytes]], sample: SampleType) -> NDArray[Any]:
    name = _IMAGE if is_png(sample) else _SAMPLE
    if name not in found:
        raise ValueError(f"a record has no {name}")
    kind, values = found[name]
    return decode_image(values, sample.shape) if is_png(sample) else decoded_values(kind, values, sample)


def _extent(store: Store, shard: Shard, rows: range) -> tuple[int, int]:
    """The bytes of the file that hold these records, by its index."""
    with malformed(store, _index_name(shard)):
        numbers = [int(number) for number in store.read(_index_name(shard)).split()]
        offsets, sizes = numbers[::2], numbers[1::2]
        if len(offsets) != shard.count or len(sizes) != shard.count:
            raise ValueError(f"it has {len(offsets)} lines for {shard.count} samples")
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        if [0, *ends[:-1]] != offsets or min(sizes) < FRAME_BYTES:
            raise ValueError("it names records that do not follow each other")
        return (offsets[rows[0]], ends[rows[-1]]) if rows else (0, 0)
