"""Networks that are not functions of their inputs are found by trying, and no difference of theirs is called damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.receipts import NOT_REPRODUCIBLE, Manifest
from pipeline.datasets.recipe import Recipe
from pipeline.generators import find_generator
from tests.generators.suite import CPU, noisemill
from workers.engine.calibration import CalibratedEngines

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

KINDS = ("plain", "mean of the batch", "random numbers", "batch norm in training")


class Generator(tf.Module):  # type: ignore[name-defined,misc]
    """Eight numbers to an image of 4x4, in the way that `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        values = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32) * 0.3
        self.weight = tf.Variable(values)

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="z")])
    def __call__(self, z: Any) -> Any:
        x = z @ self.weight
        if self.kind == "mean of the batch":
            x -= tf.reduce_mean(x, axis=0)
        elif self.kind == "random numbers":
            x += 0.1 * tf.random.normal(tf.shape(x))
        elif self.kind == "batch norm in training":
            mean, variance = tf.nn.moments(x, axes=[0])
            x = tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)
        return {"image": tf.reshape(tf.tanh(x), (-1, 4, 4, 1))}


def save(folder: Path, kind: str) -> Path:
    module = Generator(kind)
    tf.saved_model.save(module, str(folder), signatures=module.__call__.get_concrete_function())
    (folder / "generator.toml").write_text("[output]\nrange = [-1.0, 1.0]\n")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_found_by_trying(tmp_path: Path, kind: str) -> None:
    found = find_generator(str(save(tmp_path / "model", kind)))
    engines = CalibratedEngines(found, CPU, tmp_path / "cache")
    assert engines.is_reproducible() == (kind == "plain")


def test_differences_are_no_damage(tmp_path: Path) -> None:
    save(tmp_path / "model", "mean of the batch")
    made = noisemill("generate", "model", "out", "--count", "150", cwd=tmp_path)
    assert NOT_REPRODUCIBLE in made.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["reproducible"] is False
    checked = noisemill("verify", "out", "--recompute", "20", cwd=tmp_path, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_manifest_says_so_only_where_it_is_so(tmp_path: Path) -> None:
    noisemill("generate", "article-28", "out", "--count", "20", cwd=tmp_path)
    text = (tmp_path / "out" / "manifest.json").read_bytes()
    assert b"reproducible" not in text
    manifest = Manifest.from_json(text, "manifest.json")
    assert manifest.reproducible
    assert manifest.to_json().encode() == text


def test_what_cannot_be_the_same_is_not_called_different(tmp_path: Path) -> None:
    save(tmp_path / "model", "mean of the batch")
    noisemill("generate", "model", "out", "--count", "150", "--shard-size", "100", cwd=tmp_path)
    noisemill("recipe", "out", cwd=tmp_path)
    path = tmp_path / "out.recipe.json"
    recipe = Recipe.from_json(path.read_bytes(), "recipe")
    assert not recipe.reproducible
    # As if other neighbours had made other samples.
    other = recipe.fingerprints.copy()
    other["sha256"], other["sketch"] = b"\1" * 16, other["sketch"] + 9
    path.write_text(replace(recipe, fingerprints=other).to_json())
    made = noisemill("reproduce", path, "again", cwd=tmp_path).stdout
    assert "2 shards: 2 not reproducible" in made
    assert NOT_REPRODUCIBLE in made
    told = json.loads(noisemill("reproduce", path, "again", "--json", cwd=tmp_path).stdout)
    counts = {"bit-equal": 0, "within tolerance": 0, "different": 0, "not reproducible": 2}
    assert (told["same"], told["counts"]) == (True, counts)
    path.write_text(replace(recipe, fingerprints=other, reproducible=True).to_json())
    done = noisemill("reproduce", path, "again", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "2 different" in done.stdout
