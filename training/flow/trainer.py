"""The network, its optimizer and the training step."""

from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from training.averaging import WeightAverage
from training.data import LabelledImages
from training.flow.network import NO_CLASS, build_network
from training.flow.sampling import sample
from training.grids import write_contact_sheet
from training.loop import cosine_decay

#: Share of the path below which errors are not weighted higher.
_LEAST_LEFT = 0.05


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice that the shipped weights depend on, apart from the network."""

    #: Images per step.
    batch: int = 64
    #: Adam's learning rate at its height, and the number of steps in which it gets there.
    rate: float = 1e-3
    warm_up: int = 300
    #: Share of the run after which the learning rate falls to zero along a cosine.
    decay_from: float = 0.3
    #: Share of the images whose label is withheld.
    label_dropout: float = 0.12
    #: Decay per step of the average of the weights.
    average_decay: float = 0.999
    #: Steps between two looks at the clock.
    round_steps: int = 20


class Trainer:
    """The state of a run: restore it from a checkpoint, step it, save it."""

    def __init__(self, recipe: Recipe, data: LabelledImages, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.recipe, self.seed = recipe, seed
        self.network = build_network()
        self.average = build_network()
        self._averager = WeightAverage(self.network, self.average, recipe.average_decay)
        self._adam = keras.optimizers.Adam(recipe.rate, beta_2=0.99, global_clipnorm=1.0)
        self._adam.build(self.network.trainable_variables)
        self._images, self._labels = tf.constant(data.images), tf.constant(data.labels)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.elapsed_s = tf.Variable(0.0, dtype=tf.float64)

    def checkpoint(self) -> tf.train.Checkpoint:
        """All that a run needs to go on as if it had never stopped."""
        return tf.train.Checkpoint(
            network=self.network, average=self.average, adam=self._adam, step=self.step, elapsed_s=self.elapsed_s
        )

    @property
    def batch(self) -> int:
        """Images per step."""
        return self.recipe.batch

    @property
    def rate(self) -> tf.Tensor:
        """The learning rate now."""
        return self._adam.learning_rate

    def set_progress(self, progress: float) -> None:
        """Set the learning rate for a run of which the share `progress`, 0 to 1, is over."""
        factor = cosine_decay(progress, self.recipe.decay_from)
        self._adam.learning_rate = self.recipe.rate * factor * min(1.0, (int(self.step) + 1) / self.recipe.warm_up)

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def round(self) -> dict[str, tf.Tensor]:
        """Take `round_steps` steps; return their mean loss."""
        total = tf.constant(0.0)
        for _ in tf.range(self.recipe.round_steps):
            total += self._step()
        return {"loss": total / self.recipe.round_steps}

    def write_sheet(self, path: Path) -> None:
        """Draw samples of the averaged network."""
        write_contact_sheet(lambda labels: sample(self.average, labels, seed=0, steps=10, guidance=2.0), path)

    def _step(self) -> tf.Tensor:
        images, labels, noise, times = self._draw()
        # The straight path of flow matching (Lipman et al., 2022, with no noise left at time 1).
        at_time = tf.reshape(times, (-1, 1, 1, 1))
        mixed = (1.0 - at_time) * noise + at_time * images
        with tf.GradientTape() as tape:
            denoised = self.network([mixed, times, labels], training=True)
            # As errors of the velocity, (denoised - mixed) / (1 - time), but for the very end of the path.
            loss = tf.reduce_mean(tf.square((denoised - images) / tf.maximum(1.0 - at_time, _LEAST_LEFT)))
        weights = self.network.trainable_variables
        self._adam.apply(tape.gradient(loss, weights), weights)
        self._averager.update(self.step.assign_add(1))
        return loss

    def _draw(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Images in [-1, 1], labels, noise and times: a function of seed and step alone.

        Times (n, 1) are logit-normal: the middle of the path is the hardest (Esser et al., 2024).
        """
        key = tf.stack([tf.constant(self.seed, tf.int64), self.step])
        image_key, label_key, noise_key, time_key = tf.unstack(tf.random.split(key, 4))
        size = (self.recipe.batch,)
        chosen = tf.random.stateless_uniform(size, image_key, 0, len(self._images), tf.int32)
        images = tf.cast(tf.gather(self._images, chosen), tf.float32) / 127.5 - 1.0
        withheld = tf.random.stateless_uniform(size, label_key) < self.recipe.label_dropout
        labels = tf.where(withheld, NO_CLASS, tf.gather(self._labels, chosen))
        noise = tf.random.stateless_normal(images.shape, noise_key)
        times = tf.sigmoid(tf.random.stateless_normal((self.recipe.batch, 1), time_key))
        return images, labels, noise, times
