"""The repository itself: sizes, pins, versions, decisions, make's targets."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INDEX = ROOT / "docs" / "decisions" / "README.md"
DECISIONS = sorted(path for path in INDEX.parent.glob("*") if path != INDEX)

# Which registry serves the packages is each machine's own setting.
REGISTRY = re.compile(r"\b(pypi|pythonhosted|npmjs|yarnpkg|anaconda|rubygems)\.(org|com)\b|\bcrates\.io\b")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_registry_pattern():
    assert REGISTRY.search("https://files.pythonhosted." + "org/packages")
    assert REGISTRY.search("pypi." + "org/simple")
    assert not REGISTRY.search("from PyPI; quay.io/minio/minio; github.com")


def test_no_registry_host(tracked):
    assert [path for path in tracked if REGISTRY.search(path.read_bytes().decode(errors="replace"))] == []


def test_no_large_file(tracked):
    assert [path for path in tracked if path.stat().st_size > 12_000_000] == []


def test_requirements_are_pins_alone():
    pin = re.compile(r"[a-z0-9.-]+==[^ ;]+( ; .+)?")
    assert [line for line in _requirements() if not pin.fullmatch(line)] == []


def test_requirements_cover_pyproject():
    pinned = {Requirement(line).name: Requirement(line) for line in _requirements()}
    for text in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]:
        wanted = Requirement(text)
        pin = pinned[canonicalize_name(wanted.name)]
        assert all(wanted.specifier.contains(spec.version) for spec in pin.specifier), f"{text} against {pin}"


def test_readers_are_pinned_too():
    pinned = {Requirement(line).name: Requirement(line) for line in _requirements("requirements-readers.txt")}
    for text in PROJECT["dependency-groups"]["readers"]:
        wanted = Requirement(text)
        assert all(wanted.specifier.contains(spec.version) for spec in pinned[wanted.name].specifier), text


def _requirements(name: str = "requirements.txt") -> list[str]:
    return (ROOT / name).read_text().splitlines()


def test_changelog_knows_the_version():
    assert re.search(rf"^## {re.escape(PROJECT['project']['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_index_lists_every_decision_by_its_title():
    wanted = [[*path.read_text().splitlines()[0].removeprefix("# ").split(". ", 1), path.name] for path in DECISIONS]
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \|$", INDEX.read_text(), flags=re.MULTILINE)
    assert [list(row) for row in listed] == wanted


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_decision_is_a_page(path):
    assert re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 80


def test_decisions_have_a_number_each():
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(numbers) == len(set(numbers))


def test_make_help_names_every_target():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony is not None
    assert re.findall(r"^  ([\w-]+) +\S", listed, re.M) == phony[1].split()
