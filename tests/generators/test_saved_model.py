"""TensorFlow's SavedModels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import CLOSE, Example, GeneratorSuite, predict

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


def test_open_shapes_cannot_be_used(tmp_path):
    import tensorflow as tf

    def compute(module, z):
        return {"x": tf.tanh(z)}

    save(tmp_path / "model", compute, spec(None, None, name="z"))
    with pytest.raises(GeneratorError, match="open shape"):
        find_generator(str(tmp_path / "model"))


@pytest.mark.parametrize("engine", ["tf", "xla"])
@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_a_fixed_batch(tmp_path, batch, engine):
    """Whatever the batch, samples are those of the open network; `predict` asks for four at a time."""
    import tensorflow as tf

    def compute(module, z):
        return {"x": tf.tanh(z @ module.kernel)}

    kernel = save(tmp_path / "fixed", compute, spec(batch, 3, name="z"))
    found = find_generator(str(tmp_path / "fixed")).interface
    assert (found.latent_shape, found.sample_shape) == ((3,), (8,))
    latents = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    samples = predict(tmp_path / "fixed", latents, engine=engine)
    assert np.abs(samples - np.tanh(latents @ kernel)).max() <= 1e-6


def test_two_fixed_batches_are_refused(tmp_path):
    import tensorflow as tf

    module_input, other = spec(5, 3, name="z"), spec(7, 3, name="w")
    save(tmp_path / "model", lambda module, z, w: {"x": tf.tanh(z @ module.kernel)}, module_input, other)
    with pytest.raises(GeneratorError, match="'w' has a fixed batch of 7"):
        find_generator(str(tmp_path / "model"))


def test_damaged(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(GeneratorError, match="cannot be loaded") as refused:
        find_generator(str(tmp_path))
    assert "\n" not in str(refused.value)


def write_a_file(path):
    import tensorflow as tf

    tf.io.write_file(str(path), "ran")


def on_load(ran):
    """A module whose resource writes a file when the model is loaded."""
    import tensorflow as tf

    class Resource(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]  # TensorFlow has no types.
        def _create_resource(self):
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self):
            write_a_file(ran)

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self):
            super().__init__()
            self.resource = Resource()
            assert self.resource.resource_handle is not None

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="z")])
        def serve(self, z):
            return {"x": tf.tanh(z)}

    return Module()


def test_nothing_runs_when_a_model_is_loaded_that_would_write_a_file(tmp_path):
    import tensorflow as tf

    ran = tmp_path / "ran"
    module = on_load(ran)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.serve})
    ran.unlink(missing_ok=True)
    with pytest.raises(GeneratorError, match="is refused: WriteFile reaches out of the model, to code or files"):
        find_generator(str(tmp_path / "model"))
    assert not ran.exists()
    tf.saved_model.load(str(tmp_path / "model"))  # What the refusal is for.
    assert ran.exists()


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("print to a file", "PrintV2"),
        ("lines of a file", "OptionsDataset|TextLineDataset|.*Dataset.*"),
        ("contents of a file", "ReadFile"),
        ("names of files", "MatchingFiles"),
        ("Python", "EagerPyFunc"),
        ("in a branch", "ReadFile"),
        ("in a loop", "ReadFile"),
    ],
)
def test_what_reaches_out_is_refused_wherever_it_is(tmp_path, name, operation):
    import tensorflow as tf

    def read():
        return tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)

    def lines():
        data = tf.data.TextLineDataset("/etc/hostname").take(1).batch(1)
        return tf.cast(tf.strings.length(tf.data.experimental.get_single_element(data))[0], tf.float32)

    def printed():
        with tf.control_dependencies([tf.print("x", output_stream=f"file://{tmp_path}/printed")]):
            return tf.constant(0.0)

    parts = {
        "print to a file": printed,
        "lines of a file": lines,
        "contents of a file": read,
        "names of files": lambda: tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32),
        "Python": lambda: tf.py_function(lambda: 1.0, [], tf.float32),
        "in a branch": lambda: tf.cond(tf.random.uniform(()) < 2, read, lambda: 0.0),
        "in a loop": lambda: tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, x + read()), [0, 0.0])[1],
    }

    def compute(module, z):
        return {"x": tf.tanh(z) + parts[name]()}

    save(tmp_path / "model", compute, spec(None, 3, name="z"))
    with pytest.raises(GeneratorError, match=f"is refused: ({operation}) reaches out of the model"):
        find_generator(str(tmp_path / "model"))


def test_a_model_of_tensorflow_1_is_read(tmp_path):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        z = tf.placeholder(tf.float32, (None, 3), name="z")
        kernel = tf.get_variable("kernel", (3, 4), use_resource=False)
        session.run(tf.global_variables_initializer())
        tf.saved_model.simple_save(session, str(tmp_path / "model"), {"z": z}, {"x": tf.tanh(z @ kernel)})
    generator = find_generator(str(tmp_path / "model"))
    assert (generator.interface.latent_dim, generator.interface.sample_shape) == (3, (4,))


def test_inputs_that_are_the_same_for_all_samples(tmp_path: Path) -> None:
    """A number without a batch, as BigGAN's truncation; and one for each sample, which is fed the same."""
    import tensorflow as tf

    weight = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)

    class Truncated(tf.Module):  # type: ignore[misc]
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 3], tf.float32, name="z"),
                tf.TensorSpec([], tf.float32, name="truncation"),
                tf.TensorSpec([None, 2], tf.float32, name="style"),
            ]
        )
        def __call__(self, z: Any, truncation: Any, style: Any) -> Any:
            return {"image": truncation * z @ weight + tf.reduce_sum(style, axis=1, keepdims=True)}

    module = Truncated()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__.get_concrete_function())
    with pytest.raises(GeneratorError, match=r"'truncation' of shape \(\) has no batch dim.*\[inputs.truncation\]"):
        find_generator(str(tmp_path / "model"))
    sidecar = tmp_path / "model" / "generator.toml"
    sidecar.write_text("[inputs.truncation]\nconstant = 0.5\n[inputs.style]\nconstant = [1, 0.25]\n")
    latents = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    samples = predict(tmp_path / "model", latents)
    assert np.abs(samples - (0.5 * latents @ weight + 1.25)).max() <= CLOSE
    digest = find_generator(str(tmp_path / "model")).digest
    sidecar.write_text(sidecar.read_text().replace("0.5", "0.7"))
    assert find_generator(str(tmp_path / "model")).digest != digest, "it makes other samples"
    own = "[inputs.truncation]\n"
    bad = ("constant = 'x'", "mean = 1", "constant = [1, 2]")
    for wrong in ("[inputs.nothing]\nconstant = 1", "inputs = 3", *(own + line for line in bad)):
        sidecar.write_text(wrong + "\n")
        with pytest.raises(GeneratorError):
            find_generator(str(tmp_path / "model"))
