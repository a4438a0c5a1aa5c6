"""One Parquet file per shard for Hugging Face datasets, DuckDB and Polars.

pyarrow is optional and takes a third of a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import StoreError
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
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard, sample_stem, shard_name
from pipeline.stores.store import Draft, Sink, Store

if TYPE_CHECKING:
    import pyarrow

#: Raw size of the samples of a row group. A reader of single samples reads a whole group, a scan reads groups in
#: parallel.
_ROW_GROUP_BYTES = 4 * 2**20

_IMAGE, _SAMPLE, _LABEL, _INDEX = "image", "sample", "label", "index"


class ParquetFormat:
    """Columns `image` (Hugging Face's image: a PNG and its name) or `sample` (a list of values), `label` and `index`.

    Images of uint8 are PNGs, other samples lists of fixed size, in which float16 is stored as float32. The schema holds
    Hugging Face's features, with the names of the classes, and the shape of samples in a list. Nothing is compressed:
    PNGs are already, or are stored for speed.
    """

    name = "parquet"
    dtypes: tuple[str, ...] = ("float32", "float16", "uint8")
    layouts: tuple[str, ...] = ("flat",)
    libraries: tuple[str, ...] = ("pyarrow",)
    per_sample = False

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """uint8 for images."""
        return picture_dtype(shape)

    def check(self, sample: SampleType) -> None:
        """Accepts any shape."""
        check_listed(self, sample)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> ParquetWriter:
        """Writes a row group at a time into one file."""
        return ParquetWriter(draft, shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The Parquet file."""
        return [_parquet_name(shard)]

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """The whole file."""
        samples, found = _read(store, shard, sample, range(shard.count), with_labels=sample.class_names is not None)
        if sample.class_names is None:
            return samples, None
        with malformed(store, _parquet_name(shard)):
            return samples, labels_of(found, shard)

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """Reads the row groups of these samples."""
        return _read(store, shard, sample, row_range(shard, rows), with_labels=False)[0]


def row_group_rows(sample: SampleType) -> int:
    """Samples per row group; the last group of a shard may have fewer."""
    return max(1, _ROW_GROUP_BYTES // (math.prod(sample.shape) * np.dtype(sample.dtype).itemsize))


class ParquetWriter:
    """Writes one shard."""

    def __init__(self, draft: Draft, shard: Shard, sample: SampleType) -> None:
        from pyarrow.parquet import ParquetWriter as Writer

        self._sample = sample
        self._intake = BatchChecker(shard, sample)
        self._group_rows = row_group_rows(sample)
        self._schema = _schema(sample)
        self._file = _SinkFile(draft.sink(_parquet_name(shard)))
        with self._file.accepting():
            self._writer = Writer(
                self._file,
                self._schema,
                # Today's defaults, which later versions of pyarrow may change.
                version="2.6",
                data_page_version="1.0",
                store_schema=True,
                compression="NONE",
                use_dictionary=False,
                # The least and the greatest image would be in the file twice.
                write_statistics=[name for name in (_LABEL, _INDEX) if name in self._schema.names],
                write_page_checksum=True,
            )
        #: Rows that do not fill a row group yet.
        self._waiting: list[pyarrow.Table] = []
        #: Rows of the last batch, whose images may still be encoded.
        self._encoding: Iterable[pyarrow.Table] = ()

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Writes the row groups that are full."""
        first = self._intake.take(samples, labels)
        # The batch before is written while this one is encoded.
        encoding, self._encoding = self._encoding, _rows(self._schema, self._sample, first, samples, labels)
        self._append(encoding)

    def close(self) -> None:
        """Writes the last row group and the footer."""
        self._intake.finish()
        self._append(self._encoding)
        if any(map(len, self._waiting)):
            self._write_group()
        with self._file.accepting():
            self._writer.close()

    def _append(self, encoding: Iterable[pyarrow.Table]) -> None:
        for rows in encoding:
            self._waiting.append(rows)
            # Never two groups, since rows are at most one.
            if sum(map(len, self._waiting)) >= self._group_rows:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow

        # In one piece, since pages end where pieces do.
        rows = pyarrow.concat_tables(self._waiting).combine_chunks()
        with self._file.accepting():
            self._writer.write_table(rows.slice(0, self._group_rows), row_group_size=self._group_rows)
        self._waiting = [rows.slice(self._group_rows)]


class _SinkFile:
    """A sink as a file for pyarrow.

    pyarrow closes a writer that was dropped, and so would write the end of an abandoned file: only what is written
    inside `accepting` is.
    """

    closed = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._size_bytes = 0
        self._accepts = False

    @contextmanager
    def accepting(self) -> Iterator[None]:
        self._accepts = True
        try:
            yield
        finally:
            self._accepts = False

    def tell(self) -> int:
        return self._size_bytes

    def write(self, data: Any) -> int:
        size = self._sink.write(data) if self._accepts else len(data)
        self._size_bytes += size
        return size

    def flush(self) -> None:
        """Does nothing: the draft's commit flushes."""

    def close(self) -> None:
        """Does nothing: the draft's commit closes it."""


def _parquet_name(shard: Shard) -> str:
    return shard_name(shard.index, ".parquet")


def _schema(sample: SampleType) -> pyarrow.Schema:
    """The columns, and Hugging Face's description of them."""
    import pyarrow as pa

    whole_number = {"_type": "Value", "dtype": "int64"}
    fields: list[tuple[str, Any]] = []
    features: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    if is_png(sample):
        fields.append((_IMAGE, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        features[_IMAGE] = {"_type": "Image"}
    else:
        size = math.prod(sample.shape)
        dtype = _list_dtype(sample)
        fields.append((_SAMPLE, pa.list_(pa.from_numpy_dtype(dtype), size)))
        # "Sequence" is a list, for datasets of version 4 and those before.
        features[_SAMPLE] = {"_type": "Sequence", "feature": {"_type": "Value", "dtype": dtype}, "length": size}
        metadata["noisemill"] = json.dumps({"shape": sample.shape})
    if sample.class_names is not None:
        fields.append((_LABEL, pa.int64()))
        features[_LABEL] = {"_type": "ClassLabel", "names": list(sample.class_names)}
    fields.append((_INDEX, pa.int64()))
    features[_INDEX] = whole_number
    metadata["huggingface"] = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata)


def _list_dtype(sample: SampleType) -> str:
    """The dtype of values in a list: few readers know float16."""
    return "uint8" if sample.dtype == "uint8" else "float32"


def _rows(
    schema: pyarrow.Schema, sample: SampleType, first: int, samples: NDArray[Any], labels: Labels | None
) -> Iterator[pyarrow.Table]:
    """The rows of samples from `first` on, at most a row group at a time. Encoding of images begins at once."""
    images = encode_pngs(samples) if is_png(sample) else None
    group_rows = row_group_rows(sample)

    def made(part: slice) -> pyarrow.Table:
        import pyarrow as pa

        indices = np.arange(first + part.start, first + part.stop)
        if images is None:
            values = pa.array(samples[part].astype(_list_dtype(sample), copy=False).reshape(-1))
            columns = [pa.FixedSizeListArray.from_arrays(values, type=schema.field(_SAMPLE).type)]
        else:
            names = [f"{sample_stem(index)}.png" for index in indices]
            parts = [pa.array(list(islice(images, len(names))), pa.binary()), pa.array(names, pa.string())]
            columns = [pa.StructArray.from_arrays(parts, fields=list(schema.field(_IMAGE).type))]
        if labels is not None:
            columns.append(pa.array(labels[part].astype(np.int64)))
        return pa.table([*columns, pa.array(indices)], schema=schema)

    starts = range(0, len(samples), group_rows)
    return (made(slice(start, min(start + group_rows, len(samples)))) for start in starts)


def _read(
    store: Store, shard: Shard, sample: SampleType, rows: range, *, with_labels: bool
) -> tuple[NDArray[Any], list[int]]:
    """These samples, (n, *shape), and their labels if asked for."""
    with malformed(store, _parquet_name(shard)), store.open(_parquet_name(shard)) as file:
        table = _table(file, shard, sample, rows, with_labels=with_labels)
        if any(column.null_count for column in table.columns):
            raise ValueError("values are missing")
        if table[_INDEX].to_pylist() != [shard.first + row for row in rows]:
            raise ValueError("a sample is not where it should be")
        labels = table[_LABEL].to_pylist() if with_labels else []
        if is_png(sample):
            samples = np.empty((len(rows), *sample.shape), np.uint8)
            for row, image in enumerate(table[_IMAGE].combine_chunks().field("bytes")):
                samples[row] = decode_image(image.as_py() or b"", sample.shape)
            return samples, labels
        values = table[_SAMPLE].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.astype(sample.dtype).reshape(len(rows), *sample.shape), labels


def _table(file: BinaryIO, shard: Shard, sample: SampleType, rows: range, *, with_labels: bool) -> pyarrow.Table:
    """The rows of a file, which must have the columns and row groups of this shard. Raises ValueError."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    schema, group_rows = _schema(sample), row_group_rows(sample)
    columns = [name for name in schema.names if with_labels or name != _LABEL]
    try:
        parquet = ParquetFile(file, page_checksum_verification=True)
        found = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
        expected = [min(group_rows, shard.count - first) for first in range(0, shard.count, group_rows)]
        if not parquet.schema_arrow.equals(schema) or found != expected:
            raise ValueError(f"it does not have the columns {', '.join(schema.names)} and {len(expected)} row groups")
        groups = range(rows.start // group_rows, -(-rows.stop // group_rows)) if rows else range(0)
        table = parquet.read_row_groups(list(groups), columns=columns, use_threads=False)
    except (StoreError, FileNotFoundError):
        raise
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"it is not a whole Parquet file ({error})") from error
    return table.slice(rows.start - groups.start * group_rows, len(rows))
