"""Does a generator repeat training images? Nearest training image of each sample, compared with real images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.evaluation.evaluation import NearCopies, Pair
from pipeline.datasets.evaluation.real_data import Labelled

#: A sample is a near copy if it is no farther from a training image than this percentile of the training images of
#: that class from their nearest other.
PERCENTILE = 1.0
#: Most samples, test images and training images whose nearest training image is searched.
_SAMPLES, _OTHERS = 10_000, 5_000
#: A class with fewer distances than this gets the percentile of all classes.
_ENOUGH = 100
#: Images are averaged down to sides of at most this many pixels.
_SIDE = 32
#: Rows of samples and of training images in one matrix product: 16 MB of squared distances.
_ROWS, _COLUMNS = 1000, 4000
_PAIRS = 16

Points = NDArray[np.float32]
Indices = NDArray[np.int64]


def find_near_copies(
    samples: NDArray[np.uint8],
    test: NDArray[np.uint8],
    training: Labelled,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> NearCopies:
    """Near copies among samples, and among test images for comparison; images uint8 (n, h, w, c), in random order.

    Distances are root mean squares over pixels, as a share of full scale. Memory is bounded by a few blocks besides the
    images, averaged down. Shifted or mirrored copies are not found.
    """
    known = _points(training.images)
    chosen = np.sort(np.random.default_rng(0).permutation(len(known))[:_OTHERS])
    groups = [_points(samples[:_SAMPLES]), _points(test[:_OTHERS]), known[chosen]]
    total, done = sum(map(len, groups)), 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(f"distances to {len(known):,} training images: {done / total:.0%}")

    (distances, nearest), (test_distances, test_nearest) = (
        nearest_of(points, known, on_block=count) for points in groups[:2]
    )
    own_distances, _ = nearest_of(groups[2], known, own=chosen, on_block=count)
    limits = _limits(own_distances, training.labels[chosen], int(training.labels.max()) + 1)
    sample_limits = limits[training.labels[nearest]]
    near = distances <= sample_limits
    closest = np.argsort(distances, kind="stable")[:_PAIRS]
    return NearCopies(
        examined=len(distances),
        training=len(known),
        near=int(near.sum()),
        share=float(near.mean()),
        share_of_test=float(np.mean(test_distances <= limits[training.labels[test_nearest]])),
        percentile=PERCENTILE,
        pairs=tuple(
            Pair(
                sample=int(row),
                real=int(nearest[row]),
                distance=round(float(distances[row]), 6),
                limit=round(float(sample_limits[row]), 6),
            )
            for row in closest
        ),
    )


def nearest_of(
    points: Points, known: Points, *, own: Indices | None = None, on_block: Callable[[int], None] = lambda _: None
) -> tuple[NDArray[np.float64], Indices]:
    """Distance (root mean square) from each of `points` (n, d) to the nearest of `known` (m, d), and its row.

    `own` are the rows of the points themselves in `known`, which do not count.
    """
    lengths = np.square(known).sum(1)
    nearest = np.zeros(len(points), np.int64)
    for first in range(0, len(points), _ROWS):
        block = points[first : first + _ROWS]
        rows = np.arange(len(block))
        least = np.full(len(block), np.inf, np.float32)
        for start in range(0, len(known), _COLUMNS):
            # The length of a point is the same for all its distances, so it does not matter here.
            squares = block @ known[start : start + _COLUMNS].T
            squares *= -2
            squares += lengths[start : start + _COLUMNS]
            if own is not None:
                mine = own[first : first + _ROWS] - start
                inside = (mine >= 0) & (mine < squares.shape[1])
                squares[rows[inside], mine[inside]] = np.inf
            place = np.argmin(squares, axis=1)
            found = squares[rows, place]
            better = found < least
            least[better] = found[better]
            nearest[first + rows[better]] = start + place[better]
        on_block(len(block))
    # Exact, unlike the sums above: copies are at a distance of 0.
    distances = np.empty(len(points), np.float64)
    for first in range(0, len(points), _ROWS):
        apart = points[first : first + _ROWS] - known[nearest[first : first + _ROWS]]
        distances[first : first + _ROWS] = np.sqrt(np.square(apart, dtype=np.float64).mean(1))
    return distances, nearest


def _points(images: NDArray[np.uint8]) -> Points:
    """Images as rows of values from 0 to 1, averaged down."""
    height, width = images.shape[1:3]
    down, right = -(-height // _SIDE), -(-width // _SIDE)
    cut = images[:, : height // down * down, : width // right * right]
    rows = np.empty((len(images), (height // down) * (width // right) * images.shape[3]), np.float32)
    for first in range(0, len(images), _ROWS):
        part = cut[first : first + _ROWS]
        blocks = part.reshape(len(part), height // down, down, width // right, right, -1)
        rows[first : first + _ROWS] = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(part), -1) / 255
    return rows


def _limits(distances: NDArray[np.float64], labels: NDArray[np.int32], classes: int) -> NDArray[np.float64]:
    """The limit of each class, from the distances of real images of these labels to their nearest other."""
    limits = np.full(classes, np.percentile(distances, PERCENTILE))
    for label in range(classes):
        if (labels == label).sum() >= _ENOUGH:
            limits[label] = np.percentile(distances[labels == label], PERCENTILE)
    return limits
