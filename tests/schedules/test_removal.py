"""Deleting a dataset: all that noisemill made, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.client.removal import remove_dataset
from pipeline.common.errors import DatasetError
from pipeline.spec import plan as shards
from pipeline.stores import open_store
from tests.making import make_dataset, make_spec
from tests.servers import S3Server


@pytest.mark.parametrize("form", ["npy", "png"])
def test_a_dataset_goes_with_its_folder(tmp_path: Path, form: str) -> None:
    dtype = "uint8" if form == "png" else "float32"
    spec = make_spec(format=form, dtype=dtype)
    folder = make_dataset(tmp_path / "one", spec)
    other = make_dataset(tmp_path / "two", spec)
    assert remove_dataset(str(folder), spec.sha256) > 10
    assert not folder.exists()
    assert (other / "manifest.json").exists()
    assert remove_dataset(str(folder), spec.sha256) == 0


def test_files_of_others_stay(tmp_path: Path) -> None:
    spec = make_spec()
    folder = make_dataset(tmp_path / "one", spec)
    (folder / "notes.txt").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "more.txt").write_text("mine")
    remove_dataset(str(folder), spec.sha256)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "notes", "notes.txt", "notes/more.txt",
    ]  # fmt: skip


def test_no_name_is_forgotten(tmp_path: Path) -> None:
    """Each file that `pipeline.spec.plan` names goes too."""
    spec = make_spec()
    folder = make_dataset(tmp_path / "one", spec)
    names = [value for name, value in vars(shards).items() if name.isupper() and "." in str(value)]
    assert len(names) >= 9
    for name in set(names) - {shards.JOB}:
        (folder / name).write_text("x")
    remove_dataset(str(folder), spec.sha256)
    assert not folder.exists()


def test_another_job_is_left_alone(tmp_path: Path) -> None:
    spec = make_spec()
    folder = make_dataset(tmp_path / "one", spec)
    before = sorted(folder.rglob("*"))
    with pytest.raises(DatasetError, match="holds another job now: nothing is removed"):
        remove_dataset(str(folder), replace(spec, seed=99).sha256)
    assert sorted(folder.rglob("*")) == before


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    spec = make_spec()
    folder = make_dataset(tmp_path / "one", spec)
    (folder / "manifest.json").unlink()
    next((folder / "shards").iterdir()).unlink()
    assert remove_dataset(str(folder), spec.sha256)
    assert not folder.exists()


def test_on_s3(s3: S3Server, tmp_path: Path) -> None:
    spec = make_spec()
    made, place = make_dataset(tmp_path / "one", spec), open_store(s3.destination())
    for path in made.rglob("*"):
        if path.is_file():
            place.write(path.relative_to(made).as_posix(), path.read_bytes())
    place.write("notes.txt", b"mine")
    remove_dataset(place.url, spec.sha256)
    assert [entry.name for entry in place.list("")] == ["notes.txt"]
