"""Datasets that grow: only the new samples are made, and a crash at any point loses nothing.

The mill is real, the engine a stand-in (see `making`); with real workers it is in tests/end_to_end/test_extend.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.client.extending import _record, plan_extension
from pipeline.common.errors import DatasetError, DestinationOccupiedError, UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import prepare, spec_at
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.verification import verify
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from pipeline.stores.local import LocalStore
from tests.making import make_dataset, make_spec, run_mill
from tests.servers import S3Server

FORMS: dict[str, dict[str, Any]] = {
    "npy": {},
    "plain": {"classes": None, "labels": None, "sample_shape": (3,)},
    "random": {"labels": "random", "dtype": "float16"},
    "png": {"format": "png", "dtype": "uint8"},
    "png-class": {"format": "png", "dtype": "uint8", "layout": "class", "labels": "random"},
    "tar": {"format": "tar", "dtype": "uint8", "labels": "class:2"},
    "tfrecord": {"format": "tfrecord", "dtype": "uint8"},
    "parquet": {"format": "parquet", "dtype": "uint8"},
    "null": {"format": "null"},
}


def grow(folder: Path, count: int) -> JobSpec:
    """The records of an extension, as `extend` changes them before any work."""
    old, url = spec_at(str(folder))
    grown = JobSpec.from_json(old.to_json().replace(f'"count": {old.count}', f'"count": {count}'))
    _record(grown, old, url)
    return grown


def complete(folder: Path) -> list[int]:
    """Makes what is missing, as a worker would; answers the shards that it made."""
    dataset = Dataset(folder)
    missing = sorted(set(range(len(dataset.plan))) - set(dataset.finished()))
    shift = run_mill(dataset.spec, dataset.store, missing)
    assert not shift.given_up
    finish_dataset(str(folder), "job")
    return missing


def data(folder: Path) -> dict[str, bytes]:
    """All samples and labels."""
    mine = (shards.SHARDS, shards.IMAGES)
    paths = [path for name in mine for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_byte_for_byte_what_one_go_would_have_made(form: str, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "grown", make_spec(**FORMS[form]))
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("00000001*")}
    grow(folder, 205)
    assert not Dataset(folder).whole
    assert set(Dataset(folder).finished()) == {0, 1, 2}
    assert complete(folder) == [3, 4, 5, 6]
    at_once = make_dataset(tmp_path / "once", make_spec(count=205, **FORMS[form]))
    assert data(folder) == data(at_once)
    assert verify(str(folder)).sound
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("00000001*")} == kept
    assert "205 samples" in (folder / "README.md").read_text()
    assert len((folder / "shards.jsonl").read_text().splitlines()) == 7


def test_in_s3(tmp_path: Path, s3: S3Server) -> None:
    """With real workers it is in tests/end_to_end/test_extend.py."""
    folder, place = make_dataset(tmp_path / "d", make_spec()), s3.destination()
    store = open_store(place)
    for entry in open_store(folder).list():
        store.write(entry.name, open_store(folder).read(entry.name))
    old, url = spec_at(place)
    _record(replace(old, count=150), old, url)
    dataset = Dataset(place)
    assert (len(dataset), dataset.whole, set(dataset.finished())) == (150, False, {0, 1, 2})
    assert not store.exists("manifest.json")
    run_mill(dataset.spec, store, [3, 4])
    finish_dataset(place, "job")
    assert verify(place).sound
    once = data(make_dataset(tmp_path / "once", make_spec(count=150)))
    assert {entry.name: store.read(entry.name) for entry in store.list("shards/")} == once


def test_a_full_last_shard_stays(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(count=90))
    grow(folder, 100)
    assert complete(folder) == [3]


def test_it_grows_again_and_again(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(count=5))
    for count in (7, 30, 31, 100):
        grow(folder, count)
        complete(folder)
        assert verify(str(folder)).sound
    assert data(folder) == data(make_dataset(tmp_path / "once", make_spec()))


def test_an_unfinished_one_grows_too(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    (folder / "receipts/00000001.json").unlink()
    grow(folder, 150)
    assert complete(folder) == [1, 3, 4]


@pytest.mark.parametrize("crash", range(5))
def test_a_crash_at_any_change_of_records_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    left = crash

    def fail(method: Any) -> Any:
        def changed(self: LocalStore, *arguments: Any) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            method(self, *arguments)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write", fail(LocalStore.write))
        delete = LocalStore.delete
        # One file at a time, so that it can end between any two.
        one_by_one = fail(delete)
        patch.setattr(LocalStore, "delete", lambda self, names: [one_by_one(self, [name]) for name in names])
        with pytest.raises(KeyboardInterrupt):
            grow(folder, 150)
    dataset = Dataset(folder)
    assert dataset.whole == (crash == 0)
    assert set(dataset.finished()) >= {0, 1, 2}
    if not dataset.whole:
        complete(folder)
        assert verify(str(folder)).sound
    if len(Dataset(folder)) == 100:
        grow(folder, 150)
        complete(folder)
    assert data(folder) == data(make_dataset(tmp_path / "once", make_spec(count=150)))


def test_an_old_manifest_does_not_make_a_larger_dataset_whole(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    old = (folder / "manifest.json").read_bytes()
    grow(folder, 150)
    (folder / "manifest.json").write_bytes(old)
    assert not Dataset(folder).whole
    assert any("another job" in problem for problem in verify(str(folder)).problems)


def test_the_last_step_of_the_old_job_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has looked at all shards of the old job when it is extended must not call it whole."""
    from pipeline.datasets import finishing

    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)

    def late(dataset: Dataset) -> None:
        grow(folder, 150)

    monkeypatch.setattr(finishing, "contact_sheet", late)
    with pytest.raises(DatasetError, match="has become another job's"):
        finish_dataset(str(folder), "old")
    assert not (folder / "manifest.json").exists()


