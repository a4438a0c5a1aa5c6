"""What a job would come to, against what it came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.sizing import estimate_size
from tests.jobs.test_ledger import worker_info
from tests.making import make_dataset, make_spec


def stored_bytes(folder: Path) -> int:
    names = ("shards", "images")
    return sum(path.stat().st_size for name in names for path in (folder / name).rglob("*") if path.is_file())


@pytest.mark.parametrize("changes", [
    {}, {"dtype": "float16"}, {"dtype": "uint8"}, {"classes": None, "labels": None}, {"sample_shape": ()},
    {"count": 7, "shard_size": 7}, {"sample_shape": (2, 1, 3, 1, 2, 1, 1, 1, 2)}, {"sample_shape": (1,) * 40},
])  # fmt: skip
def test_bytes_of_npy_are_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = make_spec(**changes)
    sizing = estimate_size(spec, [])
    assert not sizing.estimated
    assert sizing.size_bytes == stored_bytes(make_dataset(tmp_path / "d", spec, finished=False))


@pytest.mark.parametrize(("form", "dtype"), [
    ("png", "uint8"), ("tar", "uint8"), ("tfrecord", "uint8"), ("tfrecord", "float16"), ("parquet", "uint8"),
    ("parquet", "float32"),
])  # fmt: skip
def test_bytes_of_other_formats_are_an_estimate_of_the_right_size(tmp_path: Path, form: str, dtype: str) -> None:
    spec = make_spec(format=form, dtype=dtype, sample_shape=(28, 28, 1))
    sizing = estimate_size(spec, [])
    assert sizing.estimated
    assert 0.2 < sizing.size_bytes / stored_bytes(make_dataset(tmp_path / "d", spec, finished=False)) < 5


def test_null_takes_no_room() -> None:
    assert estimate_size(make_spec(format="null"), []).size_bytes == 0


def test_shards_and_time() -> None:
    sizing = estimate_size(make_spec(), [worker_info(rate=10.0), worker_info(rate=40.0)])
    assert (sizing.count, sizing.shards, sizing.shard_size, sizing.seconds, sizing.workers) == (100, 4, 30, 2.0, 2)
    assert estimate_size(make_spec(), []).seconds is None
    assert json.loads(json.dumps(sizing.as_json()))["seconds"] == 2.0
