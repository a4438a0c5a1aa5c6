"""What people see of a dataset: the card and the contact sheet."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.report.card import dataset_card
from pipeline.datasets.report.preview import as_image, contact_sheet, terminal_sheet
from pipeline.formats import tar
from pipeline.formats.image import decode_image
from tests.datasets.test_dataset import FORMS
from tests.making import make_dataset, make_spec


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The head, as readers of YAML see it, and the rest."""
    _, head, rest = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), rest


@pytest.mark.parametrize("form", [*FORMS, "null"])
def test_every_card_tells_what_it_is_and_how_to_read_it(form: str, tmp_path: Path) -> None:
    spec = make_spec(**FORMS.get(form, {"format": form}))
    head, text = card_of(make_dataset(tmp_path / "d", spec))
    assert head["pretty_name"] == "tiny-100"
    assert head["size_categories"] == ["n<1K"]
    assert "synthetic" in head["tags"]
    assert ("task_categories" in head) == (spec.classes is not None)
    assert "# 100 samples of `tiny`" in text
    assert spec.digest in text
    assert not re.search(r"{[a-z]", text)
    wanted = {"png": "shards/**", "png-class": "images/**", "tar": "shards/*.tar"}.get(form)
    wanted = "shards/*.parquet" if form.startswith("parquet") else wanted
    files = [{"split": "train", "path": wanted}]
    assert head.get("configs") == (None if wanted is None else [{"config_name": "default", "data_files": files}])
    assert ("preview.png" in text) == (tmp_path / "d/preview.png").exists()


def test_what_the_card_says_of_npy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    code = card_of(folder)[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["samples"].shape == (30, 4, 4, 1)
    assert names["labels"].shape == (30,)
    assert "(n, 4, 4, 1), float32" in code


@pytest.mark.parametrize("name", ["a: b", "- x", "'", '"', "#1", "{x}", "null", "ü 猫", "[1]", "a|b", "100"])
def test_any_name_of_a_generator_makes_a_card(tmp_path: Path, name: str) -> None:
    head, text = card_of(make_dataset(tmp_path / "d", make_spec(generator=f"/models/{name}.keras")))
    assert head["pretty_name"] == f"{name}-100"
    assert name in text


def test_class_names_do_not_break_the_table(tmp_path: Path) -> None:
    _, text = card_of(make_dataset(tmp_path / "d", make_spec(classes=("a|b", "c", "`d`", "e*"))))
    row = next(line for line in text.splitlines() if line.startswith("| 0 "))
    assert row.replace("\\|", "").count("|") == 4


@pytest.mark.parametrize(("count", "category"), [
    (1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (70_000, "10K<n<100K"), (10**6, "1M<n<10M"),
    (10**8, "100M<n<1B"), (10**9, "n>1B"), (10**12, "n>1B"),
])  # fmt: skip
def test_size_categories(tmp_path: Path, count: int, category: str) -> None:
    manifest = Dataset(make_dataset(tmp_path / "d", make_spec())).manifest()
    assert manifest is not None
    assert f"- {category}\n" in dataset_card(make_spec(count=count), manifest, has_preview=False)


# -- contact sheets --------------------------------------------------------------------------------


def sheet_of(tmp_path: Path, **changes: Any) -> Image.Image | None:
    sheet = contact_sheet(Dataset(make_dataset(tmp_path / "d", make_spec(**changes))))
    return None if sheet is None else Image.open(io.BytesIO(sheet))


@pytest.mark.parametrize("changes", [
    {}, {"dtype": "float16"}, {"format": "png", "dtype": "uint8"}, {"format": "tar", "dtype": "uint8"},
    {"sample_shape": (4, 6, 3)}, {"sample_shape": (6, 4, 4)}, {"value_range": None}, {"labels": "class:2"},
    {"labels": "counts:3=99,0=1"}, {"count": 1, "labels": "random"}, {"sample_shape": (1, 200, 1), "count": 20},
    {"sample_shape": (300, 2, 1), "count": 20}, {"sample_shape": (1, 1, 1)}, {"classes": ("x", "猫", "w" * 60, "z")},
])  # fmt: skip
def test_images_have_a_sheet(tmp_path: Path, changes: dict[str, Any]) -> None:
    sheet = sheet_of(tmp_path, **changes)
    assert sheet is not None
    assert sheet.mode == ("L" if changes.get("sample_shape", (8, 8, 1))[2] == 1 else "RGB")
    assert 0 < sheet.width < 4000
    assert 0 < sheet.height < 4000
    assert len(np.unique(np.asarray(sheet))) > 2


def test_a_row_per_class(tmp_path: Path) -> None:
    one, four = sheet_of(tmp_path / "1", labels="class:2"), sheet_of(tmp_path / "4")
    assert one is not None
    assert four is not None
    assert four.height - 2 == 4 * (one.height - 2)


def test_cells_show_the_samples(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(classes=None, labels=None)))
    sheet = sheet_of(tmp_path / "again", classes=None, labels=None)
    assert sheet is not None
    pixels = np.asarray(sheet.convert("RGB"))
    for row, column in ((0, 0), (0, 11), (8, 3)):
        cell = pixels[2 + row * 58 :, 2 + column * 58 :][:56:14, :56:14, 0]
        expected = np.rint((dataset.samples(row * 12 + column, 1)[0, :, :, 0] + 1) / 2 * 255)
        assert np.abs(cell - expected).max() <= 1


@pytest.mark.parametrize("classes", [None, ("circle", "square", "star", "cross")])
def test_the_sheet_of_a_growing_dataset_shows_what_is_there(tmp_path: Path, classes: tuple[str, ...] | None) -> None:
    spec = make_spec(classes=classes, labels=classes and "balanced")
    folder = make_dataset(tmp_path / "d", spec, finished=False)
    for index in (0, 2):
        (folder / f"receipts/{index:08d}.json").unlink()
        (folder / f"shards/{index:08d}.npy").unlink()
    assert contact_sheet(Dataset(folder)) is not None
    (folder / "receipts/00000001.json").unlink()
    (folder / "receipts/00000003.json").unlink()
    assert contact_sheet(Dataset(folder)) is None


@pytest.mark.parametrize(
    ("changes", "most"), [({}, 48), ({"labels": "random"}, 160), ({"labels": "counts:3=990,0=1010"}, 2001)]
)
def test_of_a_tar_no_more_is_read_than_the_sheet_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], most: int
) -> None:
    """Four classes in twelve columns. Where one class comes long after the other, the whole shard, but once."""
    changes |= {"count": 2000, "shard_size": 2000, "dtype": "uint8"}
    plain = sheet_of(tmp_path / "npy", **changes)
    folder = make_dataset(tmp_path / "tar", make_spec(format="tar", **changes))
    decoded = Mock(side_effect=decode_image)
    monkeypatch.setattr(tar, "decode_image", decoded)
    sheet = contact_sheet(Dataset(folder))
    assert sheet is not None
    assert plain is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sheet))), np.asarray(plain))
    assert 24 <= decoded.call_count <= most


