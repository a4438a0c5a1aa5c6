"""Verification finds every kind of damage and names it; nothing else is a problem.

The datasets are made by the real mill around a stand-in engine (see `making`): what is checked is what
lies at the destination, whoever computed it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import DatasetError
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.verification import Report, verify
from tests.datasets.test_dataset import FORMS, edit, npy
from tests.making import make_dataset, make_spec


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("verify") / "d", make_spec())


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "d"))


def check(folder: Path) -> Report:
    report = verify(str(folder))
    assert report.sound == (not report.problems)
    json.dumps(report.as_json())
    return report


@pytest.mark.parametrize("form", [*FORMS, "null"])
def test_a_sound_dataset(form: str, tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", make_spec(**FORMS.get(form, {"format": form})))
    told: list[tuple[int, int]] = []
    report = verify(str(tmp_path / "d"), progress=lambda *numbers: told.append(numbers))
    assert report.problems == []
    assert report.sound
    assert (report.shards_sound, report.samples_sound, report.damaged) == (4, 100, [])
    stored = [path for name in ("shards", "images") for path in (tmp_path / "d" / name).rglob("*") if path.is_file()]
    assert report.bytes_checked == sum(path.stat().st_size for path in stored)
    assert [shard for shard, _ in told][:4] == [0, 1, 2, 3]
    assert {of for _, of in told} == {4}


def write(folder: Path, name: str, data: bytes | str) -> None:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def flip(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    write(folder, name, bytes(data))


def edit_table(path: Path, table: str, **changes: Any) -> None:
    edit(path, **{table: {**json.loads(path.read_text())[table], **changes}})


def forge_index(folder: Path) -> None:
    """Shorter, with a manifest that agrees."""
    text = (folder / "shards.jsonl").read_bytes().splitlines(keepends=True)[0]
    write(folder, "shards.jsonl", text)
    edit(folder / "manifest.json", index_sha256=hashlib.sha256(text).hexdigest())


def put_a_folder_for_the_file(folder: Path) -> None:
    (folder / S1).unlink()
    (folder / S1).mkdir()


def put_an_image(folder: Path) -> None:
    (folder / "images").mkdir()
    write(folder, "images/a.png", "")


S1 = "shards/00000001.npy"
R1 = "receipts/00000001.json"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str, list[int]]] = {
    "byte": (lambda f: flip(f, S1), r"shard 1: shards/00000001.npy is damaged: its hash", [1]),
    "byte of labels": (lambda f: flip(f, "shards/00000003.labels.npy"), r"shard 3: .*labels.npy is damaged", [3]),
    "file missing": (lambda f: (f / S1).unlink(), "shard 1: shards/00000001.npy is missing", [1]),
    "file cut": (lambda f: write(f, S1, (f / S1).read_bytes()[:-5]), "has 2,043 bytes, its receipt says 2,048", [1]),
    "file longer": (lambda f: write(f, S1, (f / S1).read_bytes() + b"x"), "has 2,049 bytes", [1]),
    "file empty": (lambda f: write(f, S1, b""), "has 0 bytes", [1]),
    "folder for a file": (put_a_folder_for_the_file, "shard 1: .*00000001.npy", [1]),
    "all shards": (lambda f: shutil.rmtree(f / "shards"), "shard 0: .* is missing", [0, 1, 2, 3]),
    "receipt missing": (lambda f: (f / R1).unlink(), "1 of 4 shards have not been made", [1]),
    "receipt no JSON": (lambda f: write(f, R1, "{"), "shard 1: .*00000001.json is not valid JSON", [1]),
    "receipt empty": (lambda f: write(f, R1, ""), "is not valid JSON", [1]),
    "receipt of another shard": (lambda f: shutil.copy(f / "receipts/00000002.json", f / R1), "another job", [1]),
    "receipt of another job": (lambda f: edit(f / R1, samples_sha256="0" * 64), "belongs to another job", [1]),
    "receipt's files": (lambda f: edit(f / R1, files=[]), "names other files than the 2", [1]),
    "receipt's classes": (lambda f: edit_table(f / R1, "statistics", classes=[30, 0, 0, 0]), "other classes", [1]),
    "receipt's mean": (lambda f: edit_table(f / R1, "statistics", mean=0.5), "other statistics than the receipts", []),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "there is no manifest.json: .* not whole", []),
    "manifest no JSON": (lambda f: write(f, "manifest.json", "x"), "manifest.json is not valid JSON", []),
    "manifest's count": (lambda f: edit(f / "manifest.json", count=99), "manifest.json belongs to another job", []),
    "manifest's job": (lambda f: edit(f / "manifest.json", spec_sha256="0" * 64), "belongs to another job", []),
    "manifest's shards": (lambda f: edit(f / "manifest.json", shards=3), "belongs to another job", []),
    "manifest's size": (lambda f: edit(f / "manifest.json", size_bytes=1), "has another size", []),
    "manifest's fields": (lambda f: edit(f / "manifest.json", more=1), "missing or unknown: more", []),
    "manifest's statistics": (lambda f: edit_table(f / "manifest.json", "statistics", maximum=9.0), "statistics", []),
    "no index": (lambda f: (f / "shards.jsonl").unlink(), "shards.jsonl is missing", []),
    "byte of index": (lambda f: flip(f, "shards.jsonl"), "shards.jsonl is damaged: its hash", []),
    "index empty": (lambda f: write(f, "shards.jsonl", ""), "shards.jsonl is damaged", []),
    "index forged": (forge_index, "shards.jsonl has 1 lines for 4 shards", []),
    "stranger": (lambda f: write(f, "shards/extra.npy", "x"), "1 files belong to no shard: remove them", []),
    "image": (put_an_image, "first is images/a.png", []),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(folder: Path, kind: str) -> None:
    damage, words, damaged = DAMAGE[kind]
    damage(folder)
    report = check(folder)
    assert not report.sound
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(report.problems))
    assert report.damaged == damaged
    assert report.shards_sound == 4 - len(damaged)
    assert len(report.problems) <= max(1, len(damaged)) + (kind == "receipt's classes")
    assert all(len(problem.splitlines()) == 1 for problem in report.problems)


def test_a_receipt_that_was_edited_with_its_file_is_found_by_the_index(folder: Path) -> None:
    flip(folder, S1)
    receipt = json.loads((folder / R1).read_text())
    receipt["files"][0]["sha256"] = hashlib.sha256((folder / S1).read_bytes()).hexdigest()
    edit(folder / R1, files=receipt["files"])
    report = check(folder)
    assert report.problems == ["the receipt of shard 1 is not the one of shards.jsonl (1 in all)"]
    assert (report.damaged, report.shards_sound, report.samples_sound) == ([1], 3, 70)


def forge_shard(folder: Path) -> None:
    flip(folder, S1)
    receipt = json.loads((folder / R1).read_text())
    receipt["files"][0]["sha256"] = hashlib.sha256((folder / S1).read_bytes()).hexdigest()
    edit(folder / R1, files=receipt["files"])


@pytest.mark.parametrize("left", [["manifest.json", "shards.jsonl"], ["manifest.json"], ["shards.jsonl"]])
def test_a_selection_hides_nothing_of_a_whole_dataset(folder: Path, left: list[str]) -> None:
    forge_shard(folder)
    for name in {"manifest.json", "shards.jsonl"} - set(left):
        (folder / name).unlink()
    write(folder, "selection.json", '{"shards": "0-3"}')
    report = check(folder)
    assert report.selection is None
    assert (
        report.problems[0] == f"selection.json lists some shards only, but {left[0]} covers all: remove selection.json"
    )
    assert len(report.problems) > 1


def test_a_selection_without_a_manifest_says_what_was_not_checked(folder: Path) -> None:
    for name in ("manifest.json", "shards.jsonl"):
        (folder / name).unlink()
    write(folder, "selection.json", '{"shards": "0-3"}')
    report = check(folder)
    assert (report.sound, report.selection) == (True, "0-3")
    assert report.notes[0] == "a selection has no manifest: files were compared with their receipts only"
    pinned = verify(str(folder), manifest_sha256="0" * 64)
    assert pinned.problems == ["manifest.json is not the one that --manifest-sha256 names: there is none"]


def test_the_hash_of_the_manifest_pins_a_dataset(folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert verify(str(folder), manifest_sha256=sha256.upper()).sound
    assert check(folder).manifest_sha256 == sha256
    # Everything made again around a forged shard, as whoever can write there may do.
    forge_shard(folder)
    finish_dataset(str(folder), "job")
    assert check(folder).sound
    [problem] = verify(str(folder), manifest_sha256=sha256).problems
    assert problem.startswith("manifest.json is not the one that --manifest-sha256 names: its hash is ")


def test_a_manifest_that_names_other_engines_is_found(folder: Path) -> None:
    made_by = json.loads((folder / "manifest.json").read_text())["made_by"]
    edit(folder / "manifest.json", made_by=[{**made_by[0], "batch": 7}])
    assert check(folder).problems == ["manifest.json names other engines or versions than the receipts"]


def test_no_dataset_at_all(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DatasetError, match="holds no dataset"):
        verify(str(tmp_path / "nothing"))
    write(folder, "job.json", "{")
    with pytest.raises(DatasetError, match=r"job\.json is not valid JSON"):
        verify(str(folder))


def test_a_growing_dataset_is_not_sound(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    (folder / R1).unlink()
    report = check(folder)
    assert report.problems == [
        "1 of 4 shards have not been made",
        "there is no manifest.json: the dataset is not whole",
    ]


def test_other_peoples_files_beside_the_dataset_are_no_problem(folder: Path) -> None:
    for name in ("notes.txt", "shards.txt", ".noisemill-left-over"):
        write(folder, name, "x")
    assert check(folder).sound


def test_collapse_is_noted_but_no_problem(tmp_path: Path) -> None:
    own = np.zeros((100, 8), np.float32)
    data = npy(own)
    spec = make_spec(latents=hashlib.sha256(data).hexdigest())
    report = check(make_dataset(tmp_path / "d", spec, uploads={"latents.npy": data}))
    assert report.sound
    assert report.notes[0].startswith("100 samples equal another sample of their shard")
    assert report.notes[1].startswith("100 samples are constant")


@pytest.mark.parametrize("name", ["latents.npy", "labels.npy"])
def test_changed_latents_and_labels_are_found(tmp_path: Path, name: str) -> None:
    """Receipts would not tell: who changed them before a resume would get other samples with sound receipts."""
    uploads = {
        "latents.npy": npy(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)),
        "labels.npy": npy(np.zeros(100, np.int32)),
    }
    hashes = {each: hashlib.sha256(data).hexdigest() for each, data in uploads.items()}
    spec = make_spec(latents=hashes["latents.npy"], labels="file:" + hashes["labels.npy"])
    folder = make_dataset(tmp_path / "d", spec, uploads=uploads)
    assert check(folder).sound
    flip(folder, name)
    assert f"{name} is damaged: its hash is not the one of job.json" in "\n".join(check(folder).problems)
    (folder / name).unlink()
    assert f"{name} is missing" in check(folder).problems
