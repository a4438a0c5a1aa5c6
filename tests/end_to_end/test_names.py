"""Folders and classes whose names are in any script: submitted, made by a real worker, read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from tests.datasets.test_dataset import FORMS
from tests.end_to_end.fleet import TINY, Fleet
from tests.making import make_dataset, make_spec


def test_a_destination_in_any_script(fleet: Fleet) -> None:
    names = [
        "家族\u3000写真",
        "a\u00a0b",
        "\u0645\u06cc\u200c\u062e\u0648",
        "👨\u200d👩\u200d👧",
        "co\u00adop",
        "x\u200fy",
    ]
    jobs = [fleet.run("submit", TINY, f"{fleet.folder}/{name}", "-n", "20").stdout.strip() for name in names]
    watched = fleet.run("watch", *jobs)
    assert watched.returncode == 0, watched.stderr
    for name in names:
        assert len(Dataset(fleet.folder / name)) == Dataset(fleet.folder / name).available == 20


def test_a_destination_that_is_refused_is_not_begun(fleet: Fleet) -> None:
    refused = fleet.run("submit", TINY, f"{fleet.folder}/a\u202eb", "-n", "20")
    assert refused.returncode == 2
    assert "has characters that cannot be displayed: use another name" in refused.stderr
    assert not (fleet.folder / "a\u202eb").exists()


@pytest.mark.parametrize("classes", [("猫", "犬", "C++", "C")])
def test_classes_in_any_script_have_folders(tmp_path: Path, classes: tuple[str, ...]) -> None:
    options = {**FORMS["png"], "layout": "class", "classes": classes}
    folder = make_dataset(tmp_path / "d", make_spec(**options))
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["c-2", "c-3", "犬", "猫"]
    assert Dataset(folder)[3][1] is not None
