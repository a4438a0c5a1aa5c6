"""docs/usage.md and docs/datasets.md say what is so: help, environment, examples, and how to read each format."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.cli import noisemill
from pipeline.common.settings import Settings
from tests.cli.help_pages import PAGE, commands, embedded
from tests.cli.running import Run
from tests.compat.readers.examples import make_examples
from tests.data.described import write_described

USAGE = PAGE.read_text(encoding="utf-8")
README = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
PAGES = embedded(USAGE)
DATASETS = (PAGE.parent / "datasets.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", DATASETS, re.DOTALL)
EXAMPLES = sorted(set(re.findall(r"^    (noisemill [^#\n]*)", README + USAGE + DATASETS, re.MULTILINE)))


def test_every_command_has_its_page():
    assert sorted(PAGES) == sorted(" ".join(words) for words, _ in commands())


@pytest.mark.parametrize("words", PAGES)
def test_help_is_what_the_command_prints(run: Run, words: str):
    """Where it is not: `python -m tests.cli.help_pages`."""
    assert PAGES[words] == run(*words.split(), "--help").out


def test_every_setting_is_told():
    told = dict(re.findall(r"^\| `NOISEMILL_([A-Z_]+)` \| `([^`]*)` \|", USAGE, re.MULTILINE))
    assert told == {name.upper(): str(default) for name, default in Settings().__dict__.items()}


def test_every_module_has_its_place():
    page = (PAGE.parent / "architecture.md").read_text(encoding="utf-8")
    # Folders whose modules are interchangeable parts, or whose names repeat the commands, are named as a whole.
    paths = [path for folder in ("pipeline", "workers") for path in (PAGE.parents[1] / folder).glob("*/*.py")]
    whole = ("cli", "stores", "formats", "generators")
    modules = {path.stem for path in paths if path.parent.name not in whole} | {path.parent.name for path in paths}
    assert sorted(name for name in modules - {"__init__", "version"} if name not in page) == []


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_understood(line: str):
    """Parsed alone; what the main ones do, other tests tell."""
    name, *words = shlex.split(line)[1:]
    # click keeps the help option that it makes first, so its names must be those of the real command.
    context = click.Context(noisemill, **noisemill.context_settings)
    command = noisemill.get_command(context, name)
    assert command is not None, name
    if not hasattr(command, "commands"):
        command.make_context(name, words, parent=context)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of the names that the page reads."""
    return make_examples(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[-1].strip()[:40])
def test_reading(examples: Path, monkeypatch: pytest.MonkeyPatch, code: str):
    monkeypatch.chdir(examples)
    names: dict = {}
    exec(code, names)
    # The last name of each loop is there, so it went round.
    assert {"labels", "entry", "data"} & set(names)


def test_toml_example_is_a_generator(run: Run, tmp_path: Path):
    page = (PAGE.parent / "generators.md").read_text(encoding="utf-8")
    [text, _sampler, code, judge] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    text = text.partition("[inputs.")[0] + code
    for line in ('name = "image"', 'channels = "first"'):
        text = text.replace(line, "")  # Of other models than this one.
    write_described(tmp_path / "faces.keras", [128], [64, 64, 3], name="z", label=True)
    (tmp_path / "faces.toml").write_text(text)
    assert "cat, dog" in run("generators", "inspect", tmp_path / "faces.keras").out
    write_described(tmp_path / "critic.keras", [64 * 64 * 3], [1], name="image")
    (tmp_path / "judge.toml").write_text(judge.replace('"score"', '"output"'))
    told = run("generators", "inspect", "--as-judge", tmp_path / "critic.keras").out
    assert "0 to 255" in told
    assert "output: a number" in told
