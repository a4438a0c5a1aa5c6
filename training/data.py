"""Fashion-MNIST, read from the idx files that Debian's package dataset-fashion-mnist installs."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError
from pipeline.datasets.evaluation.real_data import FASHION_MNIST as DEFAULT_DATA
from pipeline.datasets.evaluation.real_data import Labelled as LabelledImages
from pipeline.datasets.evaluation.real_data import read_idx_pair

__all__ = [
    "CLASS_NAMES",
    "DEFAULT_DATA",
    "DataMissingError",
    "LabelledImages",
    "load_test",
    "load_training",
    "to_uint8",
]

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class DataMissingError(FileNotFoundError):
    """The data set is not where it was looked for."""


def load_training(folder: Path = DEFAULT_DATA) -> LabelledImages:
    """The 60,000 images meant for training, 6,000 of each class."""
    return _load(folder, "train")


def load_test(folder: Path = DEFAULT_DATA) -> LabelledImages:
    """The 10,000 images meant for testing, 1,000 of each class. Training never reads them."""
    return _load(folder, "test")


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map [-1, 1] to 0..255, to the nearest level, as a data set on disk would hold it."""
    levels: NDArray[np.float32] = np.clip(np.rint((images + 1.0) * 127.5), 0, 255)
    return levels.astype(np.uint8)


def _load(folder: Path, split: str) -> LabelledImages:
    try:
        return read_idx_pair(folder, split)
    except UsageError as error:
        raise DataMissingError(f"{error}: install Debian's package dataset-fashion-mnist or pass --data DIR") from None
