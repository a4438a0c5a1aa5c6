"""Samples as embedded images: data: URLs of PNG, or of JPEG where it is much smaller."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.report.preview import as_image
from pipeline.formats.image import image_shape

#: Largest side of a cell, pixels; larger samples are downscaled.
CELL = 96
#: From this side on, samples are large: fewer are shown, and color images as JPEG, which is much smaller.
_LARGE = 64

Range = tuple[float, float]


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are large: fewer are shown, with smooth scaling."""
    return image_shape(shape) is not None and max(shape[:2]) >= _LARGE


def shrunk(samples: NDArray[Any], most: int) -> NDArray[np.float32]:
    """Images (n, h, w[, c]) downscaled to sides of at most `most` pixels, float32 (n, h', w', c)."""
    shape = image_shape(samples.shape[1:])
    assert shape is not None
    values = samples.reshape(len(samples), *shape)
    down, right = -(-shape[0] // most), -(-shape[1] // most)
    height, width = shape[0] // down, shape[1] // right
    cut = values[:, : height * down, : width * right]
    if (down, right) == (1, 1):
        return cut.astype(np.float32)
    blocks = cut.reshape(len(cut), height, down, width, right, shape[2])
    averaged: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return averaged


def grid(samples: NDArray[Any], columns: int, full_scale: Range) -> tuple[str, int, int]:
    """Samples side by side, one pixel apart, row by row: a data: URL, its width and height in pixels."""
    small = shrunk(samples, CELL)
    cells = [as_image(sample, full_scale).convert("RGBA") for sample in small]
    width, height = cells[0].size
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    photographic = is_large(samples.shape[1:]) and samples.shape[-1] == 3
    # JPEG has no transparency: medium grey gaps suit light and dark pages.
    gap = (128, 128, 128, 255) if photographic else (0, 0, 0, 0)
    sheet = Image.new("RGBA", (columns * (width + 1) - 1, rows * (height + 1) - 1), gap)
    for position, cell in enumerate(cells):
        sheet.paste(cell, (position % columns * (width + 1), position // columns * (height + 1)))
    return data_url(sheet, photographic=photographic), sheet.width, sheet.height


def mean_and_deviation(samples: NDArray[Any], full_scale: Range) -> tuple[str, str]:
    """Mean and standard deviation of all samples, as data: URLs."""
    small = shrunk(samples, CELL)
    deviation = small.std(axis=0)
    most = float(deviation.max()) or 1.0
    mean = as_image(small.mean(axis=0), full_scale)
    return data_url(mean), data_url(as_image(deviation, (0.0, most)))


def data_url(image: Image.Image, *, photographic: bool = False) -> str:
    """The image as a data: URL."""
    file = io.BytesIO()
    if photographic:
        image.convert("RGB").save(file, "JPEG", quality=85)
    else:
        _packed(image).save(file, "PNG", optimize=True)
    kind = "jpeg" if photographic else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _packed(image: Image.Image) -> Image.Image:
    """Reduces grey images to one channel, or two, instead of four."""
    if image.mode != "RGBA":
        return image
    red, green, blue, alpha = (np.asarray(channel) for channel in image.split())
    if not (np.array_equal(red, green) and np.array_equal(green, blue)):
        return image
    return Image.merge("LA", [Image.fromarray(red), Image.fromarray(alpha)])