def test_no_sheet_where_there_are_no_images(tmp_path: Path) -> None:
    assert sheet_of(tmp_path / "1", sample_shape=(16,)) is None
    assert sheet_of(tmp_path / "2", sample_shape=(4, 4, 2)) is None
    assert sheet_of(tmp_path / "3", format="null") is None


def test_matrices_are_grey_pictures(tmp_path: Path) -> None:
    plain, grey = sheet_of(tmp_path / "1", sample_shape=(4, 4, 1)), sheet_of(tmp_path / "2", sample_shape=(4, 4))
    assert grey is not None
    assert plain is not None
    assert grey.mode == "L"
    assert np.array_equal(np.asarray(grey), np.asarray(plain))


def test_a_sample_as_a_picture() -> None:
    grey = np.array([[[-1.0], [1.0]], [[0.0], [9.0]]], np.float32)
    assert np.asarray(as_image(grey, (-1.0, 1.0))).tolist() == [[0, 255], [128, 255]]
    assert np.asarray(as_image(grey, None)).tolist() == [[0, 51], [26, 255]]
    assert np.asarray(as_image(np.full((2, 2, 1), 7.0, np.float32), None)).tolist() == [[0, 0], [0, 0]]
    assert as_image(np.zeros((2, 3, 4), np.uint8), None).mode == "RGBA"


@pytest.mark.parametrize("columns", [1, 7, 20, 80, 10_000])
@pytest.mark.parametrize("changes", [{}, {"classes": None, "labels": None}, {"sample_shape": (40, 60, 3)}])
def test_a_sheet_for_a_terminal(tmp_path: Path, columns: int, changes: dict[str, Any]) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(**changes)))
    text = terminal_sheet(dataset, columns)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.split("\n")]
    assert max(map(len, plain)) <= columns
    assert all(line.endswith("\x1b[0m") or not line for line in text.split("\n"))
    if columns >= 80 and dataset.spec.classes:
        assert [line.split()[0] for line in plain if line[:1].isalpha()] == list(dataset.spec.classes)
    if changes == {} and columns == 80:
        upper, lower = (round((float(dataset.samples(0, 1)[0, row, 0, 0]) + 1) / 2 * 255) for row in (0, 1))
        assert f"\x1b[38;2;{upper};{upper};{upper};48;2;{lower};{lower};{lower}m\u2580" in text.split("\n")[0]
