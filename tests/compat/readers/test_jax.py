"""A generator in JAX becomes a dataset as docs/generators.md says; JAX lives in `.venv-readers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from tests.compat.readers.blocks import answers, block
from tests.compat.readers.test_readers import PYTHON
from tests.generators.suite import CLOSE, noisemill

pytestmark = [pytest.mark.compat, pytest.mark.timeout(600)]

#: What the page takes for given.
MODEL = """
import jax.numpy as jnp
import numpy as np
rng = np.random.default_rng(0)
params = [(rng.standard_normal(size) * 0.1).astype("float32") for size in ((128, 4 * 4 * 8), (3, 3, 8, 3))]
def apply(params, z):
    x = jnp.reshape(z @ params[0], (-1, 4, 4, 8))
    x = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    return jnp.tanh(jax.lax.conv_transpose(jax.nn.gelu(x), params[1], (2, 2), "SAME"))
"""


def test_from_jax_to_a_dataset(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("no .venv-readers: make readers")
    code = block("jax", "serialize")
    answers(PYTHON, tmp_path, [(MODEL + code, "0")], tmp_path)
    noisemill("generate", "generator.jaxexport", "out", "--count", "64", cwd=tmp_path)
    made = Dataset(tmp_path / "out")
    np.save(tmp_path / "latents.npy", made.latents(0, 64))
    kept = "np.save('samples.npy', np.asarray(apply(params, np.load('latents.npy')))) or 0"
    answers(PYTHON, tmp_path, [(MODEL + code, kept)], tmp_path)
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (64, 8, 8, 3)
    assert np.abs(made.samples(0, 64) - samples).max() <= CLOSE
