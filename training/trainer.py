"""Both networks, their optimisers and the training step."""

from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from training import losses, networks
from training.averaging import WeightAverage, measure_batch_norms
from training.data import LabelledImages
from training.grids import sample, write_contact_sheet
from training.loop import cosine_decay


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice that the shipped weights depend on, apart from the networks."""

    #: Images per step, real and fake alike.
    batch: int = 64
    #: Adam's learning rates at the start.
    generator_rate: float = 5e-4
    discriminator_rate: float = 5e-4
    #: Adam's memory of the gradient and of its square.
    beta_1: float = 0.5
    beta_2: float = 0.99
    #: Share of the run after which the learning rates and the class weight fall to zero along a cosine.
    decay_from: float = 0.4
    #: Weight of the gradient penalties R1 and R2, and every how many steps they are taken.
    penalty: float = 0.3
    penalty_interval: int = 8
    #: How much the generator listens, at first, to the classifier that the discriminator learns from real images.
    class_weight: float = 0.2
    #: Label smoothing of that classifier.
    smoothing: float = 0.1
    #: Decay per step of the average of the generator's weights.
    average_decay: float = 0.999


class Trainer:
    """The state of a run: restore it from a checkpoint, step it, save it."""

    def __init__(self, recipe: Recipe, data: LabelledImages, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.recipe, self.seed = recipe, seed
        self.generator = networks.build_generator()
        self.average = networks.build_generator()
        self.discriminator = networks.build_discriminator()
        self._averager = WeightAverage(self.generator, self.average, recipe.average_decay)
        self._generator_adam = keras.optimizers.Adam(recipe.generator_rate, recipe.beta_1, recipe.beta_2)
        self._discriminator_adam = keras.optimizers.Adam(recipe.discriminator_rate, recipe.beta_1, recipe.beta_2)
        self._generator_adam.build(self.generator.trainable_variables)
        self._discriminator_adam.build(self.discriminator.trainable_variables)
        self._images, self._labels = tf.constant(data.images), tf.constant(data.labels)
        self._class_weight = tf.Variable(recipe.class_weight)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.elapsed_s = tf.Variable(0.0, dtype=tf.float64)

    def checkpoint(self) -> tf.train.Checkpoint:
        """All that a run needs to go on as if it had never stopped."""
        return tf.train.Checkpoint(
            generator=self.generator,
            average=self.average,
            discriminator=self.discriminator,
            generator_adam=self._generator_adam,
            discriminator_adam=self._discriminator_adam,
            step=self.step,
            elapsed_s=self.elapsed_s,
        )

    @property
    def batch(self) -> int:
        """Images per step."""
        return self.recipe.batch

    def write_sheet(self, path: Path) -> None:
        """Draw samples of the averaged generator."""
        measure_batch_norms(self.average, batches=2)
        write_contact_sheet(lambda labels: sample(self.average, labels, seed=0), path)

    @property
    def generator_rate(self) -> tf.Tensor:
        """The generator's learning rate now."""
        return self._generator_adam.learning_rate

    def set_progress(self, progress: float) -> None:
        """Set the learning rates and the class weight for a run of which the share `progress`, 0 to 1, is over."""
        factor = cosine_decay(progress, self.recipe.decay_from)
        self._generator_adam.learning_rate = self.recipe.generator_rate * factor
        self._discriminator_adam.learning_rate = self.recipe.discriminator_rate * factor
        # The classifier shows the way early on; listened to for ever, it would drive samples from all class borders.
        self._class_weight.assign(self.recipe.class_weight * factor)

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def round(self) -> dict[str, tf.Tensor]:
        """One step with gradient penalties, then others without; return the last one's losses."""
        penalty = self._step(penalised=True)["penalty"]
        report = {name: tf.constant(0.0) for name in ("discriminator", "generator", "class_real", "class_fake")}
        for _ in tf.range(self.recipe.penalty_interval - 1):
            report = self._step(penalised=False)
        return report | {"penalty": penalty}

    def _step(self, penalised: bool) -> dict[str, tf.Tensor]:
        reals, labels, latents = self._draw()
        with tf.GradientTape(persistent=True) as tape:
            # Both networks learn from the same fakes: the generator's forward pass is the dearest part of a step.
            fakes = self.generator([latents, labels], training=True)
            fake_scores, fake_logits = self.discriminator([fakes, labels], training=True)
            real_scores, real_logits = self.discriminator([reals, labels], training=True)
            report = {
                "discriminator": losses.discriminator_loss(real_scores, fake_scores),
                "generator": losses.generator_loss(real_scores, fake_scores),
                "class_real": losses.class_loss(labels, real_logits, self.recipe.smoothing),
                "class_fake": losses.class_loss(labels, fake_logits, self.recipe.smoothing),
            }
            discriminator_total = report["discriminator"] + report["class_real"]
            generator_total = report["generator"] + self._class_weight * report["class_fake"]
            if penalised:
                report["penalty"] = self._penalty(reals, tf.stop_gradient(fakes), labels)
                discriminator_total += self.recipe.penalty_interval * report["penalty"]
        discriminator_weights = self.discriminator.trainable_variables
        generator_weights = self.generator.trainable_variables
        discriminator_gradients = tape.gradient(discriminator_total, discriminator_weights)
        generator_gradients = tape.gradient(generator_total, generator_weights)
        self._discriminator_adam.apply(discriminator_gradients, discriminator_weights)
        self._generator_adam.apply(generator_gradients, generator_weights)
        self._averager.update(self.step.assign_add(1))
        return report

    def _penalty(self, reals: tf.Tensor, fakes: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        both = tf.concat([reals, fakes], 0), tf.concat([labels, labels], 0)
        return self.recipe.penalty * losses.gradient_penalty(self.discriminator, *both)

    def _draw(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Real images, float32 in [-1, 1], their labels and latents: a function of seed and step alone."""
        key = tf.stack([tf.constant(self.seed, tf.int64), self.step])
        chosen = tf.random.stateless_uniform((self.recipe.batch,), key, 0, len(self._images), tf.int32)
        reals = tf.cast(tf.gather(self._images, chosen), tf.float32) / 127.5 - 1.0
        latents = tf.random.stateless_normal((self.recipe.batch, networks.LATENT_DIM), key)
        return reals, tf.gather(self._labels, chosen), latents
