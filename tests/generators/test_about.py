"""`[about]` in generator.toml: license and provenance of a generator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from pipeline.spec.about import About

TINY = Path(__file__).parents[1] / "data" / "tiny.keras"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for path in TINY.parent.glob("tiny.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "tiny.keras"


def told(model: Path, table: str) -> About:
    sidecar = model.with_suffix(".toml")
    sidecar.write_text(sidecar.read_text() + f"\n[about]\n{table}\n")
    return find_generator(str(model)).about


def test_it_is_read_and_changes_no_digest(model: Path) -> None:
    before = find_generator(str(model))
    assert not before.about
    about = told(model, 'license = "MIT"\ndata = "photographs of our own"\nauthors = ["Ann", "Ben"]')
    assert about == About(license="MIT", data="photographs of our own", authors=("Ann", "Ben"))
    after = find_generator(str(model))
    assert (after.digest, after.content) == (before.digest, before.content)
    assert after.as_json()["about"] == {
        "license": "MIT", "data": "photographs of our own", "authors": ("Ann", "Ben"),
    }  # fmt: skip


@pytest.mark.parametrize(("table", "problem"), [
    ('licence = "MIT"', "unknown about.licence"), ("license = 3", "3 is not one line"),
    ('license = ""', "'' is not one line"), ('data = "a\\nb"', "is not one line"),
    ("authors = [1]", "1 is not one line"), ("authors = 1", "1 is not a list"),
])  # fmt: skip
def test_a_wrong_table_is_refused(model: Path, table: str, problem: str) -> None:
    with pytest.raises(GeneratorError, match=problem):
        told(model, table)


def test_one_author_is_a_list_of_one(model: Path) -> None:
    assert told(model, 'authors = "Ann"').authors == ("Ann",)


@pytest.mark.parametrize("name", ["fashion", "fashion-flow", "article", "article-28"])
def test_built_in_generators_have_a_license(name: str) -> None:
    assert find_generator(name).about.license == "MIT"
