"""Untrained generators, and the article's two that are built in."""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import builtin_names, find_generator
from tests.generators.suite import Example, GeneratorSuite

RNG = np.random.default_rng(7)

TOPOLOGY = {
    "class_name": "Sequential",
    "config": [
        {
            "class_name": "Dense",
            "config": {
                "name": "dense",
                "units": 6,
                "activation": "tanh",
                "use_bias": True,
                "batch_input_shape": [None, 50],
                "kernel_initializer": {"class_name": "TruncatedNormal", "config": {"mean": 0, "stddev": 0.5}},
            },
        }
    ],
}


def drawn(seed: int) -> np.ndarray:
    """The kernel, by another way of drawing beyond two deviations again."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(b"dense/kernel")])
    stream = np.random.Generator(np.random.Philox(entropy))
    values = stream.standard_normal((50, 6), dtype=np.float32).ravel()
    while (wrong := np.flatnonzero(np.abs(values) > 2)).size:
        values[wrong] = stream.standard_normal(wrong.size, dtype=np.float32)
    return values.reshape(50, 6) * np.float32(0.5)


class TestUntrained(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("untrained")
        (folder / "untrained.json").write_text(json.dumps({"seed": 11, "modelTopology": TOPOLOGY}))
        latents = RNG.standard_normal((5, 50), dtype=np.float32)
        return Example(
            folder=folder,
            kind="untrained",
            latents=latents,
            labels=None,
            samples=np.tanh(latents @ drawn(11)),
            interface={"latent_shape": (50,), "sample_shape": (6,), "value_range": (-1.0, 1.0)},
        )


def test_unknown_initialiser(tmp_path):
    from workers.engine.generators import load_generator

    topology = json.loads(json.dumps(TOPOLOGY))
    topology["config"][0]["config"]["kernel_initializer"]["class_name"] = "Orthogonal"
    (tmp_path / "untrained.json").write_text(json.dumps({"modelTopology": topology}))
    with pytest.raises(GeneratorError, match="Orthogonal cannot be drawn"):
        load_generator(find_generator(str(tmp_path)))


def test_article_is_built_in():
    assert {"article", "article-28"} <= set(builtin_names())
    printed, claimed = find_generator("article"), find_generator("article-28")
    assert printed.interface.sample_shape == (56, 56, 1)
    assert claimed.interface.sample_shape == (28, 28, 1)
    assert printed.structure.parameters == claimed.structure.parameters == 2_192_385
    assert (printed.structure.flop, claimed.structure.flop) == (177_723_392, 89_664_512)


#: sha256 over all weights, in Keras's order.
WEIGHTS = "971bfb85574ed7bb3cf5d6130d585e8950ebd788818b89f6c7ff401721a2f568"


def test_article_has_the_same_weights_everywhere():
    """A change here is a change of every dataset made with them."""
    from workers.engine.generators import load_network

    network = load_network("untrained", find_generator("article-28").model)
    weights = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in network.owner.get_weights()))
    kernel = network.owner.get_weights()[0]
    assert kernel.shape == (100, 7 * 7 * 256)
    assert np.abs(kernel).max() <= 0.04
    # Of a normal distribution cut at two deviations.
    assert abs(kernel.std() / 0.02 - 0.8796) < 0.001
    assert weights.hexdigest() == WEIGHTS
