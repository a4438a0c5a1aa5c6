"""Datasets as they lie at a destination; made by the real mill around a stand-in engine (see `making`)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import DatasetError, StoreError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.inputs import read_rows
from pipeline.datasets.receipts import merged_statistics
from pipeline.formats.values import to_stored
from pipeline.spec.latents import latents
from pipeline.stores import open_store
from tests.making import forward, make_dataset, make_spec

FORMS: dict[str, dict[str, Any]] = {
    "npy": {},
    "npy-float16": {"dtype": "float16"},
    "npy-plain": {"classes": None, "labels": None, "sample_shape": (3,)},
    "npy-scalar": {"sample_shape": ()},
    "png": {"format": "png", "dtype": "uint8"},
    "png-class": {"format": "png", "dtype": "uint8", "layout": "class", "labels": "random"},
    "tar": {"format": "tar", "dtype": "uint8", "labels": "counts:2=50,0=50", "sample_shape": (4, 4, 3)},
    "tfrecord": {"format": "tfrecord", "dtype": "uint8"},
    "tfrecord-values": {"format": "tfrecord", "dtype": "float16", "classes": None, "labels": None},
    "parquet": {"format": "parquet", "dtype": "uint8", "sample_shape": (4, 4, 3)},
    "parquet-values": {"format": "parquet", "sample_shape": (3,)},
}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_made_is_read_back(form: str, tmp_path: Path) -> None:
    spec = make_spec(**FORMS[form])
    dataset = Dataset(make_dataset(tmp_path / "d", spec))
    labels = dataset.labels(0, 100)
    whole = forward(latents(7, 0, 100, 8), labels, spec.sample_shape)
    stored = to_stored(whole, spec.dtype, spec.value_range)
    assert dataset.spec == spec
    assert len(dataset) == 100
    assert dataset.whole
    assert np.array_equal(dataset.samples(0, 100), stored)
    assert np.array_equal(dataset.samples(25, 40), stored[25:65])
    assert dataset.samples(50, 0).shape == (0, *spec.sample_shape)
    assert [len(part) for part, _ in dataset.shards()] == [30, 30, 30, 10]
    for index in (0, 29, 30, 99, -1, -100):
        sample, label = dataset[index]
        assert np.array_equal(sample, stored[index])
        assert label == (None if labels is None else labels[index])
    for index in (100, -101):
        with pytest.raises(IndexError):
            dataset[index]
    assert np.array_equal(dataset.latents(95, 5), latents(7, 95, 5, 8))
    manifest = dataset.manifest()
    assert manifest is not None
    assert manifest.statistics == merged_statistics(list(dataset.finished().values()))
    assert manifest.statistics.minimum == stored.min()
    assert manifest.statistics.maximum == stored.max()
    assert manifest.statistics.mean == pytest.approx(stored.astype(np.float64).mean())
    if labels is not None:
        assert manifest.statistics.classes == tuple(np.bincount(labels, minlength=4))
    assert [file.name for file in dataset.receipts()[3].files] == dataset.file_names(3)


def test_a_dataset_can_be_walked_through(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(count=5)))
    assert [label for _, label in dataset] == [0, 1, 2, 3, 0]


def test_null_has_records_but_no_samples(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(format="null")))
    assert len(dataset.finished()) == 4
    assert dataset.finished_shard(2) is not None
    assert not (tmp_path / "d/shards").exists()
    assert not (tmp_path / "d/preview.png").exists()
    with pytest.raises(DatasetError, match="format null"):
        dataset[0]


# -- destinations that hold something else ---------------------------------------------------------


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no dataset: there is no job\.json"):
        Dataset(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="holds no dataset"):
        Dataset(tmp_path / "file")


@pytest.mark.parametrize("changes", [
    {"noise": "normal:abc"}, {"noise": "truncated:0"}, {"format": "png"}, {"layout": "class"},
    {"format": "tar", "dtype": "uint8", "sample_shape": (4, 4, 2)},
])  # fmt: skip
def test_a_job_that_nobody_could_have_asked_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "job.json").write_text(make_spec(**changes).to_json())
    with pytest.raises(DatasetError, match=r"job\.json: "):
        Dataset(tmp_path)


# -- what is done ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "d", make_spec())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage_nothing(folder: Path) -> None:
    pass


def remove_file(folder: Path) -> None:
    (folder / "shards/00000001.npy").unlink()


def remove_labels(folder: Path) -> None:
    (folder / "shards/00000001.labels.npy").unlink()


def cut_file(folder: Path) -> None:
    path = folder / "shards/00000001.npy"
    path.write_bytes(path.read_bytes()[:-1])


def remove_receipt(folder: Path) -> None:
    (folder / "receipts/00000001.json").unlink()


def cut_receipt(folder: Path) -> None:
    path = folder / "receipts/00000001.json"
    path.write_text(path.read_text()[:50])


def swap_receipt(folder: Path) -> None:
    (folder / "receipts/00000001.json").write_text((folder / "receipts/00000002.json").read_text())


def receipt_of_another_job(folder: Path) -> None:
    edit(folder / "receipts/00000001.json", samples_sha256="0" * 64)


def receipt_without_files(folder: Path) -> None:
    edit(folder / "receipts/00000001.json", files=[])


def receipt_of_foreign_files(folder: Path) -> None:
    edit(folder / "receipts/00000001.json", files=[{"name": "../../etc/passwd", "size_bytes": 1, "sha256": "x"}])


def receipt_of_other_classes(folder: Path) -> None:
    path = folder / "receipts/00000001.json"
    edit(path, statistics={**json.loads(path.read_text())["statistics"], "classes": [15, 15]})


def receipt_with_a_word_for_a_mean(folder: Path) -> None:
    path = folder / "receipts/00000001.json"
    edit(path, statistics={**json.loads(path.read_text())["statistics"], "mean": "?"})


UNSOUND = [
    remove_file, remove_labels, cut_file, remove_receipt, cut_receipt, swap_receipt, receipt_of_another_job,
    receipt_without_files, receipt_of_foreign_files, receipt_of_other_classes, receipt_with_a_word_for_a_mean,
]  # fmt: skip


@pytest.mark.parametrize("damage", UNSOUND)
def test_what_is_unsound_does_not_count_as_done(folder: Path, damage: Any) -> None:
    damage(folder)
    dataset = Dataset(folder)
    assert set(dataset.finished()) == {0, 2, 3}
    assert dataset.finished_shard(1) is None
    assert dataset.finished_shard(2) is not None
    with pytest.raises(DatasetError, match=r"is not whole: shard 1 is missing or damaged \(1 in all\)"):
        finish_dataset(str(folder), "j")


def test_other_files_among_the_receipts_are_no_shards(folder: Path) -> None:
    for name in ("00000004.json", "x.json", "00000001.json.bak", "00000099.json"):
        (folder / "receipts" / name).write_text("{}")
    assert set(Dataset(folder).finished()) == {0, 1, 2, 3}


def test_a_growing_dataset(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    (folder / "receipts/00000000.json").unlink()
    dataset = Dataset(folder)
    assert not dataset.whole
    assert dataset.receipt(0) is None
    assert set(dataset.receipts()) == {1, 2, 3}
    assert dataset.samples(30, 70).shape == (70, 4, 4, 1)


def test_missing_samples_are_named(folder: Path) -> None:
    remove_file(folder)
    with pytest.raises(DatasetError, match=r"shards/00000001\.npy is missing"):
        Dataset(folder).samples(0, 100)


def test_a_damaged_manifest_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"manifest\.json is not valid JSON"):
        Dataset(folder).manifest()
    assert not Dataset(folder).whole


# -- finishing -------------------------------------------------------------------------------------


def test_finishing_again_writes_the_same(folder: Path) -> None:
    names = ("shards.jsonl", "README.md", "preview.png")
    before = {name: (folder / name).read_bytes() for name in names}
    first = Dataset(folder).manifest()
    again = finish_dataset(str(folder), first.job if first else "")
    assert first is not None
    assert again.index_sha256 == first.index_sha256
    assert again.statistics == first.statistics
    for name in ("shards.jsonl", "preview.png"):
        assert (folder / name).read_bytes() == before[name]


def test_the_manifest_is_written_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stores.local import LocalStore

    (folder / "manifest.json").unlink()
    written: list[str] = []
    original = LocalStore.write

    def write(self: LocalStore, name: str, data: bytes) -> None:
        written.append(name)
        original(self, name, data)

    monkeypatch.setattr(LocalStore, "write", write)
    finish_dataset(str(folder), "j")
    assert written == ["preview.png", "README.md", "croissant.json", "shards.jsonl", "manifest.json"]


def test_the_index_has_a_line_per_shard_in_order(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "shards.jsonl").read_text().splitlines()]
    assert [line["shard"] for line in lines] == [0, 1, 2, 3]
    assert sum(line["count"] for line in lines) == 100
    sizes = [path.stat().st_size for path in (folder / "shards").iterdir()]
    assert sum(line["size_bytes"] for line in lines) == sum(sizes)


# -- what the user brought -------------------------------------------------------------------------


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_latents_and_labels_of_the_users_own(tmp_path: Path) -> None:
    import hashlib

    own = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    classes = (np.arange(100) // 30).astype(np.int32)
    uploads = {"latents.npy": npy(own), "labels.npy": npy(classes)}
    spec = make_spec(
        latents=hashlib.sha256(uploads["latents.npy"]).hexdigest(),
        labels="file:" + hashlib.sha256(uploads["labels.npy"]).hexdigest(),
    )
    dataset = Dataset(make_dataset(tmp_path / "d", spec, uploads=uploads))
    assert np.array_equal(dataset.latents(40, 20), own[40:60])
    assert np.array_equal(dataset.labels(0, 100), classes)  # type: ignore[arg-type]
    assert np.array_equal(dataset.samples(0, 100), forward(own, classes, (4, 4, 1)))


@pytest.mark.parametrize(("data", "words"), [
    (None, "is missing"), (b"", "cannot be read"), (b"\x93NUMPY", "cannot be read"),
    (b"no npy at all", "cannot be read"),
    (npy(np.zeros((100, 7), np.float32)), "of shape"), (npy(np.zeros((100, 8))), "float64"),
    (npy(np.zeros(100, np.float32)), "of shape"), (npy(np.zeros((50, 8), np.float32)), "does not hold rows 40 to 59"),
    (npy(np.zeros((100, 8), np.float32))[:-2000], "ends early"), (npy(np.float32(1)), "of shape"),
    (npy(np.asfortranarray(np.ones((100, 8), np.float32))), "of shape"),
])  # fmt: skip
def test_rows_that_cannot_be_read(tmp_path: Path, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / "latents.npy").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"latents\.npy .*{words}"):
        read_rows(open_store(tmp_path), "latents.npy", 40, 20, "float32", (8,))


def test_labels_that_are_no_class_any_more(tmp_path: Path) -> None:
    (tmp_path / "labels.npy").write_bytes(npy(np.full(100, 4, np.int32)))
    (tmp_path / "job.json").write_text(make_spec(labels="file:" + "0" * 64).to_json())
    with pytest.raises(DatasetError, match=r"labels\.npy has labels that are not classes"):
        Dataset(tmp_path).labels(0, 10)


def test_of_many_receipts_those_count_that_are_sound(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "d", make_spec(count=300, shard_size=1), finished=False)

    def receipt(index: int) -> Path:
        return made / f"receipts/{index:08d}.json"

    receipt(3).unlink()
    receipt(70).write_bytes(receipt(70).read_bytes()[:-20])
    receipt(131).write_bytes(receipt(132).read_bytes())
    dataset = Dataset(made)
    assert list(dataset.receipts()) == [index for index in range(300) if index not in (3, 70, 131)]
    (made / "shards/00000200.npy").write_bytes(b"short")
    (made / "shards/00000250.labels.npy").unlink()
    assert list(dataset.finished()) == [index for index in range(300) if index not in (3, 70, 131, 200, 250)]
    receipt(299).rename(tmp_path / "elsewhere")
    receipt(299).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="remove the symbolic link"):
        dataset.finished()
