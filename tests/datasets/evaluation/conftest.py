"""Small pictures in four classes that anybody can tell apart, as real data and as a dataset.

The real mill makes the dataset around a stand-in for the engine (see `tests/making.py`), from latents that are
the pictures: so a test decides what the samples are.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.running import Run, runner
from tests.making import CLASSES, make_dataset, make_spec


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pictures (count, 4, 4, 1) in which one quarter is bright, and which."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 4).astype(np.int32)
    images = random.integers(0, 60, (count, 4, 4, 1), dtype=np.uint8)
    for place, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        images[place, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += np.uint8(150)
    return images, labels


def dataset_of(folder: Path, images: NDArray[np.uint8], **changes: Any) -> Path:
    """A dataset whose samples are these pictures, with the labels 0, 1, 2, 3, 0 and so on."""
    rows = (images.reshape(len(images), 16).astype(np.float32) / 127.5 - 1) * 2
    file = io.BytesIO()
    np.save(file, rows)
    data = file.getvalue()
    spec = make_spec(
        **{"count": len(images), "latent_shape": (16,), "latents": hashlib.sha256(data).hexdigest(), **changes}
    )
    return make_dataset(folder, spec, uploads={"latents.npy": data})


def write_npz(path: Path, count: int = 600) -> Path:
    """Real data in one file."""
    images, labels = pictures(count, seed=1)
    np.savez(path, images, labels)
    return path


__all__ = ["CLASSES", "dataset_of", "pictures", "write_npz"]
