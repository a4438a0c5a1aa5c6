"""A planned job at its destination."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.client.making import PlannedJob
from pipeline.common.errors import DestinationOccupiedError
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import LATENT_BLOCK
from pipeline.stores import open_store
from tests.making import make_spec

NOBODY: Any = None


def test_a_job_that_was_begun_with_larger_blocks_of_latents_is_the_same(tmp_path: Path) -> None:
    """As noisemill made them before it had smaller ones: the dataset keeps its samples."""
    before = make_spec(latent_shape=(64, 64, 3))
    now = replace(before, latent_block=256)
    assert before.latent_block == LATENT_BLOCK
    open_store(tmp_path / "old").write(shards.JOB, before.to_json().encode())
    assert PlannedJob(NOBODY, now, []).at(tmp_path / "old").spec == before
    assert PlannedJob(NOBODY, now, []).at(tmp_path / "new").spec == now
    with pytest.raises(DestinationOccupiedError, match="holds another job"):
        PlannedJob(NOBODY, replace(now, seed=8), []).at(tmp_path / "old")


def test_a_job_that_was_begun_with_folders_of_ascii_is_the_same(tmp_path: Path) -> None:
    before = make_spec(classes=("dog", "猫"), format="png", dtype="uint8", layout="class")
    now = replace(before, folder_names="unicode")
    assert "folder_names" not in before.to_json()
    open_store(tmp_path / "old").write(shards.JOB, before.to_json().encode())
    assert PlannedJob(NOBODY, now, []).at(tmp_path / "old").spec.sample_type.class_folders[1] == "images/class"
    assert PlannedJob(NOBODY, now, []).at(tmp_path / "new").spec.sample_type.class_folders[1] == "images/猫"
