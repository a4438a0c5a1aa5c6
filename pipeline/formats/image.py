"""One image as PNG. The only place that knows how."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: zlib's effort, 0 to 9 (docs/decisions/0010-stores.md has the measurement).
_COMPRESS_LEVEL = 1

_CHANNELS_OF_MODE = {"L": 1, "RGB": 3, "RGBA": 4}

#: What Pillow raises for bytes that are no whole PNG.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, Image.DecompressionBombError)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of an image, uint8 (height, width, channels) with 1, 3 or 4 channels.

    The same image always gives the same bytes, for one version of Pillow: no times, no text.
    """
    pixels: NDArray[Any] = image[:, :, 0] if image.shape[2] == 1 else image
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=_COMPRESS_LEVEL)
    return file.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """The image that `data` holds, uint8 (height, width, channels) with 1, 3 or 4 channels.

    Raises ValueError if it is no PNG of 8 bits per channel in grey, RGB or RGBA, or not all of its
    pixels are there. Damage behind the pixels goes unnoticed: a receipt's hashes are for that.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            mode, pixels = image.mode, np.asarray(image)
    except _DAMAGE as error:
        raise ValueError("it is not a whole PNG") from error
    if mode not in _CHANNELS_OF_MODE:
        raise ValueError(f"its pixels are {mode}, not L, RGB or RGBA")
    return pixels.reshape(*pixels.shape[:2], _CHANNELS_OF_MODE[mode])


def decode_image(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The image of this shape that `data` holds. Raises ValueError as `decode_png` does, or for another shape."""
    image = decode_png(data)
    if image.shape != shape:
        raise ValueError(f"the image is {image.shape}, not {shape}")
    return image
