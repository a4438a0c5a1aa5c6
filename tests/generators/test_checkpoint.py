"""Checkpoints of TensorFlow with an architecture beside them make what the model that was saved makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError, UnknownGeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import Example, GeneratorSuite
from tests.generators.test_hdf5 import KERAS_2, TRIED, example_of, randomised
from workers.engine.generators.checkpoint import load_checkpoint

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers

CHECKPOINTS = KERAS_2 / "checkpoints"


def weights_of_image(folder: Path) -> Path:
    """What Keras 2 saves by `save_weights("image")`, and its architecture."""
    for file in CHECKPOINTS.glob("image.*"):
        shutil.copy(file, folder)
    return Path(shutil.copy(KERAS_2 / "image.json", folder))


class TestKeras2Weights(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("weights")
        weights_of_image(folder)
        return example_of("image", folder, "checkpoint")


class TestKeras2Training(GeneratorSuite):
    """`tf.train.Checkpoint` of two models and an optimizer, which reaches the generator's variables too."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("training")
        shutil.copytree(CHECKPOINTS / "training_nested", folder, dirs_exist_ok=True)
        shutil.copy(KERAS_2 / "nested.json", folder / "generator.json")
        return example_of("nested", folder, "checkpoint")


@pytest.mark.parametrize("name", ["", "image", "image.index", "image.data-00000-of-00001"])
def test_any_of_its_names_will_do(tmp_path: Path, name: str) -> None:
    weights_of_image(tmp_path)
    assert find_generator(str(tmp_path / name)).model == tmp_path / "image.index"


def test_a_folder_means_its_latest_checkpoint(tmp_path: Path) -> None:
    for number in (1, 2):
        for file in CHECKPOINTS.glob("image.*"):
            shutil.copy(file, tmp_path / f"ckpt-{number}{file.suffix}")
    shutil.copy(KERAS_2 / "image.json", tmp_path)
    with pytest.raises(GeneratorError, match=r"is several models: name one of .*ckpt-1.index, .*ckpt-2.index"):
        find_generator(str(tmp_path))
    # It may tell the folder where it was written.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/content/training/ckpt-2"\n')
    assert find_generator(str(tmp_path)).model == tmp_path / "ckpt-2.index"


def test_without_the_architecture_the_way_out_is_told(tmp_path: Path) -> None:
    weights_of_image(tmp_path).unlink()
    with pytest.raises(GeneratorError, match=r"weights alone: put the model's architecture beside it as image.json \("):
        find_generator(str(tmp_path))


def test_an_architecture_without_weights_is_called_one(tmp_path: Path) -> None:
    shutil.copy(KERAS_2 / "image.json", tmp_path / "model.json")
    with pytest.raises(GeneratorError, match=r"is an architecture without weights: put them beside it"):
        find_generator(str(tmp_path / "model.json"))
    with pytest.raises(UnknownGeneratorError, match="is a folder without"):
        find_generator(str(tmp_path))
    shutil.copy(KERAS_2 / "image.weights.h5", tmp_path / "model.weights.h5")
    assert find_generator(str(tmp_path)).kind == "hdf5"


def save(folder: Path, **objects: Any) -> Path:
    """A checkpoint of Keras 3's, as trainings write it."""
    written = tf.train.CheckpointManager(tf.train.Checkpoint(**objects), str(folder), max_to_keep=1).save()
    return Path(f"{written}.index")


@pytest.mark.parametrize(("layer", "shape"), TRIED, ids=lambda each: getattr(each, "name", str(each)))
def test_a_layer_of_keras_3_is_rebuilt(tmp_path: Path, layer: Any, shape: tuple[int, ...]) -> None:
    model = randomised(keras.Sequential([keras.Input(shape), layer]))
    fed = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
    path = save(tmp_path, generator=model, discriminator=keras.Sequential([keras.Input((2,)), layers.Dense(1)]))
    (tmp_path / "generator.json").write_text(model.to_json())
    network = load_checkpoint(path)
    [made] = network.call({network.structure.inputs[0].name: fed}).values()
    np.testing.assert_allclose(np.asarray(made), np.asarray(model(fed, training=False)), rtol=1e-6, atol=1e-6)


