"""The recipe end to end, tiny: a few steps on a few hundred images, then export and load."""

from pathlib import Path

import numpy as np
import pytest

from training.data import DEFAULT_DATA

if not DEFAULT_DATA.is_dir():
    pytest.skip("Debian's package dataset-fashion-mnist is not installed", allow_module_level=True)

# TensorFlow takes seconds to import: only once it is known that the tests can run.
import keras
import tensorflow as tf

from training import averaging, data, export, networks
from training.loop import train
from training.trainer import Recipe, Trainer
from workers.once.evaluation import figures, neighbours

# Keras' own: NumPy 2 warns about TensorFlow's variables while a model is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RECIPE = Recipe(batch=20, penalty_interval=2)


@pytest.fixture(scope="module")
def few() -> data.LabelledImages:
    images, labels = data.load_training()
    return data.LabelledImages(images[:300], labels[:300])


@pytest.fixture(scope="module")
def run(few: data.LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Trainer(RECIPE, few, seed=1), folder, budget_s=3600, most_steps=4)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> keras.Model:
    path = tmp_path_factory.mktemp("out") / "model.keras"
    export.main([str(run), str(path), "--batches", "2"])
    return keras.saving.load_model(path, safe_mode=True)


def test_data_is_whole() -> None:
    images, labels = data.load_test()
    assert images.shape == (10_000, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [1000] * 10


def test_missing_data_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(data.DataMissingError, match="dataset-fashion-mnist"):
        data.load_training(tmp_path)


def test_exported_generator_has_the_promised_shapes(exported: keras.Model) -> None:
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in exported.inputs} == {
        "latent": ((None, 100), "float32"),
        "label": ((None,), "int32"),
    }
    assert exported.count_params() == 2_317_925
    assert not hasattr(exported, "optimizer")
    images = exported([np.zeros((3, 100), np.float32), np.arange(3, dtype=np.int32)]).numpy()
    assert images.shape == (3, 28, 28, 1)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1.0


def test_exported_generator_compiles_under_xla(exported: keras.Model) -> None:
    compiled = tf.function(lambda latent, label: exported([latent, label], training=False), jit_compile=True)
    latents, labels = tf.random.stateless_normal((5, 100), (0, 0)), tf.range(5)
    np.testing.assert_allclose(compiled(latents, labels), exported([latents, labels], training=False), atol=1e-5)


def test_batch_norms_are_measured_anew(exported: keras.Model) -> None:
    norm = exported.get_layer("conv_14_norm")
    inputs = keras.Model(exported.inputs, norm.input)
    latents = tf.random.stateless_normal((1000, 100), seed=(9, 9))
    activations = inputs([latents, tf.range(1000) % 10], training=False).numpy()
    variance = activations.var((0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, activations.mean((0, 1, 2)), atol=0.1 * np.sqrt(variance.max()))
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=0.2)


def test_a_run_goes_on_where_it_stopped(run: Path, few: data.LabelledImages) -> None:
    latest = tf.train.latest_checkpoint(run)
    trainer = Trainer(RECIPE, few, seed=1)
    trainer.checkpoint().restore(latest).assert_consumed()
    assert int(trainer.step) == 4
    assert float(trainer.elapsed_s) > 0
    loaded = trainer.discriminator.get_layer("class_logits").kernel.numpy()
    train(trainer, run, budget_s=3600, most_steps=6)
    assert int(trainer.step) == 6
    assert not np.array_equal(loaded, trainer.discriminator.get_layer("class_logits").kernel.numpy())
    assert (run / "samples-000006.png").is_file()


def test_learning_rates_fall_to_zero(few: data.LabelledImages) -> None:
    trainer = Trainer(RECIPE, few, seed=1)
    rates = []
    for progress in (0.0, RECIPE.decay_from, 0.7, 1.0):
        trainer.set_progress(progress)
        rates.append(float(trainer.generator_rate))
    assert rates[0] == rates[1] == pytest.approx(RECIPE.generator_rate)
    assert rates[1] > rates[2] > rates[3] == 0


def test_young_averages_follow_quickly() -> None:
    source, average = networks.build_generator(), networks.build_generator()
    averager = averaging.WeightAverage(source, average, decay=0.999)
    kernel, mean = source.get_layer("dense").kernel, average.get_layer("dense").kernel
    kernel.assign_add(tf.ones_like(kernel))
    before = float(tf.reduce_mean(mean))
    averager.update(tf.constant(0))
    assert float(tf.reduce_mean(mean)) - before == pytest.approx(0.9, abs=1e-3)


def test_frechet_distance_of_known_gaussians() -> None:
    features = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    assert figures.frechet_distance(features, features) == pytest.approx(0, abs=1e-4)
    assert figures.frechet_distance(features, features + 2) == pytest.approx(16, rel=1e-3)


def test_coverage_falls_with_what_samples_miss() -> None:
    generator = np.random.default_rng(0)
    real, samples = generator.standard_normal((2, 1000, 4)).astype(np.float32)
    assert neighbours.coverage(real, samples) > 0.9
    assert 0.4 < neighbours.coverage(real, np.abs(samples) * [1, 0, 0, 0] + samples * [0, 1, 1, 1]) < 0.65


def test_copies_are_not_novel(few: data.LabelledImages) -> None:
    known, unseen = few.images[:200], few.images[200:]
    assert neighbours.novelty(known, unseen, known[:50]) == 0
    assert neighbours.novelty(known, unseen, unseen) == 1
