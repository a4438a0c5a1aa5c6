"""What `verify` finds, `resume` makes again: here that its records are withdrawn, so that it counts as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.repair import withdraw_damaged
from pipeline.datasets.verification import verify
from tests.making import make_dataset, make_spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "d", make_spec())
    return tmp_path / "d"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_sound_dataset_is_left_alone(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    withdraw_damaged(str(folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_flipped_bit_makes_its_shard_missing_and_no_other(folder: Path) -> None:
    flip(folder / "shards/00000001.npy")
    withdraw_damaged(str(folder))
    dataset = Dataset(folder)
    assert not dataset.whole
    assert 1 not in dataset.finished()
    assert len(dataset.finished()) == len(dataset.plan) - 1


@pytest.mark.parametrize("name", ["shards.jsonl", "manifest.json"])
def test_damaged_records_are_written_again_by_the_last_step(folder: Path, name: str) -> None:
    flip(folder / name)
    withdraw_damaged(str(folder))
    assert not Dataset(folder).whole
    finish_dataset(str(folder), "job")
    assert verify(str(folder)).sound


def test_a_stranger_is_nothing_that_resume_could_mend(folder: Path) -> None:
    (folder / "shards/extra.npy").write_bytes(b"x")
    report = verify(str(folder))
    assert not report.sound
    assert not report.mendable
    withdraw_damaged(str(folder))
    assert Dataset(folder).whole


def test_a_dataset_that_is_not_whole_is_not_hashed_through(folder: Path) -> None:
    flip(folder / "shards/00000001.npy")
    (folder / "manifest.json").unlink()
    withdraw_damaged(str(folder))
    assert len(Dataset(folder).finished()) == len(Dataset(folder).plan)
