"""The article's generators, built, saved and predicted with by real TensorFlow.js in Node."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.generators import find_generator
from tests.generators.suite import CLOSE, predict
from tests.generators.test_tfjs import FIXTURES, read_example

pytestmark = [pytest.mark.compat, pytest.mark.timeout(600)]

SCRIPTS = Path(__file__).parent / "tfjs"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs the script that makes models; TensorFlow.js is installed for the length of the tests."""
    if shutil.which("npm") is None:
        pytest.skip("no Node.js")
    folder = tmp_path_factory.mktemp("tfjs")
    for name in ("package.json", "make_models.mjs"):
        shutil.copy(SCRIPTS / name, folder)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=600)
    if installed.returncode:
        pytest.skip(f"TensorFlow.js cannot be installed: {installed.stderr[-300:]}")

    def run(what: str) -> Path:
        command = ["node", "make_models.mjs", what, what]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
        return folder / what

    return run


def test_the_articles_generators(node):
    folder = node("article")
    for name, shape in (("article", (56, 56, 1)), ("article-28", (28, 28, 1))):
        example = read_example(folder / name)
        found = find_generator(str(folder / name))
        assert found.interface.sample_shape == shape
        assert found.interface.value_range == (-1.0, 1.0)
        assert found.structure.parameters == 2_192_385
        difference = np.abs(predict(folder / name, example.latents) - example.samples).max()
        assert difference <= 2 * CLOSE
        # Untrained outputs are small: the same share of what they span.
        assert difference <= CLOSE * np.ptp(example.samples)
        # And the built-in one has the same layers with the same settings.
        built_in = find_generator(name)
        assert (built_in.structure.parameters, built_in.structure.flop) == (
            found.structure.parameters,
            found.structure.flop,
        )


def test_leaky_relu_ignores_a_number(node):
    topology = (node("article") / "article" / "model.json").read_text()
    assert topology.count('"alpha":0.3') == 3
    assert '"alpha":0.2' not in topology


def test_fixtures_are_what_the_script_makes(node):
    folder = node("fixtures")
    for made in sorted(path for path in folder.iterdir()):
        kept = FIXTURES / made.name
        for file in made.iterdir():
            if file.suffix == ".bin":
                assert file.stat().st_size == (kept / file.name).stat().st_size
        assert predict(kept, read_example(kept).latents, read_example(kept).labels).shape[0] == 3
        example = read_example(made)
        if (kept / "generator.toml").exists():
            shutil.copy(kept / "generator.toml", made)
        assert np.abs(predict(made, example.latents, example.labels) - example.samples).max() <= CLOSE
    assert filecmp.cmp(folder / "uint8" / "model.json", FIXTURES / "uint8" / "model.json", shallow=False)
