"""Distances to nearest neighbors: does a generator cover the real data, and does it copy it?"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1000


def coverage(real: NDArray[np.float32], samples: NDArray[np.float32], neighbours: int = 5) -> float:
    """Share of real features (n, d) with a sample nearer than their fifth real neighbor (Naeem et al., 2020).

    Pass as many samples as real features.
    """
    radii = _nearest(real, real, rank=neighbours)  # rank 0 is the image itself
    return float(np.mean(_nearest(real, samples, rank=0) < radii))


def novelty(training: NDArray[np.uint8], test: NDArray[np.uint8], samples: NDArray[np.uint8]) -> float:
    """Median pixel distance from a sample to the nearest training image, relative to that of test images.

    0 for copies of training images, 1 for new images like those of the test set.
    """
    known = _flat(training)
    sample_distance = np.median(_nearest(_flat(samples), known, rank=0))
    return float(sample_distance / np.median(_nearest(_flat(test), known, rank=0)))


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def _nearest(points: NDArray[np.float32], others: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    """Distance from each of `points` (n, d) to the `rank`-th nearest, from 0, of `others` (m, d)."""
    lengths = np.square(others).sum(1)
    distances = []
    for first in range(0, len(points), _BLOCK):
        block = points[first : first + _BLOCK]
        squares = np.square(block).sum(1)[:, np.newaxis] + lengths - 2 * block @ others.T
        distances.append(np.partition(squares, rank, axis=1)[:, rank])
    nearest: NDArray[np.float32] = np.sqrt(np.maximum(np.concatenate(distances), 0))
    return nearest
