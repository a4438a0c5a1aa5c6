"""An engine: a forward pass that is compiled for one batch size, and perhaps the choice among candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.common.version import VERSION
from pipeline.datasets.receipts import EngineRecord
from pipeline.formats.image import encoder_versions
from pipeline.generators import Choice, Generator, Judge
from pipeline.generators.interface import Constant
from pipeline.spec.sampler import Sampler
from workers.engine.devices import Device
from workers.engine.generators import Forward, Rank
from workers.engine.generators.judge import scores_of

if TYPE_CHECKING:
    import tensorflow as tf

ENGINES = ("xla", "tf")


@dataclass(frozen=True)
class BestOf:
    """A choice among candidates, with its judge loaded."""

    choice: Choice
    rank: Rank


class Engine:
    """A forward pass compiled for batches of one size, with one precision (see `pipeline.spec.job_spec.PRECISIONS`).

    Of a denoiser it is all passes of a sampler, the generator's usual one unless another is named. With `best_of`, a
    pass makes all candidates of a batch, and the best of each sample leaves the device.
    """

    def __init__(
        self,
        forward: Forward,
        generator: Generator,
        device: Device,
        engine: str,
        batch: int,
        precision: str = "float32",
        settings: tuple[Constant, ...] = (),
        sampler: Sampler | None = None,
        disturbance: float = 0.0,
        best_of: BestOf | None = None,
    ) -> None:
        import keras
        import tensorflow as tf

        self.engine, self.batch, self.precision = engine, batch, precision
        self.settings, self.sampler = settings, sampler or generator.sampler
        self.best_of = best_of
        #: Rows of a full batch.
        self._rows = batch * (best_of.choice.best_of if best_of else 1)
        #: Batches to compute at the same time. On a CPU, while one waits for its last thread, the other continues; a
        #: GPU queues them itself.
        self.at_once = 2 if device.kind == "cpu" else 1
        self._allow_tf32 = tf.config.experimental.enable_tensor_float_32_execution
        self._row_dim = generator.interface.row_dim
        self._conditional = generator.interface.classes is not None
        self._sample_shape = generator.interface.sample_shape
        signature = [tf.TensorSpec((self._rows, self._row_dim), tf.float32)]
        if self._conditional:
            signature.append(tf.TensorSpec((batch,), tf.int32))

        def compiled(rows: tf.Tensor, labels: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
            if best_of is not None and labels is not None:
                labels = tf.repeat(labels, best_of.choice.best_of)
            samples = tf.cast(forward(rows, labels, settings, self.sampler, disturbance), tf.float32)
            return (samples,) if best_of is None else _chosen(samples, best_of.rank(samples, labels), best_of.choice)

        self._function = tf.function(
            compiled,
            input_signature=signature,
            jit_compile=engine == "xla",
            # Not needed, as nothing here branches on tensors; and it leaves files in the temporary folder.
            autograph=False,
        )
        self.record = EngineRecord(
            engine=engine,
            batch=batch,
            precision="float32" if precision == "tf32" and device.kind == "cpu" else precision,
            device=device.kind,
            device_name=device.model,
            versions={
                "noisemill": VERSION,
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
                **encoder_versions(),
                **{file.path.name: f"sha256:{file.sha256}" for file in generator.code},
                **{file.path.name: f"sha256:{file.sha256}" for file in (best_of.choice.judge.code if best_of else ())},
            },
        )
        self._warm_up()

    def predict(self, rows: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Prediction:
        """Samples of up to `batch` rows of latent, noise, attributes and key, (n, row_dim); fewer rows are padded.

        With candidates, n is that of all, those of a sample one after another; labels (samples,) are of samples. May be
        called by several threads. On a GPU it returns before the samples are ready; `Prediction.samples` waits.
        """
        count = len(rows) * self.batch // self._rows
        if count < self.batch:
            rows = _padded(rows, self._rows)
            labels = None if labels is None else _padded(labels, self.batch)
        arguments = (rows, labels) if self._conditional else (rows,)
        # The switch belongs to the whole process, whose jobs may have different precisions.
        self._allow_tf32(self.precision == "tf32")
        return Prediction(self._function(*arguments), count, self.best_of.choice.judge if self.best_of else None)

    def _warm_up(self) -> None:
        """Compiles, and checks that samples have the shape of the interface. Raises GeneratorError."""
        rows = np.zeros((self._rows, self._row_dim), np.float32)
        labels = np.zeros(self.batch, np.int32) if self._conditional else None
        try:
            shape = self.predict(rows, labels).samples().shape[1:]
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            beside = f" and the judge {self.best_of.choice.judge.name}" if self.best_of else ""
            raise GeneratorError(
                f"the generator fails on a batch of {self._rows} with {self.engine}{beside}: {reason}"
            ) from error
        if shape != self._sample_shape:
            raise GeneratorError(
                f"the generator makes samples of {shape}, but its interface declares {self._sample_shape}"
            )


def _chosen(candidates: tf.Tensor, ranks: tf.Tensor, choice: Choice) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The best of each sample's candidates, the numbers of the winners, and all ranks (samples, candidates).

    Of equal ranks, and of those that are enough, the lowest number wins. NaN never wins against a number.
    """
    import tensorflow as tf

    count = choice.best_of
    ranks = tf.reshape(ranks, (-1, count))
    comparable = tf.minimum(tf.where(tf.math.is_nan(ranks), -np.inf, ranks), np.float32(choice.enough_rank))
    best = comparable == tf.reduce_max(comparable, axis=1, keepdims=True)
    # Not argmax, which promises nothing for equal values.
    winners = tf.reduce_min(tf.where(best, tf.range(count), count), axis=1)
    return tf.gather(candidates, tf.range(tf.shape(ranks)[0]) * count + winners), winners, ranks


@dataclass(frozen=True)
class Prediction:
    """Samples of one batch, perhaps still on the device."""

    #: Samples (batch, *sample_shape) float32; with candidates also the winners (batch,) int32 and the ranks of all
    #: (batch, candidates) float32.
    tensors: tuple[Any, ...]
    count: int
    #: Of candidates.
    judge: Judge | None

    def samples(self) -> NDArray[np.float32]:
        """The samples on the host, float32 of shape (count, *sample_shape), without the padding."""
        host: NDArray[np.float32] = self.tensors[0].numpy()[: self.count]
        return host

    def winners(self) -> NDArray[np.int32]:
        """Of candidates: which won, int32 (count,)."""
        host: NDArray[np.int32] = self.tensors[1].numpy()[: self.count]
        return host

    def ranks(self) -> NDArray[np.float32]:
        """Of candidates: by what they were compared, float32 (count, candidates)."""
        host: NDArray[np.float32] = self.tensors[2].numpy()[: self.count]
        return host

    def scores(self) -> NDArray[np.float64]:
        """Of candidates: what the judge gives them, float64 (count, candidates)."""
        assert self.judge is not None
        return scores_of(self.ranks(), self.judge)


def _padded(rows: NDArray[Any], count: int) -> NDArray[Any]:
    padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
