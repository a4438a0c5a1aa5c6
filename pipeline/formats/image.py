"""Encodes and decodes PNG images."""

from __future__ import annotations

import io
import itertools
import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.common.limits import usable_cores
from pipeline.formats.png_file import MOST_STORED_BYTES, CompressedPng, StoredPng

#: Bytes of pixels per task of a compression thread: smaller tasks would cost as much to hand over as to compress.
_STRETCH_BYTES = 2**17

_CHANNELS_OF_MODE = {"L": 1, "RGB": 3, "RGBA": 4}

#: Errors of Pillow for bytes that are not a whole PNG.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, Image.DecompressionBombError)


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Height, width and channels (1, 3 or 4) of samples of this shape; matrices are grey. None if not an image."""
    if len(shape) == 3 and shape[2] in (1, 3, 4) and 0 not in shape:
        return shape[0], shape[1], shape[2]
    return (shape[0], shape[1], 1) if len(shape) == 2 and min(shape) > 1 else None


def encode_pngs(images: NDArray[np.uint8]) -> Iterator[bytes]:
    """PNG of each image, uint8 (n, *shape), of a shape that `image_shape` accepts.

    The same image always gives the same bytes, whatever else is in the batch: files have no times or text. Small images
    are stored uncompressed, with the same bytes on every machine. Larger ones are compressed by one thread per core,
    with bytes that depend on `encoder_versions`; the threads start at once, and `images` must not change until the last
    file was taken.
    """
    shape = image_shape(images.shape[1:])
    if shape is None:
        raise ValueError(f"samples of {images.shape[1:]} are not images")
    images = images.reshape(len(images), *shape)
    stored, compressed = _encoders(shape)
    if stored.size_bytes <= MOST_STORED_BYTES:
        return iter(stored.encode(images))
    stretch = max(1, _STRETCH_BYTES // math.prod(images.shape[1:]))
    stretches = [images[first : first + stretch] for first in range(0, len(images), stretch)]
    return itertools.chain.from_iterable(_threads().map(compressed.encode, stretches))


def encoder_versions() -> dict[str, str]:
    """Versions that the bytes of compressed images depend on."""
    return {"zlib": zlib.ZLIB_RUNTIME_VERSION}


@cache
def _encoders(shape: tuple[int, int, int]) -> tuple[StoredPng, CompressedPng]:
    return StoredPng(shape), CompressedPng(shape)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="png")


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """The image in `data`, uint8 (height, width, channels) with 1, 3 or 4 channels.

    Raises ValueError if it is not a PNG of 8 bits per channel in grey, RGB or RGBA, or if pixels are missing. Damage
    after the pixels is not detected; the hashes of a receipt do that.
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
    """The image of this shape in `data`. Raises ValueError as `decode_png` does, or for another shape."""
    image = decode_png(data)
    if image.shape != image_shape(shape):
        raise ValueError(f"the image is {image.shape}, not {shape}")
    return image.reshape(shape)
