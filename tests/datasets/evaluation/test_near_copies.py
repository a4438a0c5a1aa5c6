"""Copies of training images are found, and new images are not taken for copies. Without TensorFlow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.evaluation.pairs import draw_pairs
from pipeline.datasets.evaluation.real_data import Labelled, RealData, load_real
from tests.datasets.evaluation.conftest import pictures, write_npz
from tests.making import make_spec
from workers.once.evaluation import near_copies
from workers.once.evaluation.near_copies import find_near_copies, nearest_of

TRAINING = Labelled(*pictures(1000, seed=1))
TEST, _ = pictures(400, seed=2)


def noisy(images: np.ndarray, most: int) -> np.ndarray:
    noise = np.random.default_rng(5).integers(-most, most + 1, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def test_copies_are_counted_and_paired_with_their_originals() -> None:
    samples, _ = pictures(400, seed=3)
    samples[7], samples[11] = TRAINING.images[123], TRAINING.images[456]
    samples[20:60] = noisy(TRAINING.images[200:240], 3)
    told: list[str] = []
    found = find_near_copies(samples, TEST, TRAINING, progress=told.append)
    assert 42 <= found.near <= 42 + 20
    assert found.share == found.near / 400
    assert found.share_of_test < 0.05
    assert {(pair.sample, pair.real) for pair in found.pairs[:2]} == {(7, 123), (11, 456)}
    assert [pair.distance for pair in found.pairs[:2]] == [0, 0]
    assert all(pair.real == 180 + pair.sample for pair in found.pairs[2:])
    assert all(0 < pair.distance < pair.limit < 1 for pair in found.pairs[2:])
    assert told[-1] == "distances to 1,000 training images: 100%"


def test_new_images_are_near_copies_as_rarely_as_test_images() -> None:
    samples, _ = pictures(400, seed=3)
    found = find_near_copies(samples, TEST, TRAINING)
    assert max(found.share, found.share_of_test) < 0.05


def test_copies_of_an_image_that_is_there_twice_are_found() -> None:
    """The limit is then 0, where most images are there twice."""
    doubled = Labelled(np.repeat(TRAINING.images[:300], 2, axis=0), np.repeat(TRAINING.labels[:300], 2))
    found = find_near_copies(TRAINING.images[:50], TEST, doubled)
    assert (found.near, found.share, found.share_of_test) == (50, 1.0, 0.0)


def test_the_nearest_is_that_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "_ROWS", 7)
    monkeypatch.setattr(near_copies, "_COLUMNS", 11)
    random = np.random.default_rng(0)
    known = random.random((50, 6), dtype=np.float32)
    points = random.random((23, 6), dtype=np.float32)
    every = np.sqrt(np.square(points[:, None] - known[None]).mean(-1, dtype=np.float64))
    distances, rows = nearest_of(points, known)
    assert np.array_equal(rows, every.argmin(1))
    assert np.allclose(distances, every.min(1))
    own = np.array([3, 17, 49])
    distances, rows = nearest_of(known[own], known, own=own)
    assert (rows != own).all()
    assert distances.min() > 0


@pytest.mark.parametrize(("shape", "values"), [((28, 28, 1), 784), ((64, 64, 3), 3072), ((33, 1, 1), 16)])
def test_large_images_are_averaged_down(shape: tuple[int, ...], values: int) -> None:
    assert near_copies._points(np.zeros((3, *shape), np.uint8)).shape == (3, values)


def test_pairs_name_the_images_by_their_place_in_the_files(tmp_path: Path) -> None:
    real = load_real(write_npz(tmp_path / "real.npz"), make_spec())
    with np.load(tmp_path / "real.npz") as arrays:
        for row in (0, 250, 499):
            assert np.array_equal(arrays["arr_0"][real.position(row)], real.training.images[row])
    assert RealData(TRAINING, TRAINING).position(5) == 5


@pytest.mark.parametrize(("shape", "size"), [
    ((28, 28, 1), (8 * 60 - 4, 2 * 117 - 4)), ((300, 150, 3), (8 * 68 - 4, 2 * 261 - 4)),
])  # fmt: skip
def test_the_picture_has_each_sample_above_its_image(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    light, dark = np.full((16, *shape), 200, np.uint8), np.full((16, *shape), 50, np.uint8)
    picture = Image.open(io.BytesIO(draw_pairs(light, dark)))
    assert picture.size == size
    assert picture.getpixel((1, 1)) == (200, 200, 200)
    assert picture.getpixel((1, size[1] - 2)) == (50, 50, 50)
