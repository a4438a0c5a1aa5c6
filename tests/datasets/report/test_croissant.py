"""croissant.json against the rules of Croissant 1.0; `make readers` reads datasets with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.verification import verify
from pipeline.spec.about import About
from tests.cli.running import runner
from tests.datasets.test_dataset import FORMS
from tests.making import make_dataset, make_spec

ABOUT = About(license="CC-BY-4.0", data="own photographs", authors=("Ann", "Das Labor"))


def metadata_of(folder: Path) -> Any:
    return json.loads((folder / "croissant.json").read_text(encoding="utf-8"))


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from nodes(each)


@pytest.mark.parametrize("form", [*FORMS, "null"])
def test_it_follows_the_specification(form: str, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(**FORMS.get(form, {"format": form})))
    metadata = metadata_of(folder)
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert metadata["@type"] == "sc:Dataset"
    assert metadata["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert {"name", "description", "version", "datePublished"} <= set(metadata)
    typed = [node for node in nodes({**metadata, "@context": None, "@type": None}) if "@type" in node and "@id" in node]
    ids = [node["@id"] for node in typed]
    assert len(set(ids)) == len(ids)
    # Whatever is referred to is declared.
    assert {node["@id"] for node in nodes(metadata) if set(node) == {"@id"}} <= set(ids)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for node in metadata["distribution"]:
        assert node["encodingFormat"]
        if node["@type"] == "cr:FileObject":
            content = (folder / node["contentUrl"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == node["sha256"]
        elif "containedIn" not in node:
            assert any(fnmatch(name, node["includes"]) for name in names), node
    for record_set in metadata["recordSet"]:
        fields = {field["@id"] for field in record_set["field"]}
        assert all(field["dataType"].startswith("sc:") for field in record_set["field"])
        assert all(set(row) == fields for row in record_set.get("data", []))
        assert all(("source" in field) == ("data" not in record_set) for field in record_set["field"])
    # Croissant cannot describe the records of TFRecord files.
    expected = [] if form == "null" or form.startswith("tfrecord") else ["samples"]
    if make_spec(**FORMS.get(form, {})).classes is not None:
        expected.insert(0, "classes")
    assert [each["@id"] for each in metadata["recordSet"]] == expected


def test_folders_of_classes_are_found_by_the_names_in_it(tmp_path: Path) -> None:
    spec = make_spec(
        classes=("Été", "猫"), format="png", dtype="uint8", layout="class", folder_names="unicode", count=10
    )
    folder = make_dataset(tmp_path / "d", spec)
    classes, samples = metadata_of(folder)["recordSet"]
    assert [row["classes/folder"] for row in classes["data"]] == ["été", "猫"]
    transform = samples["field"][2]["source"]["transform"]["regex"]
    for path in (folder / "images").rglob("*.png"):
        found = re.match(transform, path.relative_to(folder).as_posix())
        assert found is not None
        assert found[1] in ("été", "猫")


def test_license_and_provenance_reach_manifest_card_metadata_and_exports(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    before = finish_dataset(str(folder), "job")
    assert "about" not in json.loads((folder / "manifest.json").read_text())
    assert "license" not in metadata_of(folder)
    finish_dataset(str(folder), "job", about=ABOUT, reproducible=False)
    manifest = Dataset(folder).manifest()
    assert manifest is not None
    assert (manifest.about, manifest.spec_sha256) == (ABOUT, before.spec_sha256)
    assert verify(str(folder)).sound
    export(str(folder), str(tmp_path / "out"), to="png")
    export(str(folder), str(tmp_path / "out.npz"), to="npz")
    exported = Dataset(tmp_path / "out").manifest()
    assert exported is not None
    assert (exported.about, exported.reproducible) == (ABOUT, False)
    for place in (folder, tmp_path / "out"):
        metadata = metadata_of(place)
        assert metadata["license"] == "CC-BY-4.0"
        assert [author["name"] for author in metadata["creator"]] == ["Ann", "Das Labor"]
        assert "own photographs" in metadata["isBasedOn"][1]["name"]
        card = (place / "README.md").read_text()
        assert "\nlicense: cc-by-4.0\n" in card
        assert "- Data of the generator: own photographs" in card
    assert b"own photographs" in (tmp_path / "out.npz").read_bytes()[-2000:]


def test_an_older_dataset_gets_it_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(capsys)
    folder = make_dataset(tmp_path / "d", make_spec(format="tar", dtype="uint8"))
    written = metadata_of(folder)
    (folder / "croissant.json").unlink()
    assert verify(str(folder)).sound
    assert run("card", folder).out.splitlines() == [f"{folder}/README.md", f"{folder}/croissant.json"]
    assert metadata_of(folder) == written
    told = json.loads(run("card", folder, "--url", "https://example.org/d", "--json").out)
    assert told == {**written, "url": "https://example.org/d"} == metadata_of(folder)
    assert "is not an http:// or https:// URL" in run("card", folder, "--url", "nowhere").err
    (folder / "manifest.json").unlink()
    assert "is not complete" in run("card", folder).err
