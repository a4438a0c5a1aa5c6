"""The recipe of `fashion-flow` end to end, tiny; and its sampling on a flow that is known."""

from pathlib import Path

import numpy as np
import pytest

from training.data import DEFAULT_DATA, LabelledImages, load_training

if not DEFAULT_DATA.is_dir():
    pytest.skip("Debian's package dataset-fashion-mnist is not installed", allow_module_level=True)

# TensorFlow takes seconds to import: only once it is known that the tests can run.
import keras
import tensorflow as tf

from training.flow import evaluate, export, grids
from training.flow.network import NO_CLASS, build_network
from training.flow.sampling import sample
from training.flow.trainer import Recipe, Trainer
from training.loop import train

# Keras' own: NumPy 2 warns about TensorFlow's variables while a model is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RECIPE = Recipe(batch=16, round_steps=2, warm_up=1)


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    images, labels = load_training()
    return LabelledImages(images[:300], labels[:300])


@pytest.fixture(scope="module")
def run(few: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Trainer(RECIPE, few, seed=1), folder, budget_s=3600, most_steps=4)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "model.keras"
    export.main([str(run), str(path)])
    return path


def test_exported_network_has_the_promised_shapes(exported: Path) -> None:
    network = keras.saving.load_model(exported, safe_mode=True)
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in network.inputs} == {
        "image": ((None, 28, 28, 1), "float32"),
        "time": ((None, 1), "float32"),
        "label": ((None,), "int32"),
    }
    assert not hasattr(network, "optimizer")
    denoised = network([np.zeros((3, 28, 28, 1)), np.zeros((3, 1)), np.array([0, 9, NO_CLASS])]).numpy()
    assert denoised.shape == (3, 28, 28, 1)
    assert denoised.dtype == np.float32
    assert np.abs(denoised).max() <= 1


def test_trained_network_hears_time_and_label(exported: Path) -> None:
    network = keras.saving.load_model(exported, safe_mode=True)
    image = np.ones((1, 28, 28, 1), np.float32)

    def denoised(time: float, label: int) -> np.ndarray:
        return network([image, np.full((1, 1), time), np.array([label])]).numpy()

    assert not np.array_equal(denoised(0.2, 3), denoised(0.8, 3))
    assert not np.array_equal(denoised(0.2, 3), denoised(0.2, NO_CLASS))


def test_loss_falls(few: LabelledImages) -> None:
    trainer = Trainer(Recipe(batch=16, round_steps=10, warm_up=1), few, seed=1)
    first = float(trainer.round()["loss"])
    for _ in range(3):
        last = float(trainer.round()["loss"])
    assert last < 0.7 * first


def test_a_run_goes_on_where_it_stopped(run: Path, few: LabelledImages) -> None:
    trainer = Trainer(RECIPE, few, seed=1)
    trainer.checkpoint().restore(tf.train.latest_checkpoint(run)).assert_consumed()
    assert int(trainer.step) == 4
    train(trainer, run, budget_s=3600, most_steps=6)
    assert int(trainer.step) == 6
    assert (run / "samples-000006.png").is_file()


def test_learning_rate_rises_and_falls_to_zero(few: LabelledImages) -> None:
    trainer = Trainer(Recipe(warm_up=10), few, seed=1)
    trainer.set_progress(0.0)
    assert float(trainer.rate) == pytest.approx(trainer.recipe.rate / 10)
    trainer.step.assign(100)
    rates = []
    for progress in (trainer.recipe.decay_from, 0.7, 1.0):
        trainer.set_progress(progress)
        rates.append(float(trainer.rate))
    assert rates[0] == pytest.approx(trainer.recipe.rate)
    assert rates[0] > rates[1] > rates[2] == 0


class _Grey(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Expects a grey of 0.08 times the label, whatever the noise."""

    def call(self, image: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        return 0.08 * tf.cast(label, tf.float32)[:, None, None, None] * tf.ones_like(image)


@pytest.fixture
def grey() -> keras.Model:
    like = build_network()
    image, _, label = like.inputs
    return keras.Model(like.inputs, _Grey()(image, label))


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize(("guidance", "level"), [(1.0, 0.08 * 3), (0.5, 0.08 * 6.5)])
def test_sampling_ends_in_what_the_network_expects(
    grey: keras.Model, second_order: bool, guidance: float, level: float
) -> None:
    labels = np.full(5, 3, np.int32)
    images = sample(grey, labels, seed=0, steps=4, guidance=guidance, second_order=second_order, batch=2)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.full((5, 28, 28, 1), round((level + 1) * 127.5)))


def test_samples_depend_on_seed_and_label(exported: Path) -> None:
    network = keras.saving.load_model(exported, safe_mode=True)
    labels = np.array([1, 2], np.int32)
    images = sample(network, labels, seed=0, steps=2, guidance=2.0)
    np.testing.assert_array_equal(images, sample(network, labels, seed=0, steps=2, guidance=2.0))
    assert not np.array_equal(images, sample(network, labels, seed=1, steps=2, guidance=2.0))


def test_bfloat16_is_close(exported: Path) -> None:
    whole, half = evaluate.load_network(exported, bfloat16=False), evaluate.load_network(exported, bfloat16=True)
    keras.mixed_precision.set_global_policy("float32")
    assert half.get_layer("up_14_conv_1").compute_dtype == "bfloat16"
    inputs = [np.full((2, 28, 28, 1), 0.5), np.full((2, 1), 0.5), np.array([1, NO_CLASS])]
    np.testing.assert_allclose(half(inputs), whole(inputs), atol=0.02)


def test_contact_sheet(exported: Path, tmp_path: Path) -> None:
    grids.main([str(exported), str(tmp_path / "samples.png"), "--steps", "1", "--guidance", "1"])
    assert (tmp_path / "samples.png").stat().st_size > 1000
