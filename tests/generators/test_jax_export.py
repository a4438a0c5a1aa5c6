"""Generators that JAX exported; jax_export/make_models.py made the files, numpy what they must make."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import CLOSE, Example, GeneratorSuite, noisemill, predict
from workers.engine.generators.jax_export import load_jax_export

MODELS = Path(__file__).parent / "jax_export"
EXPECTED: Any = np.load(MODELS / "expected.npz")
SIDECAR = """
[label]
classes = ["a", "b", "c"]
[inputs.psi]
constant = 0.5
[output]
name = "image"
range = [-1.0, 1.0]
"""


def copied(name: str, folder: Path, sidecar: str = "[output]\nrange = [-1.0, 1.0]\n") -> Path:
    shutil.copy(MODELS / f"{name}.jaxexport", folder)
    (folder / "generator.toml").write_text(sidecar)
    return folder


class TestJaxExport(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        return Example(
            folder=copied("conditional", tmp_path_factory.mktemp("jax"), SIDECAR),
            kind="jaxexport",
            latents=EXPECTED["latents"],
            labels=EXPECTED["labels"],
            samples=EXPECTED["conditional"],
            # A dictionary's keys and keywords are names; what is given by position is numbered.
            interface={"latent_input": "in_0", "label_input": "label", "output": "image", "sample_shape": (4, 4, 1)},
            own_graph=True,
        )


@pytest.mark.parametrize("engine", ["tf", "xla"])
@pytest.mark.parametrize("name", ["plain", "batch_of_four", "cuda"])
def test_it_makes_what_it_should(tmp_path: Path, name: str, engine: str) -> None:
    """Also one for a fixed batch, and one that was exported on a GPU."""
    samples = predict(copied(name, tmp_path), EXPECTED["latents"], engine=engine)
    assert np.abs(samples - EXPECTED["plain"]).max() <= CLOSE


def test_new_operations_in_an_older_version(tmp_path: Path) -> None:
    """What TensorFlow cannot read as the latest JAX writes it."""
    samples = predict(copied("old_version", tmp_path), EXPECTED["latents"])
    np.testing.assert_array_equal(samples, -np.sort(-EXPECTED["latents"], axis=1)[:, :3])


def test_a_dataset_is_made_and_made_again(tmp_path: Path) -> None:
    copied("plain", tmp_path)
    noisemill("generate", "plain.jaxexport", "out", "--count", "200", "--dtype", "uint8", cwd=tmp_path)
    told = noisemill("verify", "out", "--recompute", "20", cwd=tmp_path).stdout
    assert "20 of 20 recomputed samples are identical" in told
    mixed = ("--count", "9", "--precision", "mixed_float16")
    refused = noisemill("generate", "plain.jaxexport", "mixed", *mixed, cwd=tmp_path, check=False)
    assert "mixed_float16: a function exported by JAX computes as it was saved" in refused.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("with_weights", r"'in_0' has a fixed batch of 6: .*; export a function that contains the weights: jax.jit\("),
        ("calls_python", r"cannot be run: it calls xla_ffi_python_cpu_callback, which is not in the file"),
        (
            "new_operations",
            r"it is in StableHLO_v1.15.0, newer than this TensorFlow's \S+; docs/generators.md, JAX",
        ),
        ("needs_fixed_batch", r"one of its operations needs a fixed batch: export it for \(64, ...\) instead"),
        ("random_key", r"'in_0' has a type that cannot be fed; a random key belongs inside the function"),
    ],
)
def test_what_cannot_be_run_has_a_way_out(name: str, message: str) -> None:
    with pytest.raises(GeneratorError, match=message) as caught:
        load_jax_export(MODELS / f"{name}.jaxexport")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 3, 40, 300, 2000, 2700])
def test_a_file_that_was_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.jaxexport"
    path.write_bytes((MODELS / "plain.jaxexport").read_bytes()[:size])
    with pytest.raises(GeneratorError, match=r"is no whole file of jax.export|cannot be run") as caught:
        load_jax_export(path)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_byte_changed_is_refused_or_runs(tmp_path: Path) -> None:
    """Whatever its tables say then, it ends in one line or in a network."""
    data = (MODELS / "plain.jaxexport").read_bytes()
    path = tmp_path / "changed.jaxexport"
    module = data.index(b"ML\xefR")
    end = module + int.from_bytes(data[module - 4 : module], "little")
    places = [*range(0, module, 7), *range(end, len(data), 7)]
    refused = []
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :])
        try:
            load_jax_export(path)
        except GeneratorError as error:
            refused.append(str(error))
    assert len(refused) > len(places) // 8
    assert not any("\n" in message for message in refused)


def test_the_folder_alone_is_enough(tmp_path: Path) -> None:
    found = find_generator(str(copied("plain", tmp_path)))
    assert (found.kind, found.interface.latent_shape) == ("jaxexport", (6,))