def test_what_an_extension_comes_to(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    before = (folder / "job.json").read_bytes()
    plan = plan_extension(str(folder), 205)
    assert (plan.count_before, plan.count, plan.shards, plan.shards_kept) == (100, 205, 7, 3)
    assert plan.samples_to_make == 205 - 90
    same = plan_extension(str(folder), 100)
    assert (same.samples_to_make, same.shards_kept) == (0, 4)
    assert (folder / "job.json").read_bytes() == before
    grow(folder, 205)
    complete(folder)
    assert plan.size_bytes == sum(map(len, data(folder).values()))


@pytest.mark.parametrize(("changes", "count", "words"), [
    ({}, 99, "count 99 is less than the 100 samples of .*extend only adds"),
    ({"labels": "counts:0=40,2=60"}, 101, "its labels are planned one by one .*counts:0=40,2=60"),
    ({"labels": "file:" + "0" * 64}, 101, "its labels come from a file, 100 in all"),
    ({"latents": "0" * 64}, 101, "has latents of your own, 100 rows"),
    ({"shard_size": 1}, 10**8 + 1, "100,000,001 shards"),
])  # fmt: skip
def test_what_cannot_grow(tmp_path: Path, changes: dict[str, Any], count: int, words: str) -> None:
    open_store(tmp_path).write(shards.JOB, make_spec(**changes).to_json().encode())
    with pytest.raises(UsageError, match=words):
        plan_extension(str(tmp_path), count)


def test_some_shards_of_a_job_cannot_grow(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    (folder / "selection.json").write_text('{"shards": "1-2"}')
    with pytest.raises(UsageError, match="has a selection of its job's shards only"):
        plan_extension(str(folder), 200)


def test_the_same_number_of_fixed_labels_is_no_growth(tmp_path: Path) -> None:
    open_store(tmp_path).write(shards.JOB, make_spec(labels="counts:0=40,2=60").to_json().encode())
    assert plan_extension(str(tmp_path), 100).samples_to_make == 100


def test_generate_with_a_larger_count_names_extend(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    with pytest.raises(DestinationOccupiedError, match=r"'noisemill extend .*/d --count 200'"):
        prepare(make_spec(count=200), str(folder), [])
    with pytest.raises(DestinationOccupiedError, match=r"'noisemill resume .*/d'"):
        prepare(make_spec(count=50), str(folder), [])
