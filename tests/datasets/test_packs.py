"""Packs of receipts, in a real S3: a scan needs few requests, and believes the receipts alone."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.client.removal import remove_dataset
from pipeline.datasets import dataset
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.packs import are_packed, write_pack
from pipeline.datasets.verification import verify
from pipeline.spec import plan as shards
from pipeline.stores import open_store
from pipeline.stores.s3 import S3Store
from tests.making import make_dataset, make_spec
from tests.servers import S3Server

#: Ten shards in packs of four: two packs, and two receipts without.
SPEC = make_spec(shard_size=10)


@pytest.fixture
def place(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset in S3 with its packs."""
    monkeypatch.setattr(shards, "PACK_SHARDS", 4)
    folder, place = open_store(make_dataset(tmp_path / "d", SPEC)), s3.destination()
    store = open_store(place)
    for entry in folder.list():
        store.write(entry.name, folder.read(entry.name))
    assert are_packed(store)
    assert not are_packed(store, files=1000)
    assert not are_packed(folder)
    assert [write_pack(store, number) for number in range(3)] == [True, True, False]
    return place


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that are read from S3 from now on."""
    names: list[str] = []
    original = S3Store.read

    def reading(self: S3Store, name: str, most_bytes: int | None = None) -> bytes:
        names.append(name)
        return original(self, name, most_bytes)

    monkeypatch.setattr(S3Store, "read", reading)
    return names


def receipts(*indices: int) -> list[str]:
    return [shards.receipt_name(index) for index in indices]


def test_a_scan_reads_the_packs_and_what_is_in_none(place: str, read: list[str], tmp_path: Path) -> None:
    found = Dataset(place).finished()
    assert sorted(read) == ["job.json", *receipts(8, 9), shards.pack_name(0), shards.pack_name(1)]
    assert list(found) == list(range(10))
    assert found == Dataset(tmp_path / "d").finished()


def test_a_listing_in_parts_finds_the_same(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Dataset(place).finished()
    monkeypatch.setattr(dataset, "_SHARDS_LISTED", 3)
    assert Dataset(place).finished() == found
    assert len(found) == 10


def test_receipts_that_have_changed_since_are_read_themselves(place: str, read: list[str]) -> None:
    store = open_store(place)
    text = json.loads(store.read(shards.receipt_name(1)))
    store.write(shards.receipt_name(1), json.dumps({**text, "attempt": 7}).encode())
    store.write(shards.receipt_name(2), b"no receipt")
    store.delete(receipts(5))
    read.clear()
    found = Dataset(place).receipts()
    assert sorted(found) == [0, 1, 3, 4, 6, 7, 8, 9]
    assert found[1].attempt == 7
    assert {name for name in read if name.endswith(".json")} == {"job.json", *receipts(1, 2, 8, 9)}


@pytest.mark.parametrize("content", [
    b"", b"no pack", zlib.compress(b"{}"), zlib.compress(b"[1, 2, 3, 4]"), zlib.compress(b'["a", "\\ud800", "", "x"]'),
    zlib.compress(json.dumps(["x"] * 5).encode()), zlib.compress(b" " * 65_000_000),
])  # fmt: skip
def test_a_damaged_pack_costs_time_alone(place: str, read: list[str], content: bytes) -> None:
    open_store(place).write(shards.pack_name(0), content)
    assert sorted(Dataset(place).receipts()) == list(range(10))
    assert {name for name in read if name.endswith(".json")} == {"job.json", *receipts(0, 1, 2, 3, 8, 9)}


def test_anothers_receipt_in_a_pack_is_not_believed(place: str) -> None:
    store = open_store(place)
    texts = json.loads(zlib.decompress(store.read(shards.pack_name(0))))
    forged = [json.dumps({**json.loads(text), "attempt": 9}) for text in texts]
    store.write(shards.pack_name(0), zlib.compress(json.dumps(forged).encode()))
    assert all(receipt.attempt == 1 for receipt in Dataset(place).receipts().values())


def test_packs_are_sound_parts_of_a_dataset_and_go_with_it(place: str) -> None:
    assert verify(place).sound
    remove_dataset(place, SPEC.sha256)
    assert list(open_store(place).list()) == []


def test_names_of_packs() -> None:
    assert shards.pack_number(shards.pack_name(7)) == 7
    names: list[Any] = ["receipts/packs/7", "receipts/00000007.json", "packs/000007"]
    assert [shards.pack_number(name) for name in names] == [None] * 3
    assert shards.receipt_index(shards.pack_name(7)) is None
