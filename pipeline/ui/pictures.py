"""Samples as images of the page: many in one file, so that a page of them is one request."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.report.pictures import shrunk
from pipeline.formats.image import image_shape
from pipeline.formats.values import to_stored

#: Largest side of a sample in a sprite, and of one shown large, pixels.
CELL, LARGE = 96, 1024
#: Samples side by side in a sprite; the page counts on it.
COLUMNS = 16
#: Sprites of more bytes in color are JPEG, which is a fraction of PNG.
_PHOTOGRAPHIC_BYTES = 2**19
#: Values of a sample that is not an image, of which the picture shows at most this many.
_MOST_VALUES = 4096


Range = tuple[float, float] | None


def sprite(samples: NDArray[Any], value_range: Range) -> tuple[bytes, str]:
    """Samples (n, *shape) row by row, COLUMNS in each, as one image and its media type.

    Each cell has a border of one pixel that repeats its edge, so that a scaled cell takes no color of its neighbours.
    """
    cells = _pixels(samples, value_range, CELL)
    cells = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    count, height, width, channels = cells.shape
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = cells
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return _encoded(sheet.reshape(rows * height, columns * width, channels))


def picture(sample: NDArray[Any], value_range: Range) -> tuple[bytes, str]:
    """One sample (*shape) as an image and its media type, with its own pixels unless it is very large."""
    return _encoded(_pixels(sample[None], value_range, LARGE)[0])


def cell_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a sample in a sprite, without the border."""
    height, width = _pixels(np.zeros((1, *shape), np.uint8), None, CELL).shape[1:3]
    return width, height


def _pixels(samples: NDArray[Any], value_range: Range, most: int) -> NDArray[np.uint8]:
    """uint8 (n, height, width, channels) with sides of at most `most`; numbers that are no image as a grey map."""
    if image_shape(samples.shape[1:]) is None:
        samples = _as_map(samples)
    small = shrunk(samples, most)
    if samples.dtype == np.uint8:
        return np.rint(small).astype(np.uint8)
    # Workers never write NaN or infinity, but damaged files may contain them.
    small = np.nan_to_num(small, posinf=0.0, neginf=0.0)
    if value_range is None:
        # Of each sample its own least and greatest value, as in a contact sheet.
        low, high = (small.min(axis=(1, 2, 3), keepdims=True), small.max(axis=(1, 2, 3), keepdims=True))
        small, value_range = (small - low) / np.maximum(high - low, np.finfo(np.float32).tiny), (0.0, 1.0)
    pixels: NDArray[np.uint8] = to_stored(small.astype(np.float32), "uint8", value_range)
    return pixels


def _as_map(samples: NDArray[Any]) -> NDArray[Any]:
    """Numbers (n, *shape) as (n, height, width, 1): the first values, in rows of a square; the rest of it is low."""
    flat = samples.reshape(len(samples), -1)[:, :_MOST_VALUES]
    side = max(2, math.isqrt(flat.shape[1] - 1) + 1) if flat.shape[1] else 2
    padded = np.full((len(flat), side * side), flat.min() if flat.size else 0, samples.dtype)
    padded[:, : flat.shape[1]] = flat
    return padded.reshape(len(flat), side, side, 1)


def _encoded(pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if image.mode == "RGB" and pixels.nbytes > _PHOTOGRAPHIC_BYTES:
        image.save(file, "JPEG", quality=88)
        return file.getvalue(), "image/jpeg"
    image.save(file, "PNG", compress_level=1)
    return file.getvalue(), "image/png"
