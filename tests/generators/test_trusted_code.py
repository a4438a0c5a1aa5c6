"""Layers that a model's author wrote: loaded by code that the user trusts, and by nothing else."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError, UsageError
from pipeline.generators import Generator, find_generator
from pipeline.generators.trusted_code import TRUST_VARIABLE, trust
from tests.end_to_end.fleet import TINY
from tests.generators.suite import noisemill
from workers.engine.generators import load_network

#: As people write them: the layer registers nothing.
LAYERS = """
import keras

class PixelNorm(keras.layers.Layer):
    def __init__(self, power=2.0, **options):
        super().__init__(**options)
        self.power = power

    def call(self, values):
        mean = keras.ops.mean(keras.ops.abs(values) ** self.power, axis=-1, keepdims=True)
        return values / (mean + 1e-8) ** (1 / self.power)

    def get_config(self):
        return {**super().get_config(), "power": self.power}

class Decoder(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.norm, self.dense = PixelNorm(), keras.layers.Dense(12, activation="tanh")

    def call(self, latent):
        return self.dense(self.norm(latent))

def build_generator():
    model = Decoder()
    model(keras.ops.zeros((1, 4)))
    return model
"""
KERNEL = np.random.default_rng(5).standard_normal((4, 12), dtype=np.float32)
LATENTS = np.random.default_rng(6).standard_normal((3, 4), dtype=np.float32)


def expected(power: float = 2.0) -> Any:
    mean = np.mean(np.abs(LATENTS) ** power, axis=-1, keepdims=True)
    return np.tanh(LATENTS / (mean + 1e-8) ** (1 / power) @ KERNEL)


def predicted(found: Generator) -> Any:
    network = load_network(found.kind, found.model, None, found.code)
    [samples] = network.call({network.structure.inputs[0].name: LATENTS}).values()
    return np.asarray(samples)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with layers of their author's, and the author's code in a folder apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of Keras, about numpy.
        return save_models(tmp_path_factory.mktemp("models"))


def save_models(folder: Path) -> Path:
    import keras

    (folder / "code").mkdir()
    (folder / "code" / "layers.py").write_text(LAYERS)
    author: dict[str, Any] = {"__name__": "author", "__file__": str(folder / "author" / "layers.py")}
    (folder / "author").mkdir()
    exec(LAYERS, author)
    z = keras.Input((4,), name="z")
    dense = keras.layers.Dense(12, activation="tanh", name="image")
    functional = keras.Model(z, dense(author["PixelNorm"](power=3.0)(z)))
    dense.set_weights([KERNEL, np.zeros(12, np.float32)])
    functional.save(folder / "functional.keras")
    functional.save(folder / "whole.h5")
    decoder = author["build_generator"]()
    decoder.dense.set_weights([KERNEL, np.zeros(12, np.float32)])
    decoder.save(folder / "subclassed.keras")
    decoder.save_weights(folder / "alone.weights.h5")
    doubled = keras.layers.Lambda(lambda values: values * 2.0, output_shape=(4,))
    last = keras.layers.Dense(12, activation="tanh")
    with_lambda = keras.Model(z, last(doubled(z)))
    last.set_weights([KERNEL / 2, np.zeros(12, np.float32)])
    with_lambda.save(folder / "lambda.keras")
    return folder


@pytest.fixture(autouse=True)
def _nothing_trusted_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def code(models: Path) -> str:
    return str(models / "code" / "layers.py")


@pytest.mark.parametrize(
    ("name", "power"),
    [("functional.keras", 3.0), ("whole.h5", 3.0), ("subclassed.keras", 2.0), ("alone.weights.h5", 2.0)],
)
def test_trusted_code_loads_the_model(models: Path, code: str, name: str, power: float) -> None:
    trust([code])
    found = find_generator(str(models / name))
    assert found.interface.latent_shape == (4,)
    assert [file.path.name for file in found.code] == ["layers.py"]
    np.testing.assert_allclose(predicted(found), expected(power), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("functional.keras", r"PixelNorm.*--trust FILE\.py, or .*model\.export"),
        ("whole.h5", r"PixelNorm.*--trust FILE\.py, or .*model\.export"),
        ("subclassed.keras", r"Decoder.*--trust FILE\.py, or .*model\.export"),
        ("alone.weights.h5", "holds weights alone"),
        ("lambda.keras", r"Lambda layer.*--trust .*model\.export"),
    ],
)
def test_without_the_users_word_nothing_runs(models: Path, tmp_path: Path, name: str, way_out: str) -> None:
    """Not what lies beside the model either, whatever generator.toml says."""
    shutil.copy(models / name, tmp_path)
    (tmp_path / "layers.py").write_text("raise RuntimeError('it ran')")
    (tmp_path / "generator.toml").write_text('[code]\nfiles = ["layers.py"]\n')
    with pytest.raises(GeneratorError, match=way_out) as refused:
        find_generator(str(tmp_path / name))
    assert "it ran" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_code_that_generator_toml_names(models: Path, tmp_path: Path) -> None:
    for file in (models / "functional.keras", models / "code" / "layers.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "generator.toml").write_text('[code]\nfiles = ["layers.py"]\n')
    trust(["generator.toml"])
    found = find_generator(str(tmp_path))
    assert [file.path for file in found.code] == [tmp_path / "layers.py"]
    np.testing.assert_allclose(predicted(found), expected(3.0), atol=2e-6)


def test_code_inside_the_model(models: Path, tmp_path: Path, code: str) -> None:
    trust([code])
    with pytest.raises(GeneratorError, match=r"cannot be loaded with the code of layers.py: it holds a Lambda"):
        find_generator(str(models / "lambda.keras"))
    trust(["generator.toml"])
    found = find_generator(str(models / "lambda.keras"))
    assert [file.path.name for file in found.code] == ["lambda.keras"]
    np.testing.assert_allclose(predicted(found), np.tanh(LATENTS @ KERNEL), atol=2e-6)


def test_the_code_is_part_of_the_digest(models: Path, tmp_path: Path, code: str) -> None:
    trust([code])
    before = find_generator(str(models / "functional.keras"))
    other = tmp_path / "layers.py"
    other.write_text(Path(code).read_text() + "\n# another\n")
    trust([str(other)])
    assert find_generator(str(models / "functional.keras")).digest != before.digest
    moved = tmp_path / "renamed.py"
    moved.write_bytes(Path(code).read_bytes())
    trust([str(moved)])
    assert find_generator(str(models / "functional.keras")).digest == before.digest


def test_a_model_that_needs_no_code_runs_none(tmp_path: Path) -> None:
    plain = find_generator(TINY)
    (tmp_path / "layers.py").write_text("raise RuntimeError('it ran')")
    trust([str(tmp_path / "layers.py")])
    assert find_generator(TINY) == plain


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('out of paint')", r"running the code of .*x\.py failed: RuntimeError: out of paint"),
        ("import sys; sys.exit(3)", r"running the code of .*x\.py failed: SystemExit: 3"),
        ("class PixelNorm(:", r"running the code of .*x\.py failed: SyntaxError"),
        (
            "import nothing_like_it",
            r"running the code of .*x\.py failed: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        ("import keras", r"with the code of x\.py: .*"),
    ],
)
def test_code_that_does_not_do(models: Path, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.py").write_text(text)
    trust([str(tmp_path / "x.py")])
    with pytest.raises(GeneratorError, match=reason) as refused:
        find_generator(str(models / "functional.keras"))
    assert "\n" not in str(refused.value)


def test_files_import_each_other_in_order(models: Path, tmp_path: Path) -> None:
    (tmp_path / "author_norms.py").write_text(LAYERS)
    (tmp_path / "network.py").write_text("from author_norms import PixelNorm\nimport keras\n")
    trust([str(tmp_path / "author_norms.py"), str(tmp_path / "network.py")])
    found = find_generator(str(models / "functional.keras"))
    np.testing.assert_allclose(predicted(found), expected(3.0), atol=2e-6)


def test_no_code_in_the_name_of_an_installed_module(models: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(LAYERS)
    trust([str(tmp_path / "json.py")])
    with pytest.raises(GeneratorError, match="has the name of an installed module, json: rename it"):
        find_generator(str(models / "functional.keras"))


@pytest.mark.parametrize("file", ["layers.txt", "nowhere.py", "fold:er/x.py"])
def test_what_is_no_python_file(tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match=r"is not a Python file: give FILE.py, or --trust alone"):
        trust([str(tmp_path / file)])


@pytest.mark.parametrize("files", ["3", '["../layers.py"]', '["/layers.py"]', '["layers"]'])
def test_bad_names_of_code(models: Path, tmp_path: Path, files: str) -> None:
    shutil.copy(models / "functional.keras", tmp_path)
    (tmp_path / "generator.toml").write_text(f"[code]\nfiles = {files}\n")
    with pytest.raises(GeneratorError, match=r"\[code\]"):
        find_generator(str(tmp_path))


def test_a_dataset_and_the_same_once_more(
    models: Path, tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt names the code; who recomputes has to trust it too."""
    model, out = models / "functional.keras", tmp_path / "out"
    noisemill("generate", model, out, "--count", 40, "--trust", code, cwd=tmp_path)
    receipt = json.loads(next((out / "receipts").glob("*.json")).read_text())
    trust([code])
    [file] = find_generator(str(model)).code
    assert receipt["made_by"]["versions"]["layers.py"] == f"sha256:{file.sha256}"
    again = noisemill("verify", out, "--recompute", 10, "--trust", code, cwd=tmp_path)
    assert "10 of 10" in again.stdout
    monkeypatch.setenv(TRUST_VARIABLE, "")
    without = noisemill("verify", out, "--recompute", 10, cwd=tmp_path, check=False)
    assert without.returncode == 1
    assert "--trust FILE.py" in without.stderr
