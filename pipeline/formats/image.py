"""Images as PNG. The only place that knows how."""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from pipeline.formats.stored_png import MOST_STORED_BYTES, StoredPng

#: zlib's effort, 0 to 9 (docs/decisions/0010-stores.md has the measurement).
_COMPRESS_LEVEL = 1
#: Bytes of pixels that a thread compresses in one go: handing over less would cost as much as compressing it.
_STRETCH_BYTES = 2**17

_CHANNELS_OF_MODE = {"L": 1, "RGB": 3, "RGBA": 4}

#: What Pillow raises for bytes that are no whole PNG.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, Image.DecompressionBombError)


def encode_pngs(images: NDArray[np.uint8]) -> Iterator[bytes]:
    """PNG of each image, uint8 (n, height, width, channels) with 1, 3 or 4 channels.

    The same image always gives the same bytes, whatever its neighbours: no times, no text. Small ones are
    stored as they are, in the same bytes everywhere. Larger ones are compressed by as many threads as there
    are cores, in bytes that depend on `encoder_versions`: the threads begin at once, and `images` must stay
    as they are until the last file was taken.
    """
    stored = _stored_png(images.shape[1:])
    if stored.size_bytes <= MOST_STORED_BYTES:
        return iter(stored.encode(images))
    stretch = max(1, _STRETCH_BYTES // math.prod(images.shape[1:]))
    stretches = [images[first : first + stretch] for first in range(0, len(images), stretch)]
    return itertools.chain.from_iterable(_threads().map(_compress, stretches))


def encoder_versions() -> dict[str, str]:
    """What the bytes of compressed images depend on: Pillow, and the zlib that it carries."""
    next_generation = features.version_feature("zlib_ng") if features.check_feature("zlib_ng") else None
    carried = features.version_codec("zlib") if next_generation is None else f"ng {next_generation}"
    return {"pillow": PIL.__version__, "zlib": str(carried)}


@cache
def _stored_png(shape: tuple[int, ...]) -> StoredPng:
    return StoredPng(shape)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="png")


def _compress(images: NDArray[np.uint8]) -> list[bytes]:
    """Pillow leaves the interpreter to others while it compresses."""
    grey = images.shape[3] == 1
    return [_compress_one(image[:, :, 0] if grey else image) for image in images]


def _compress_one(pixels: NDArray[Any]) -> bytes:
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
