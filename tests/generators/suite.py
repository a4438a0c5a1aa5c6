"""What every kind of generator must do; subclass it for each one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from pipeline.generators.interface import Interface
from workers.engine.devices import Device
from workers.engine.engine import ENGINES, Engine
from workers.engine.generators import load_generator

ROOT = Path(__file__).parents[2]
CPU = Device(name="cpu", model="test")
#: Share of full scale that float32 leaves between two ways of computing the same.
CLOSE = 2e-5


@dataclass(frozen=True, kw_only=True)
class Example:
    """A generator in a folder, and what it must make."""

    folder: Path
    latents: NDArray[np.float32]
    labels: NDArray[np.int32] | None
    #: Computed by other means than ours.
    samples: NDArray[Any]
    #: Fields of the interface that must come out.
    interface: dict[str, Any]
    kind: str
    #: Whether it computes by its own graph, whose precision nobody can lower.
    own_graph: bool = False
    #: Whether a layer jumps (ReLU with a threshold and a slope): rounding takes single values to the other side.
    jumps: bool = False


def save_keras(path: Path, model: Any) -> Path:
    """Saves a model as `.keras`; Keras itself uses a NumPy interface that is going away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        model.save(path)
    return path


def noisemill(*arguments: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line of this checkout, run in a folder."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert not check or done.returncode == 0, done.stderr
    return done


def predict(
    folder: Path | str,
    latents: NDArray[Any],
    labels: NDArray[Any] | None = None,
    engine: str = "tf",
    precision: str = "float32",
) -> Any:
    """Samples through the engine, as a worker computes them, in batches of 4."""
    generator = find_generator(str(folder))
    compiled = Engine(load_generator(generator, precision), generator, CPU, engine, 4, precision)
    assert compiled.record.precision == precision
    flat = latents.reshape(len(latents), -1).astype(np.float32)
    return np.concatenate(
        [
            compiled.predict(flat[first : first + 4], None if labels is None else labels[first : first + 4]).samples()
            for first in range(0, len(flat), 4)
        ]
    )


class GeneratorSuite:
    """Inherit, and answer `example`."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        raise NotImplementedError

    def test_is_understood(self, example: Example) -> None:
        found = find_generator(str(example.folder))
        assert found.kind == example.kind
        assert found.size_bytes > 0
        assert {name: getattr(found.interface, name) for name in example.interface} == example.interface
        assert isinstance(found.interface, Interface)

    def test_makes_what_it_must(self, example: Example) -> None:
        samples = predict(example.folder, example.latents, example.labels)
        assert samples.dtype == np.float32
        assert samples.shape == example.samples.shape
        scale = np.ptp(example.interface.get("value_range") or (0, 1))
        assert np.abs(samples - example.samples).max() <= CLOSE * scale

    def test_xla_agrees(self, example: Example) -> None:
        samples = predict(example.folder, example.latents, example.labels, engine="xla")
        np.testing.assert_allclose(samples, example.samples, atol=CLOSE * 2)

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
    def test_fewer_bits_are_near(self, example: Example, engine: str, precision: str) -> None:
        if example.kind == "saved_model" or example.own_graph:
            with pytest.raises(GeneratorError, match="others compute as they were saved"):
                predict(example.folder, example.latents, example.labels, engine, precision)
            return
        samples = predict(example.folder, example.latents, example.labels, engine, precision)
        assert samples.dtype == np.float32
        scale = np.ptp(example.samples)
        differences = np.abs(samples - example.samples)
        assert differences.max() > 0
        assert (np.median(differences) if example.jumps else differences.max()) <= 0.05 * scale

    def test_a_sample_does_not_depend_on_its_neighbours(self, example: Example) -> None:
        labels = example.labels
        whole = predict(example.folder, example.latents, labels)
        alone = predict(example.folder, example.latents[1:2], None if labels is None else labels[1:2])
        np.testing.assert_allclose(alone[0], whole[1], atol=1e-6)

    def test_digest_is_of_the_content(self, example: Example, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(example.folder, elsewhere)
        assert find_generator(str(elsewhere)).digest == find_generator(str(example.folder)).digest

    def test_digest_tells_every_byte(self, example: Example, tmp_path: Path) -> None:
        changed = tmp_path / "changed"
        shutil.copytree(example.folder, changed)
        largest = max(
            (file for file in changed.rglob("*") if self.is_content(file)), key=lambda file: file.stat().st_size
        )
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
        try:
            digest = find_generator(str(changed)).digest
        except GeneratorError:
            return  # Found out even earlier.
        assert digest != find_generator(str(example.folder)).digest

    def is_content(self, file: Path) -> bool:
        """Whether a file belongs to the model."""
        return file.is_file() and file.name not in ("expected.json", "fingerprint.pb", "generator.toml")
