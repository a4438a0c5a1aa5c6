"""Reads real images with labels: folders of classes, the four idx files of the MNIST family, or .npz.

DIR/<class>/*.png ...                          part of them is held out for testing
DIR/train/<class>/..., DIR/test/<class>/...    already divided
DIR/train-images-idx3-ubyte[.gz] and so on     already divided
FILE.npz with arr_0 (images), arr_1 (labels)   part of them is held out for testing
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.common.errors import UsageError, shown
from pipeline.common.files import open_regular, read_regular
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import ASCII_FOLDERS, IMAGES, UNICODE_FOLDERS, class_folder, class_folders

#: Where Debian's package dataset-fashion-mnist puts its four idx files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_IDX_UINT8 = 0x08
_IDX_NAMES = {"train": "train", "test": "t10k"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: One in this number of images is held out for testing, if they are not divided already.
_HOLD_OUT = 6
_READERS = 8


class Labelled(NamedTuple):
    """`images`: uint8 (n, height, width, channels); `labels`: int32 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def only(self, rows: NDArray[np.int64]) -> Labelled:
        """The selected rows."""
        return Labelled(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class RealData:
    """Images for training and for testing classifiers."""

    training: Labelled
    test: Labelled
    #: Position of each training image among all real images, int64 (n,); None if it is that among training images.
    training_rows: NDArray[np.int64] | None = None

    def limited(self, most: int) -> RealData:
        """With at most `most` images for training, drawn at random, the same at each call."""
        if len(self.training.labels) <= most:
            return self
        chosen = np.random.default_rng(0).permutation(len(self.training.labels))[:most]
        return RealData(self.training.only(np.sort(chosen)), self.test)

    def position(self, row: int) -> int:
        """Position of a training image in the order of the files."""
        return row if self.training_rows is None else int(self.training_rows[row])

    @property
    def training_sha256(self) -> str:
        """Hash of the training images."""
        digest = hashlib.sha256(str(self.training.images.shape).encode())
        digest.update(np.ascontiguousarray(self.training.images).data)
        digest.update(np.ascontiguousarray(self.training.labels).data)
        return digest.hexdigest()


def load_real(place: Path, spec: JobSpec) -> RealData:
    """The real data at a path, for samples of this spec. Raises UsageError if it does not match."""
    assert spec.classes is not None
    if not os.path.exists(place):
        raise UsageError(f"real data {str(place)!r}: there is no such file or folder")
    if place.is_file():
        data = _hold_out(_read_npz(place))
    elif any(place.glob("*-idx3-ubyte*")):
        data = RealData(read_idx_pair(place, "train"), read_idx_pair(place, "test"))
    elif (place / "train").is_dir() and (place / "test").is_dir():
        data = RealData(_read_folders(place / "train", spec), _read_folders(place / "test", spec))
    else:
        data = _hold_out(_read_folders(place, spec))
    _check(data, place, spec)
    return data


def read_idx_pair(folder: Path, split: str) -> Labelled:
    """Images and labels of "train" or "test" from idx files, gzipped or not. Raises UsageError."""
    name = _IDX_NAMES[split]
    images, labels = _read_idx(folder, f"{name}-images-idx3-ubyte"), _read_idx(folder, f"{name}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UsageError(f"real data {str(folder)!r}: {name} has images {images.shape} and labels {labels.shape}")
    return Labelled(images[..., np.newaxis], labels.astype(np.int32))


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """One idx file: two zero bytes, a type code, the number of axes, their sizes, the values."""
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(read_regular(path)) if path.exists() else read_regular(folder / name)
        if content[:2] != b"\0\0" or content[2] != _IDX_UINT8:
            raise ValueError("it is not an idx file of unsigned bytes")
        axes = content[3]
        shape = np.frombuffer(content, ">u4", count=axes, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except FileNotFoundError:
        raise UsageError(f"real data {str(folder)!r}: {name}[.gz] is missing") from None
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UsageError(f"real data {str(folder)!r}: {name} cannot be read: {error}") from None


def _read_npz(path: Path) -> Labelled:
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            if not {"arr_0", "arr_1"} <= set(arrays):
                raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}, not arr_0 (images) and arr_1 (labels)")
            images, labels = arrays["arr_0"], arrays["arr_1"]
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"real data {str(path)!r} cannot be read as .npz: {error}") from None
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(f"real data {str(path)!r}: arr_0 is {images.dtype} {images.shape}, not uint8 images")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"real data {str(path)!r}: arr_1 is {labels.dtype} {labels.shape}, not a label per image")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= 2**31):
        raise UsageError(f"real data {str(path)!r}: arr_1 holds {labels.min()}, labels count from 0")
    return Labelled(images, labels.astype(np.int32))