def functional(seed: int) -> Any:
    """A model of Keras 3 with one inside."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5), layers.BatchNormalization()])
    outer = keras.Input((4,))
    return randomised(keras.Model(outer, layers.Dense(2)(inner(layers.Dense(4)(inner(outer))))), seed)


@pytest.mark.parametrize("meant", ["generator", "ema"])
def test_of_two_that_fit_the_one_that_the_architecture_is_named_after(tmp_path: Path, meant: str) -> None:
    models = {"generator": functional(0), "ema": functional(1)}
    optimizer = keras.optimizers.Adam()
    optimizer.build(models["generator"].trainable_variables)
    path = save(tmp_path, optimizer=optimizer, **models)
    (tmp_path / f"{path.stem}.json").write_text(models[meant].to_json())
    with pytest.raises(
        GeneratorError, match=r"holds several models of this architecture \(ema, generator\): rename ckpt"
    ):
        load_checkpoint(path)
    (tmp_path / f"{path.stem}.json").rename(tmp_path / f"{meant}.json")
    fed = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    network = load_checkpoint(path)
    [made] = network.call({network.structure.inputs[0].name: fed}).values()
    np.testing.assert_allclose(np.asarray(made), np.asarray(models[meant](fed)), rtol=1e-6, atol=1e-6)


def test_an_architecture_that_does_not_fit(tmp_path: Path) -> None:
    told = json.loads(weights_of_image(tmp_path).read_text())
    for layer in told["config"]["layers"]:
        if layer["class_name"] == "PReLU":
            layer["config"]["shared_axes"] = [1]
    (tmp_path / "image.json").write_text(json.dumps(told))
    with pytest.raises(GeneratorError, match=r"does not fit the architecture in image.json: the model: layer 'p_re_lu"):
        load_checkpoint(tmp_path / "image.index")
    shutil.copy(KERAS_2 / "nested.json", tmp_path / "image.json")
    with pytest.raises(GeneratorError, match=r"does not fit .* the model: it has 11 layers, not 8"):
        load_checkpoint(tmp_path / "image.index")


def test_a_checkpoint_without_layers(tmp_path: Path) -> None:
    path = save(tmp_path, step=tf.Variable(1))
    shutil.copy(KERAS_2 / "image.json", path.with_suffix(".json"))
    with pytest.raises(GeneratorError, match=r"contains no Keras model; where it was made, .*model.export"):
        load_checkpoint(path)


def test_a_checkpoint_of_tensorflow_1(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("dense/kernel", initializer=np.zeros((2, 3), np.float32))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "old"))
    shutil.copy(KERAS_2 / "image.json", tmp_path / "old.json")
    with pytest.raises(GeneratorError, match=r"of TensorFlow 1 does not .*; where it was made, .*model.export"):
        load_checkpoint(tmp_path / "old.index")


def test_values_that_are_missing(tmp_path: Path) -> None:
    weights_of_image(tmp_path)
    (tmp_path / "image.data-00000-of-00001").unlink()
    with pytest.raises(GeneratorError, match=r"the values image.data-\.\.\. are missing beside it"):
        find_generator(str(tmp_path))


@pytest.mark.parametrize("file", ["image.index", "image.data-00000-of-00001"])
@pytest.mark.parametrize("size", [0, 20, 1000])
def test_a_file_that_was_cut_off(tmp_path: Path, file: str, size: int) -> None:
    weights_of_image(tmp_path)
    (tmp_path / file).write_bytes((CHECKPOINTS / file).read_bytes()[:size])
    with pytest.raises(GeneratorError, match="is no whole checkpoint") as caught:
        load_checkpoint(tmp_path / "image.index")
    assert "\n" not in str(caught.value)
