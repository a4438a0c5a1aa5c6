"""Generators in ONNX and TensorFlow Lite; interpreted/make_models.py made the files, numpy what they must make."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import CLOSE, CPU, noisemill, predict
from workers.engine.calibration import CalibratedEngines

MODELS = Path(__file__).parent / "interpreted"
EXPECTED: Any = np.load(MODELS / "expected.npz")
#: Name, what it makes, and what its file cannot say.
FILES = [
    ("conditional.onnx", "conditional", '[label]\nclasses = ["a", "b", "c"]\n'),
    ("batch_of_one.onnx", "plain", ""),
    ("plain.tflite", "plain", ""),
]


@pytest.fixture(params=FILES, ids=[name for name, _, _ in FILES])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    name, kind, sidecar = request.param
    shutil.copy(MODELS / name, tmp_path)
    (tmp_path / "generator.toml").write_text(f"{sidecar}[output]\nrange = [-1.0, 1.0]\n")
    return tmp_path, kind


def test_it_makes_what_it_should(model: tuple[Path, str]) -> None:
    folder, kind = model
    found = find_generator(str(folder))
    assert found.interface.sample_shape == (4, 4, 1)
    labels = EXPECTED["labels"] if kind == "conditional" else None
    samples = predict(folder, EXPECTED["latents"], labels)
    assert np.abs(samples - EXPECTED[kind]).max() <= CLOSE


def test_calibration_finds_the_engine_that_can(model: tuple[Path, str], tmp_path: Path) -> None:
    engines = CalibratedEngines(find_generator(str(model[0])), CPU, tmp_path / "cache")
    assert engines.calibrate().engine == "tf", "XLA compiles no network that another library interprets"
    assert engines.is_reproducible()


def test_a_dataset_is_made_and_made_again(model: tuple[Path, str]) -> None:
    folder, _ = model
    name = next(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".tflite"))
    noisemill("generate", name, "out", "--count", "200", "--dtype", "uint8", cwd=folder)
    told = noisemill("verify", "out", "--recompute", "20", cwd=folder).stdout
    assert "20 of 20 recomputed samples are identical" in told


def test_without_onnxruntime_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.engine.generators.interpreted import load_onnx

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GeneratorError, match=r"pip install 'noisemill\[onnx\]'"):
        load_onnx(MODELS / "conditional.onnx")


@pytest.mark.parametrize("name", ["conditional.onnx", "plain.tflite"])
@pytest.mark.parametrize("size", [0, 20, 300])
def test_a_file_that_was_cut_off(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / name).write_bytes((MODELS / name).read_bytes()[:size])
    with pytest.raises(GeneratorError) as caught:
        find_generator(str(tmp_path / name))
    assert "\n" not in str(caught.value)
