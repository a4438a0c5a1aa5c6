"""The parquet format, read back by pyarrow and Pillow."""

from __future__ import annotations

import gc
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.common.errors import StoreUnavailableError, UsageError
from pipeline.formats import FORMATS, Labels, SampleType, library_versions, parquet
from pipeline.spec.plan import Shard
from pipeline.stores import Store
from pipeline.stores.store import Draft
from tests.formats.suite import ANY_SHAPE, CLASSES, SHARD, FormatSuite, Samples, make_samples, write_shard

LABELLED = ANY_SHAPE[0]
NAME = "shards/00000003.parquet"


class TestParquet(FormatSuite):
    name = "parquet"
    samples = ANY_SHAPE
    refused = (
        (SampleType(shape=(4,), dtype="float64", class_names=None), "parquet stores float32 or float16 or uint8"),
        (SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES, layout="class"), "no layout 'class'"),
    )

    @pytest.fixture(autouse=True)
    def small_row_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a shard of seven has several."""
        monkeypatch.setattr(parquet, "row_group_rows", lambda sample: 3)

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        file = pyarrow.parquet.ParquetFile(root / NAME)
        table = file.read()
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 3, 1]
        assert table["index"].to_pylist() == list(range(21, 28))
        labels = np.array(table["label"]) if "label" in table.column_names else None
        if "image" not in table.column_names:
            described = json.loads(table.schema.metadata[b"noisemill"])
            return np.array(table["sample"].to_pylist(), sample.dtype).reshape(-1, *described["shape"]), labels
        images = []
        for index, image in enumerate(table["image"].to_pylist(), start=21):
            assert image["path"] == f"{index:012d}.png"
            with Image.open(io.BytesIO(image["bytes"])) as opened:
                images.append(np.asarray(opened).reshape(sample.shape))
        return np.stack(images), labels

    def damage(self, root: Path, sample: SampleType) -> Iterator[tuple[Path, bytes]]:
        path = root / NAME
        whole, table = path.read_bytes(), pyarrow.parquet.read_table(path)
        yield from ((path, data) for data in (b"", b"PAR1", whole[:100], whole[:-1], b"x" * 500, whole[:-9] + b"PAR1"))
        if "image" in table.column_names:
            values = table["image"][0]["bytes"].as_py()
        else:
            stored = np.int32 if sample.dtype == "uint8" else np.float32
            values = np.array(table["sample"][0].as_py(), stored).tobytes()
        at = whole.index(values) + len(values) - 1
        yield path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        empty = pyarrow.nulls(7, table.schema.field(0).type)
        others = [
            table.drop_columns("index"),
            table.slice(1),
            table.take([1, 0, 2, 3, 4, 5, 6]),
            table.set_column(0, table.schema.field(0), empty),
        ]
        for other in others:
            file = io.BytesIO()
            pyarrow.parquet.write_table(other, file, row_group_size=3)
            yield path, file.getvalue()


def test_the_features_of_hugging_face(store: Store) -> None:
    write_shard(FORMATS["parquet"], store, LABELLED, *make_samples(LABELLED))
    schema = pyarrow.parquet.read_schema(f"{store.url}/{NAME}")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(CLASSES)},
        "index": {"_type": "Value", "dtype": "int64"},
    }


def test_row_groups_hold_4_mib_of_raw_samples() -> None:
    assert parquet.row_group_rows(SampleType(shape=(28, 28, 1), dtype="uint8", class_names=None)) == 5349
    assert parquet.row_group_rows(SampleType(shape=(28, 28, 1), dtype="float32", class_names=None)) == 1337
    assert parquet.row_group_rows(SampleType(shape=(2048, 2048, 3), dtype="uint8", class_names=None)) == 1


def test_batches_larger_than_row_groups(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "row_group_rows", lambda sample: 7)
    shard = Shard(index=0, first=0, count=50)
    samples, labels = make_samples(LABELLED, count=50)
    whole = write_shard(FORMATS["parquet"], store, LABELLED, samples, labels, shard=shard)
    assert write_shard(FORMATS["parquet"], store, LABELLED, samples, labels, shard=shard, cuts=(1, 30, 31)) == whole
    rows = FORMATS["parquet"].read_rows(store, shard, LABELLED, labels, slice(6, 36))
    np.testing.assert_array_equal(rows, samples[6:36])


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"parquet needs pyarrow: pip install 'noisemill\[parquet\]'"):
        FORMATS["parquet"].check(LABELLED)


def test_versions_of_libraries() -> None:
    assert library_versions("parquet") == {"pyarrow": pyarrow.__version__}
    assert library_versions("npy") == {}


class _FullSink:
    """A sink of a store that is full."""

    def write(self, data: bytes) -> int:
        raise StoreUnavailableError("the disk is full")


def test_errors_of_the_store_are_its_own() -> None:
    """The worker holds the job for them, instead of counting them against the shard."""
    draft = SimpleNamespace(sink=lambda name: _FullSink())
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        FORMATS["parquet"].writer(cast(Draft, draft), SHARD, LABELLED)


def test_what_is_abandoned_writes_nothing_more(store: Store) -> None:
    """pyarrow writes the end of a file whose writer is dropped."""
    samples, labels = make_samples(LABELLED)
    draft = store.draft()
    writer: Any = FORMATS["parquet"].writer(draft, SHARD, LABELLED)
    writer.write(samples[:5], None if labels is None else labels[:5])
    written: list[bytes] = []
    writer._file._sink = SimpleNamespace(write=written.append)
    del writer
    gc.collect()
    assert written == []
    draft.discard()