def _folder_names(name: str) -> tuple[str, ...]:
    return f"{IMAGES}/{name}", *class_folders((name,), UNICODE_FOLDERS), class_folder(name)


def _read_folders(folder: Path, spec: JobSpec) -> Labelled:
    """Images of folders named by the classes' names or numbers."""
    classes = spec.classes or ()
    known: dict[str, int] = {}
    for style in (ASCII_FOLDERS, UNICODE_FOLDERS):  # As in any dataset of noisemill.
        known |= {folder: label for label, folder in enumerate(class_folders(classes, style))}
    known |= {class_folder(str(label)): label for label in range(len(classes))}
    paths: list[Path] = []
    labels: list[int] = []
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(path for path in each.iterdir() if path.suffix.lower() in _SUFFIXES)
        found = next((folder for folder in _folder_names(each.name) if folder in known), None)
        if images and found is None:
            raise UsageError(
                f"real data {str(folder)!r}: folder {each.name!r} is not a class of the dataset: "
                f"they are {shown(', '.join(classes))}"
            )
        paths += images
        labels += [known[found] if found else 0] * len(images)
    if not paths:
        raise UsageError(f"real data {str(folder)!r} holds no folders of images, no idx files: a folder per class")
    with ThreadPoolExecutor(_READERS) as readers:
        images_read = list(readers.map(lambda path: _read_image(path, spec.sample_shape), paths))
    return Labelled(np.stack(images_read), np.array(labels, np.int32))


def _read_image(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        with open_regular(path) as file, Image.open(file) as image:
            pixels = np.asarray(image.convert(_MODES[shape[2]]))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"real image {str(path)!r} cannot be read: {error}") from None
    if pixels.shape[:2] != shape[:2]:
        raise UsageError(
            f"real image {str(path)!r} is {pixels.shape[1]}x{pixels.shape[0]}, the samples {shape[1]}x{shape[0]}: "
            "scale the real images to that"
        )
    return pixels.reshape(shape)


def _hold_out(data: Labelled) -> RealData:
    rows = np.random.default_rng(0).permutation(len(data.labels))
    held = len(rows) // _HOLD_OUT
    training = np.sort(rows[held:])
    return RealData(data.only(training), data.only(np.sort(rows[:held])), training)


def _check(data: RealData, place: Path, spec: JobSpec) -> None:
    names: tuple[Any, ...] = spec.classes or ()
    for purpose, part in (("training", data.training), ("test", data.test)):
        if part.images.shape[1:] != spec.sample_shape:
            raise UsageError(
                f"real data {str(place)!r} has images of {part.images.shape[1:]}, the samples are {spec.sample_shape}"
            )
        if len(part.labels) and int(part.labels.max()) >= len(names):
            raise UsageError(
                f"real data {str(place)!r} has a label {part.labels.max()}, the dataset {len(names)} classes"
            )
        missing = set(range(len(names))) - set(np.unique(part.labels).tolist())
        if missing:
            raise UsageError(
                f"real data {str(place)!r} has no {purpose} image of class {names[min(missing)]!r}"
                + (f" (nor of {len(missing) - 1} more)" if len(missing) > 1 else "")
            )
