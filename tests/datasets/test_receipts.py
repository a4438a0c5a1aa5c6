"""Receipts and manifests: what was written comes back, what was damaged is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import DatasetError
from pipeline.datasets.receipts import EngineRecord, Manifest, Receipt, Statistics, merged_statistics
from pipeline.spec.plan import Shard
from pipeline.stores.store import StoredFile
from tests.making import make_receipt, make_spec

ENGINE = EngineRecord(
    engine="xla", batch=64, precision="float32", device="gpu", device_name="ü", versions={"numpy": "2.0"}
)


def statistics(**changes: Any) -> Statistics:
    plain = {"minimum": -1.0, "maximum": 1.0, "mean": 0.1, "repeated": 0, "constant": 0, "classes": (8, 8, 7, 7)}
    return Statistics(**{**plain, **changes})


def receipt(index: int = 0, **changes: Any) -> Receipt:
    files = (
        StoredFile(name=f"shards/{index:08d}.npy", size_bytes=100, sha256="a" * 64),
        StoredFile(name=f"shards/{index:08d}.labels.npy", size_bytes=20, sha256="b" * 64),
    )
    return make_receipt(make_spec(), index, files, statistics(**changes), ENGINE)


MANIFEST = Manifest(
    noisemill="0.1.0", job="j", spec_sha256="c" * 64, generator="tiny", digest="sha256:x", count=100, shards=4,
    size_bytes=480, index_sha256="d" * 64, statistics=statistics(), made_by=(ENGINE,), finished_at=1.5,
)  # fmt: skip


def test_round_trips() -> None:
    for record in (receipt(), receipt(classes=None)):
        assert Receipt.from_json(record.to_json().encode(), "r") == record
    assert Manifest.from_json(MANIFEST.to_json().encode(), "m") == MANIFEST


def test_receipts_of_many_files_round_trip() -> None:
    many = tuple(StoredFile(name=f"shards/00000000/{i}.png", size_bytes=i, sha256="a" * 64) for i in range(1000))
    record = make_receipt(make_spec(), 0, many, statistics(), ENGINE)
    assert Receipt.from_json(record.to_json().encode(), "r") == record


def test_a_shards_hash_is_what_sha256sum_prints(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    files = []
    for name, data in (("shards/a.npy", b"one"), ("shards/b.npy", b"two")):
        (tmp_path / name).write_bytes(data)
        files.append(StoredFile(name=name, size_bytes=3, sha256=hashlib.sha256(data).hexdigest()))
    command = "sha256sum shards/a.npy shards/b.npy | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    made = make_receipt(make_spec(), 0, tuple(files), statistics(), ENGINE)
    assert made.sha256 == printed.split()[0]
    assert made.size_bytes == 6


def test_index_line() -> None:
    line = json.loads(receipt(1).index_line())
    assert line == {
        "shard": 1, "first": 30, "count": 30, "files": 2, "size_bytes": 120, "sha256": receipt(1).sha256, "sketch": [],
    }  # fmt: skip
    assert json.loads(receipt(1, sketch=(1.0, -2.5, 0.0, 4.0)).index_line())["sketch"] == [1.0, -2.5, 0.0, 4.0]
    assert receipt().index_line().count("\n") == 1


def test_a_receipt_belongs_to_one_shard_of_one_spec() -> None:
    spec = make_spec()
    assert receipt(1).belongs_to(spec.samples_sha256, spec.plan[1])
    assert not receipt(1).belongs_to("other", spec.plan[1])
    assert not receipt(1).belongs_to(spec.samples_sha256, spec.plan[0])
    assert not receipt(1).belongs_to(spec.samples_sha256, Shard(index=1, first=30, count=29))


def test_a_receipt_outlasts_an_extension() -> None:
    small, large = make_spec(), make_spec(count=1000)
    last = receipt(3)
    assert small.sha256 != large.sha256
    for index in range(3):
        assert receipt(index).belongs_to(large.samples_sha256, large.plan[index])
    assert (last.count, large.plan[3].count) == (10, 30)
    assert last.belongs_to(large.samples_sha256, large.plan[3])


BROKEN: list[tuple[str, Any]] = [
    ("shard", "1"), ("shard", -1), ("shard", True), ("first", 1.5), ("count", None), ("attempt", "x"), ("files", None),
    ("files", 3), ("files", ["x"]), ("files", [{}]), ("files", [{"name": "a", "size_bytes": "1", "sha256": "x"}]),
    ("files", [{"name": "a", "size_bytes": -1, "sha256": "x"}]), ("files", {"a": 1}), ("statistics", None),
    ("statistics", []), ("statistics", {"classes": None}), ("made_by", None), ("made_by", {"engine": "x"}),
    ("version", None), ("version", "1"), ("worker", 1), ("finished_at", "now"), ("finished_at", None),
    ("samples_sha256", 5),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_broken_receipts(field: str, value: Any) -> None:
    data = {**json.loads(receipt().to_json()), field: value}
    with pytest.raises(DatasetError, match=r"^here\.json is not a receipt"):
        Receipt.from_json(json.dumps(data).encode(), "here.json")


@pytest.mark.parametrize(("table", "field", "value"), [
    ("statistics", "mean", "x"), ("statistics", "mean", None), ("statistics", "minimum", float("nan")),
    ("statistics", "maximum", 10**400), ("statistics", "repeated", -1), ("statistics", "constant", 0.5),
    ("statistics", "classes", 5), ("statistics", "classes", ["x"]), ("statistics", "classes", [-1]),
    ("made_by", "batch", 0), ("made_by", "batch", "64"), ("made_by", "engine", None), ("made_by", "versions", []),
])  # fmt: skip
@pytest.mark.parametrize("kind", [Receipt, Manifest])
def test_broken_tables(kind: type[Receipt] | type[Manifest], table: str, field: str, value: Any) -> None:
    """A mean that is no number would stop the last step of the job with a TypeError."""
    data = json.loads((receipt() if kind is Receipt else MANIFEST).to_json())
    place = data[table][0] if isinstance(data[table], list) else data[table]
    place[field] = value
    with pytest.raises(DatasetError, match=r"^here\.json is no"):
        kind.from_json(json.dumps(data).encode(), "here.json")


@pytest.mark.parametrize(("text", "words"), [
    (b"", "not valid JSON"), (b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[" * 100_000, "not valid JSON"),
    (b"[]", "an object"), (b"{}", "fields missing or unknown"), (b'{"version": 9}', "newer noisemill"),
])  # fmt: skip
def test_what_is_no_record(text: bytes, words: str) -> None:
    for kind in (Receipt, Manifest):
        with pytest.raises(DatasetError, match=rf"^here\.json.*{words}"):
            kind.from_json(text, "here.json")


@given(where=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_record_is_accepted_or_refused(where: int, byte: int, cut: bool) -> None:
    for record in (receipt(), MANIFEST):
        text = bytearray(record.to_json().encode())
        text[where % len(text)] = byte
        try:
            again = type(record).from_json(bytes(text[: where % len(text)]) if cut else bytes(text), "r")
        except DatasetError:
            continue
        assert type(record).from_json(again.to_json().encode(), "r") == again


def test_merged_statistics_are_those_of_all_samples() -> None:
    merged = merged_statistics([
        receipt(0, minimum=-0.5, maximum=0.25, mean=0.2, repeated=2, constant=1, classes=(8, 8, 7, 7)),
        receipt(3, minimum=-0.25, maximum=0.75, mean=-0.4, repeated=1, constant=0, classes=(2, 3, 3, 2)),
    ])  # fmt: skip
    assert (merged.minimum, merged.maximum, merged.repeated, merged.constant) == (-0.5, 0.75, 3, 1)
    assert merged.mean == pytest.approx((0.2 * 30 - 0.4 * 10) / 40)
    assert merged.classes == (10, 11, 10, 9)
    assert merged_statistics([receipt(0, classes=None)]).classes is None
