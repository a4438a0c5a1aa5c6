"""A generator that costs nothing: it imitates a device that is much faster than all around it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.receipts import EngineRecord
from pipeline.generators import Generator, find_generator

#: Batches that it has ready, and hands out in turn.
_READY = 4


@dataclass(frozen=True)
class Ready:
    """Samples that exist already; a stand-in for `workers.engine.engine.Prediction`."""

    values: NDArray[np.float32]

    def samples(self) -> NDArray[np.float32]:
        """The samples, (n, height, width, channels)."""
        return self.values


@dataclass
class FreeEngine:
    """Stands in for `workers.engine.engine.Engine`."""

    images: NDArray[np.float32]
    batch: int
    engine: str = "tf"
    at_once: int = 1
    _next: int = field(default=0)

    @property
    def record(self) -> EngineRecord:
        """What its receipts say."""
        return EngineRecord(
            engine=self.engine, batch=self.batch, precision="float32", device="cpu", device_name="free", versions={}
        )

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Ready:
        """The next batch of those that are ready."""
        first = self._next % _READY * self.batch
        self._next += 1
        return Ready(self.images[first : first + len(latents)])


class FreeEngines:
    """Stands in for `workers.engine.calibration.CalibratedEngines`."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.images: dict[int, NDArray[np.float32]] = {}
        self._shape = shape
        self.generator = free_generator(shape)

    def engine(
        self, engine: str, batch: int, precision: str = "float32", settings: Any = (), sampler: Any = None
    ) -> Any:
        """A free engine."""
        if batch not in self.images:
            self.images[batch] = natural_images(_READY * batch, self._shape)
        return FreeEngine(self.images[batch], batch)

    def compare(self, engine: Any, rate: float) -> None:
        """Nothing was promised."""

    def is_reproducible(self) -> bool:
        """Its samples are always the same."""
        return True


def free_generator(shape: tuple[int, int, int]) -> Generator:
    """What a job is asked for with: the article's generator, as if its samples had this shape."""
    found = find_generator("article-28")
    return replace(found, interface=replace(found.interface, sample_shape=shape))


def natural_images(count: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Images in [-1, 1] that compress about as photographs do: blurred noise, and grain on it."""
    random = np.random.default_rng(0)
    height, width, channels = shape
    coarse = random.normal(128, 40, (count, max(1, height // 8), max(1, width // 8), 3)).clip(0, 255).astype(np.uint8)
    blurred = [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in coarse]
    grain = random.normal(0, 3, (count, height, width, 3))
    return ((np.stack(blurred) + grain)[:, :, :, :channels] / 127.5 - 1).clip(-1, 1).astype(np.float32)
