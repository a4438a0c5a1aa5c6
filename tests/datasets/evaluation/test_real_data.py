"""Real data is read from every form it comes in; what does not fit is told in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import UsageError
from pipeline.datasets.evaluation.real_data import RealData, load_real
from tests.cli.running import Run
from tests.datasets.evaluation.conftest import CLASSES, dataset_of, pictures, write_npz
from tests.making import make_dataset, make_spec

IMAGES, LABELS = pictures(60, seed=1)
SPEC = make_spec()


def write_folders(folder: Path, names: tuple[str, ...] = CLASSES, rows: range = range(60)) -> Path:
    for row in rows:
        place = folder / names[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row, :, :, 0]).save(place / f"{row:03d}.png")
    (folder / "notes.txt").write_text("mine")
    return folder


def write_idx(folder: Path, *, zipped: bool = True) -> Path:
    folder.mkdir()
    for split, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        for name, values in (("images-idx3", IMAGES[rows, :, :, 0]), ("labels-idx1", LABELS[rows].astype(np.uint8))):
            data = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
            path = folder / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


def test_folders_of_classes(tmp_path: Path) -> None:
    data = load_real(write_folders(tmp_path / "real"), SPEC)
    assert (len(data.training.labels), len(data.test.labels)) == (50, 10)
    both = np.concatenate([data.training.images, data.test.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, IMAGES))
    of_label = {bytes(image): label for image, label in zip(IMAGES, LABELS, strict=True)}
    assert all(of_label[bytes(image)] == label for image, label in zip(*data.training, strict=True))
    assert load_real(tmp_path / "real", SPEC).training_sha256 == data.training_sha256


def test_folders_that_are_divided(tmp_path: Path) -> None:
    write_folders(tmp_path / "real/train", ("0", "1", "2", "3"), range(48))
    write_folders(tmp_path / "real/test", ("0", "1", "2", "3"), range(48, 60))
    data = load_real(tmp_path / "real", SPEC)
    assert (len(data.training.labels), len(data.test.labels)) == (48, 12)
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    data = load_real(write_idx(tmp_path / "real", zipped=zipped), SPEC)
    assert np.array_equal(data.training.images, IMAGES[:40])
    assert np.array_equal(data.test.labels, LABELS[40:])


def test_one_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", IMAGES[:, :, :, 0], LABELS.astype(np.int64))
    data = load_real(tmp_path / "real.npz", SPEC)
    assert (len(data.training.labels), len(data.test.labels)) == (50, 10)
    assert data.training.images.shape == (50, 4, 4, 1)


def test_a_limit_takes_some_of_the_training_images(tmp_path: Path) -> None:
    data = load_real(write_npz(tmp_path / "real.npz"), SPEC)
    less = data.limited(100)
    assert (len(less.training.labels), len(less.test.labels)) == (100, 100)
    assert min(np.bincount(less.training.labels)) > 10
    assert data.limited(500) is data
    assert less.training_sha256 == data.limited(100).training_sha256 != data.training_sha256
    assert isinstance(less, RealData)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def text(path: Path) -> Path:
    path.write_text("x")
    return path


def folders_with(folder: Path, change: Callable[[Path], object]) -> Path:
    write_folders(folder)
    change(folder)
    return folder


def cut_idx(folder: Path) -> Path:
    path = write_idx(folder, zipped=False) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    return folder


def shape_of(folder: Path, size: tuple[int, int]) -> Path:
    return folders_with(folder, lambda f: Image.new("L", size).save(f / "star/999.png"))


def without(folder: Path, name: str) -> Path:
    (write_idx(folder) / name).unlink()
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def moved(folder: Path) -> Path:
    return folders_with(folder, lambda f: (f / "star").rename(f / "moon"))


def no_image(folder: Path) -> Path:
    return folders_with(folder, lambda f: (f / "star/999.png").write_text("x"))


ZEROS = np.zeros((8, 4, 4, 1), np.uint8)
WIDE = np.zeros((60, 5, 5, 1), np.uint8)
ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "other arrays": ({"x": ZEROS}, "it holds x, not arr_0"),
    "no labels": ({"arr_0": ZEROS}, "it holds arr_0, not"),
    "few labels": ({"arr_0": ZEROS, "arr_1": np.zeros(3, int)}, "not a label per image"),
    "labels are text": ({"arr_0": ZEROS, "arr_1": np.array(["a"] * 8)}, "not a label per image"),
    "negative": ({"arr_0": ZEROS, "arr_1": np.arange(8) - 1}, "labels count from 0"),
    "floats": ({"arr_0": ZEROS / 2, "arr_1": np.arange(8)}, "not uint8 images"),
    "another shape": ({"arr_0": WIDE, "arr_1": LABELS}, "has images of .5, 5, 1."),
    "too many classes": ({"arr_0": IMAGES, "arr_1": LABELS + 1}, "has a label 4, the dataset 4"),
    "a class missing": ({"arr_0": IMAGES, "arr_1": LABELS % 3}, "no training image of class 'cross'"),
}
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda p: p, "there is no such file or folder"),
    "no npz": (text, "cannot be read as .npz"),
    "empty folder": (empty, "holds no folders of images"),
    "another class": (moved, "folder 'moon' is not a class of the dataset"),
    "another size": (lambda p: shape_of(p, (7, 4)), "is 7x4, the samples 4x4: scale"),
    "no image": (no_image, "999.png' cannot be read"),
    "idx missing": (lambda p: without(p, "t10k-labels-idx1-ubyte.gz"), r"t10k-labels-idx1-ubyte\[.gz\] is missing"),
    "idx cut": (cut_idx, "train-images-idx3-ubyte cannot be read"),
}


@pytest.mark.parametrize("kind", [*ARRAYS, *FILES])
def test_what_does_not_fit(kind: str, tmp_path: Path) -> None:
    if kind in ARRAYS:
        arrays, says = ARRAYS[kind]
        place = npz(tmp_path / "real.npz", **arrays)
    else:
        make, says = FILES[kind]
        place = make(tmp_path / "real")
    with pytest.raises(UsageError, match=says) as caught:
        load_real(place, SPEC)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_what_the_command_refuses(tmp_path: Path, run: Run) -> None:
    """Before TensorFlow is started, so within a second."""
    real = write_npz(tmp_path / "real.npz")
    small = dataset_of(tmp_path / "small", IMAGES)
    plain = make_dataset(tmp_path / "plain", make_spec(classes=None, labels=None))
    numbers = make_dataset(tmp_path / "numbers", make_spec(sample_shape=(16,)))
    unscaled = make_dataset(tmp_path / "unscaled", make_spec(value_range=None))
    for words, code, says in (
        ([tmp_path / "none", "--real", real], 1, "holds no dataset"),
        ([small], 2, "give real images to compare with: --real DIR"),
        ([small, "--real", real], 2, "60 samples are too few: at least 100"),
        ([unscaled, "--real", tmp_path / "none"], 2, "declares no range"),
        ([make_dataset(tmp_path / "d", make_spec()), "--real", tmp_path / "none"], 2, "there is no such file"),
        ([tmp_path / "d", "--real", real, "--limit", "50"], 2, "50 samples are too few"),
        ([plain, "--real", real], 2, "has no classes"),
        ([numbers, "--real", real], 2, "holds no images"),
        ([tmp_path / "d", "--real", real, "--limit", "many"], 2, "many"),
    ):
        done = run("evaluate", *words)
        assert done.code == code, done.err
        assert says in done.err
        assert 1 <= len(done.err.splitlines()) <= 2
        assert "Traceback" not in done.err
