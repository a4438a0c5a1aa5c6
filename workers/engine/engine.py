"""An engine: a forward pass that is compiled for one batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.common.version import VERSION
from pipeline.datasets.receipts import EngineRecord
from pipeline.formats.image import encoder_versions
from pipeline.generators import Generator
from pipeline.generators.interface import Constant
from pipeline.spec.sampler import Sampler
from workers.engine.devices import Device
from workers.engine.generators import Forward

if TYPE_CHECKING:
    import tensorflow as tf

ENGINES = ("xla", "tf")


class Engine:
    """A forward pass compiled for batches of one size, with one precision (see `pipeline.spec.job_spec.PRECISIONS`).

    Of a denoiser it is all passes of a sampler, the generator's usual one unless another is named.
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
    ) -> None:
        import keras
        import tensorflow as tf

        self.engine, self.batch, self.precision = engine, batch, precision
        self.settings, self.sampler = settings, sampler or generator.sampler
        #: Batches to compute at the same time. On a CPU, while one waits for its last thread, the other continues; a
        #: GPU queues them itself.
        self.at_once = 2 if device.kind == "cpu" else 1
        self._allow_tf32 = tf.config.experimental.enable_tensor_float_32_execution
        self._row_dim = generator.interface.row_dim
        self._conditional = generator.interface.classes is not None
        self._sample_shape = generator.interface.sample_shape
        signature = [tf.TensorSpec((batch, self._row_dim), tf.float32)]
        if self._conditional:
            signature.append(tf.TensorSpec((batch,), tf.int32))

        def compiled(rows: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return tf.cast(forward(rows, labels, settings, self.sampler, disturbance), tf.float32)

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
            },
        )
        self._warm_up()

    def predict(self, rows: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Prediction:
        """Samples of up to `batch` rows of latent, noise, attributes and key, (n, row_dim); fewer rows are padded.

        May be called by several threads. On a GPU it returns before the samples are ready; `Prediction.samples` waits.
        """
        count = len(rows)
        if count < self.batch:
            rows = _padded(rows, self.batch)
            labels = None if labels is None else _padded(labels, self.batch)
        arguments = (rows, labels) if self._conditional else (rows,)
        # The switch belongs to the whole process, whose jobs may have different precisions.
        self._allow_tf32(self.precision == "tf32")
        return Prediction(self._function(*arguments), count)

    def _warm_up(self) -> None:
        """Compiles, and checks that samples have the shape of the interface. Raises GeneratorError."""
        rows = np.zeros((self.batch, self._row_dim), np.float32)
        labels = np.zeros(self.batch, np.int32) if self._conditional else None
        try:
            shape = self.predict(rows, labels).samples().shape[1:]
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise GeneratorError(
                f"the generator fails on a batch of {self.batch} with {self.engine}: {reason}"
            ) from error
        if shape != self._sample_shape:
            raise GeneratorError(
                f"the generator makes samples of {shape}, but its interface declares {self._sample_shape}"
            )


@dataclass(frozen=True)
class Prediction:
    """Samples of one batch, perhaps still on the device."""

    tensor: Any
    count: int

    def samples(self) -> NDArray[np.float32]:
        """The samples on the host, float32 of shape (count, *sample_shape), without the padding."""
        host: NDArray[np.float32] = self.tensor.numpy()[: self.count]
        return host


def _padded(rows: NDArray[Any], count: int) -> NDArray[Any]:
    padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
