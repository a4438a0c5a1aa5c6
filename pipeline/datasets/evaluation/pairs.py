"""The picture of samples beside the training images that they are nearest to."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Sides of a cell: small images are enlarged, large ones reduced.
_LEAST, _MOST = 56, 128
_COLUMNS, _GAP = 8, 4


def draw_pairs(samples: NDArray[np.uint8], real: NDArray[np.uint8]) -> bytes:
    """PNG of pairs, images uint8 (n, h, w, c): each sample above its real image, eight pairs in a row."""
    height, width = samples.shape[1:3]
    scale = max(1, round(_LEAST / max(height, width)))
    shrink = min(1.0, _MOST / max(height, width))
    cell_width, cell_height = max(1, int(width * scale * shrink)), max(1, int(height * scale * shrink))
    columns = min(_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    pair_height = 2 * cell_height + 1
    size = (columns * (cell_width + _GAP) - _GAP, rows * (pair_height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "#ffffff")
    for place, pair in enumerate(zip(samples, real, strict=True)):
        row, column = divmod(place, columns)
        for below, values in enumerate(pair):
            picture = _image(values).resize((cell_width, cell_height), Image.Resampling.BOX)
            at = (column * (cell_width + _GAP), row * (pair_height + _GAP) + below * (cell_height + 1))
            sheet.paste(picture, at)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _image(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).convert("RGB")
