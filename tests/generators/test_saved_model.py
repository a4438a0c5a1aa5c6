"""TensorFlow's SavedModels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import Example, GeneratorSuite, predict

RNG = np.random.default_rng(5)


def save(folder, compute, *specs):
    """A module whose one signature computes samples."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(RNG.standard_normal((3, 8)).astype(np.float32))
    function = tf.function(lambda *tensors: compute(module, *tensors), input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=function)
    return module.kernel.numpy()


def spec(*shape, name, dtype="float32"):
    import tensorflow as tf

    return tf.TensorSpec(shape, tf.as_dtype(dtype), name=name)


class TestSavedModel(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory):
        import tensorflow as tf

        folder = tmp_path_factory.mktemp("saved") / "model"

        def compute(module, label, z):
            image = tf.reshape(tf.tanh(z @ module.kernel), (-1, 2, 4, 1))
            return {"image": image + tf.reshape(tf.cast(label, tf.float32), (-1, 1, 1, 1)), "code": z}

        specs = (spec(None, name="label", dtype="int64"), spec(None, 3, name="z"))
        kernel = save(folder, compute, *specs)
        (folder / "generator.toml").write_text('[label]\nclasses = 4\n[output]\nname = "image"\nrange = [-1, 4]')
        latents = RNG.standard_normal((5, 3), dtype=np.float32)
        labels = np.array([3, 0, 1, 2, 3], np.int32)
        return Example(
            folder=folder,
            kind="saved_model",
            latents=latents,
            labels=labels,
            samples=np.tanh(latents @ kernel).reshape(5, 2, 4, 1) + labels.reshape(5, 1, 1, 1),
            interface={
                "latent_input": "z",
                "label_input": "label",
                "classes": ("0", "1", "2", "3"),
                "output": "image",
                "sample_shape": (2, 4, 1),
                "value_range": (-1.0, 4.0),
            },
        )


def test_keras_export(tmp_path):
    import keras

    z = keras.Input((3,), name="z")
    model = keras.Model(z, keras.layers.Dense(4, activation="tanh")(z))
    model.export(tmp_path / "model", verbose=False)
    latents = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(predict(tmp_path / "model", latents), model(latents).numpy(), atol=1e-6)


def test_randomness_inside_is_told(tmp_path):
    import tensorflow as tf

    save(
        tmp_path / "model", lambda module, z: {"x": z @ module.kernel + tf.random.normal((8,))}, spec(None, 3, name="z")
    )
    assert "not reproducible" in find_generator(str(tmp_path / "model")).structure.notes[0]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((5, 3), "fixed batch of 5"), ((None, None), "open shape")],
)
def test_shapes_that_cannot_be_used(tmp_path, shape, reason):
    import tensorflow as tf

    def compute(module, z):
        return {"x": tf.tanh(z)}

    save(tmp_path / "model", compute, spec(*shape, name="z"))
    with pytest.raises(GeneratorError, match=reason):
        find_generator(str(tmp_path / "model"))


def test_damaged(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(GeneratorError, match="cannot be loaded") as refused:
        find_generator(str(tmp_path))
    assert "\n" not in str(refused.value)
