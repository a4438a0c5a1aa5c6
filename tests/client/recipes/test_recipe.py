"""Recipes: what is in them, how large they are, what damage they notice.

The real mill makes datasets (see `making`).
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import DatasetError, NoisemillError, UsageError
from pipeline.datasets import recipe as recipes
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from pipeline.datasets.recipe import FINGERPRINT, Recipe, recipe_of
from tests.cli.running import Run
from tests.datasets.test_dataset import FORMS, npy
from tests.making import make_dataset, make_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("recipe") / "d", make_spec())


def recipe(folder: Path) -> Recipe:
    return recipe_of(Dataset(folder))


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_compares_with_its_own_recipe(form: str, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(**FORMS[form]))
    text = recipe(folder).to_json()
    again = Recipe.from_json(text.encode(), "r")
    assert again.spec == Dataset(folder).spec
    assert again.to_json() == text
    receipts = Dataset(folder).receipts()
    assert [again.compare(receipts[index]) for index in range(4)] == [("bit-equal", 0.0)] * 4


def test_it_holds_the_job_as_it_lies_at_the_destination(folder: Path) -> None:
    """Versions that do not know a field can read it where the field has its usual value."""
    told = json.loads(recipe_of(Dataset(folder)).to_json())
    assert told["job"] == json.loads((folder / "job.json").read_text())


def test_it_stays_small(folder: Path) -> None:
    """32 bytes a shard are 43 characters; the rest does not grow."""
    made = recipe(folder)
    spec = make_spec(count=300_000)
    many = replace(made, spec=spec, fingerprints=np.zeros(len(spec.plan), FINGERPRINT))
    grown = len(many.to_json()) - len(made.to_json())
    assert len(spec.plan) == 10_000
    assert grown / 9_996 < 43
    assert len(made.to_json()) < 2500


def test_any_change_is_noticed(folder: Path) -> None:
    text = recipe(folder).to_json()
    values = json.loads(text)
    for name in values:
        changed = {**values, name: "other"}
        with pytest.raises(DatasetError, match=r"^r.json "):
            Recipe.from_json(json.dumps(changed).encode(), "r.json")
    random.seed(0)
    for place in random.sample(range(len(text)), 100):
        flipped = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            same = Recipe.from_json(flipped.encode(), "r.json")
        except DatasetError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 (which of the two it is depends on the place)
        else:
            assert same.to_json() == text


def resealed(folder: Path, **changes: Any) -> bytes:
    """An edited recipe with a hash that fits."""
    body = {**json.loads(recipe(folder).to_json()), **changes}
    body.pop("sha256")
    return json.dumps({**body, "sha256": recipes._sha256(body)}).encode()


BAD: dict[str, dict[str, Any]] = {
    "another version": {"recipe": 2},
    "a shard less": {"shards": "AAAA"},
    "no base64": {"shards": "%"},
    "no shards": {"shards": None},
    "no engines": {"made_by": []},
    "engines": {"made_by": [{"engine": "xla"}]},
    "statistics": {"statistics": {}},
    "job": {"job": {}},
    "inputs": {"inputs": {"latents.npy": {}}},
    "inputs' bytes": {"inputs": {"latents.npy": {"sha256": "x", "size_bytes": 1, "data": "AAAA"}}},
}


@pytest.mark.parametrize("kind", BAD)
def test_a_recipe_that_somebody_made_up(folder: Path, kind: str) -> None:
    with pytest.raises(DatasetError, match=r"^r.json") as caught:
        Recipe.from_json(resealed(folder, **BAD[kind]), "r.json")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_recipe(text: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^r.json is not (a recipe|valid JSON)"):
        Recipe.from_json(text, "r.json")


def test_tolerance_by_dtype(folder: Path) -> None:
    made = recipe(folder)
    by_dtype = {dtype: replace(made, spec=make_spec(dtype=dtype)) for dtype in ("float32", "float16", "uint8")}
    assert by_dtype["float32"].tolerance == 1e-6
    assert 1e-5 < by_dtype["float16"].tolerance < by_dtype["uint8"].tolerance < 1e-4
    assert by_dtype["uint8"].full_scale == 255
    assert by_dtype["float32"].full_scale == 2
    assert replace(made, spec=make_spec(value_range=None)).full_scale == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("offset", "verdict"), [(1e-7, "within tolerance"), (1e-4, "different")])
def test_values_that_differ_a_little(folder: Path, tmp_path: Path, offset: float, verdict: str) -> None:
    """The same dataset with all values off by a share of full scale, as from another engine; made by hand."""
    from pipeline.datasets.shard_statistics import ShardStatistics

    made, dataset = recipe(folder), Dataset(folder)
    receipt = dataset.receipt(1)
    assert receipt is not None
    noise = np.random.default_rng(0).choice([-1, 1], (30, 4, 4, 1)) * offset * 2
    statistics = ShardStatistics(30, None, first=30)
    statistics.add((dataset.samples(30, 30) + noise).astype(np.float64), None)
    files = (receipt.files[0]._replace(sha256="0" * 64), receipt.files[1])
    other = replace(receipt, files=files, statistics=replace(receipt.statistics, sketch=statistics.result().sketch))
    told, share = made.compare(other)
    assert told == verdict
    assert share == pytest.approx(offset, rel=0.9)
    unknown = replace(other, statistics=replace(receipt.statistics, sketch=()))
    assert made.compare(unknown) == ("different", None)


def test_small_inputs_are_in_it_and_large_ones_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = npy(rng.normal(size=(9000, 8)).astype(np.float32))
    spec = make_spec(count=9000, shard_size=9000, latents=hashlib.sha256(data).hexdigest())
    made = recipe(make_dataset(tmp_path / "large", spec, uploads={"latents.npy": data}))
    assert made.inputs["latents.npy"].data is None
    assert made.inputs["latents.npy"].size_bytes == len(data)
    labels = npy(np.zeros(100, np.int32))
    spec = make_spec(labels="file:" + hashlib.sha256(labels).hexdigest())
    made = recipe(make_dataset(tmp_path / "small", spec, uploads={"labels.npy": labels}))
    again = Recipe.from_json(made.to_json().encode(), "r")
    assert again.inputs["labels.npy"].data == labels
    assert len(made.to_json()) < 3000


def test_an_export_is_what_the_same_job_would_have_made(folder: Path, tmp_path: Path) -> None:
    """float32 exported to PNG, and the same samples made as PNG: each compares with the other's recipe."""
    export(str(folder), str(tmp_path / "exported"), to="png")
    made = make_dataset(tmp_path / "made", make_spec(format="png", dtype="uint8"))
    told = recipe(made)
    for receipt in Dataset(tmp_path / "exported").receipts().values():
        verdict, share = told.compare(receipt)
        assert verdict in ("bit-equal", "within tolerance")
        assert share == pytest.approx(0, abs=1e-7)


