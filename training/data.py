"""Fashion-MNIST, read from the idx files that Debian's package dataset-fashion-mnist installs."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_UINT8_IDX = 0x08


class DataMissingError(FileNotFoundError):
    """The data set is not where it was looked for."""


class LabelledImages(NamedTuple):
    """`images`: uint8 (n, 28, 28, 1), 0 is background; `labels`: int32 (n,), 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]


def load_training(folder: Path = DEFAULT_DATA) -> LabelledImages:
    """The 60,000 images meant for training, 6,000 of each class."""
    return _load(folder, "train")


def load_test(folder: Path = DEFAULT_DATA) -> LabelledImages:
    """The 10,000 images meant for testing, 1,000 of each class. Training never reads them."""
    return _load(folder, "t10k")


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map [-1, 1] to 0..255, to the nearest level, as a data set on disk would hold it."""
    levels: NDArray[np.float32] = np.clip(np.rint((images + 1.0) * 127.5), 0, 255)
    return levels.astype(np.uint8)


def _load(folder: Path, split: str) -> LabelledImages:
    images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz")[..., np.newaxis]
    labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int32)
    return LabelledImages(images, labels)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped idx file: two zero bytes, a type code, the number of axes, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataMissingError(
            f"{path} is missing: install Debian's package dataset-fashion-mnist or pass --data DIR"
        ) from None
    if content[:2] != b"\0\0" or content[2] != _UINT8_IDX:
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