def test_what_has_no_recipe(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "d", make_spec())
    (whole / "shards.jsonl").write_text("{}\n")
    cases = {
        "shards.jsonl is missing or damaged": whole,
        "is not whole": make_dataset(tmp_path / "growing", make_spec(), finished=False),
        "nothing to make again": make_dataset(tmp_path / "null", make_spec(format="null")),
    }
    for words, folder in cases.items():
        with pytest.raises((DatasetError, UsageError), match=words):
            recipe(folder)
    with pytest.raises(NoisemillError, match="holds no dataset"):
        recipe(tmp_path / "nothing")


def test_the_command(folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("recipe", folder)
    assert done.code == 0, done.err
    assert "100 samples" in done.out
    assert "a file of whoever made it, /models/tiny.keras" in done.out
    text = (tmp_path / "d.recipe.json").read_text()
    assert run("recipe", folder, "--output", "-").out == text
    told = json.loads(run("recipe", folder, "--json").out)
    assert (told["output"], told["size_bytes"], told["shards"]) == ("d.recipe.json", len(text.encode()), 4)
    refused = run("recipe", folder, "--generator", "fashion")
    assert refused.code == 2
    assert "its digest differs" in refused.err
    assert run("recipe", folder, "--output", tmp_path / "no" / "r.json").code == 1
