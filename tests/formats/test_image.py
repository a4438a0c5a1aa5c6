"""One PNG: any image comes back, any bytes are an image or a ValueError."""

from __future__ import annotations

import hashlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.formats.image import decode_image, decode_png, encode_pngs, encoder_versions

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of one image, uint8 (height, width, channels), as `encode_pngs` makes it."""
    return next(encode_pngs(image[None]))


@given(shapes.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_every_image_comes_back(image: np.ndarray) -> None:
    data = encode_png(image)
    assert data == encode_png(image.copy())
    np.testing.assert_array_equal(decode_png(data), image)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)


@pytest.mark.parametrize(
    "shape",
    [(28, 28, 1), (32, 32, 3), (63, 63, 1), (64, 64, 1), (36, 36, 3), (37, 37, 3), (150, 90, 4), (1, 70_000, 1)],
)
def test_a_batch_is_what_its_images_are_one_by_one(shape: tuple[int, ...]) -> None:
    """Of every size, stored or compressed, and across the pieces in which threads compress."""
    images = np.random.default_rng(0).integers(0, 30, (7, *shape), np.uint8)
    files = list(encode_pngs(images))
    assert files == [encode_png(image) for image in images]
    assert list(encode_pngs(images[::-1])) == files[::-1]
    for data, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(decode_png(data), image)
    assert list(encode_pngs(images[:0])) == []


def test_small_images_are_the_same_bytes_on_every_machine() -> None:
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28, 1)
    hashed = hashlib.sha256(b"".join(encode_pngs(images))).hexdigest()
    assert hashed == "10d9dff7baadd23d7adfd72893ca5d2ff6804893a240bc7ec3f6071b9f8c9cb0"


def test_files_of_up_to_a_block_are_stored_and_larger_ones_compressed() -> None:
    """What is compressed of nothing but zeros is much smaller than what is not."""
    assert len(encode_png(np.zeros((63, 62, 1), np.uint8))) == 63 * 63 + 68
    assert len(encode_png(np.zeros((63, 64, 1), np.uint8))) < 200


@pytest.mark.parametrize(("side", "first_line"), [(20, b"\0" + b"\7" * 60), (40, b"\3" + b"\7" * 3 + b"\4" * 117)])
def test_every_checksum_holds(side: int, first_line: bytes) -> None:
    """Stored and compressed. Pillow reads checksums of pixels leniently; Python's own zlib does not."""
    data = encode_png(np.full((side, side, 3), 7, np.uint8))
    chunks, at = {}, 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        chunks[kind], at = body, at + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == side * len(first_line)
    assert lines.startswith(first_line)


def test_versions_of_the_encoder() -> None:
    assert encoder_versions() == {"zlib": zlib.ZLIB_RUNTIME_VERSION}


@given(st.integers(0, 150), st.binary(min_size=0, max_size=8))
def test_damaged_bytes_are_an_image_or_a_value_error(position: int, junk: bytes) -> None:
    whole = encode_png(np.arange(108, dtype=np.uint8).reshape(6, 6, 3))
    data = whole[:position] + junk + whole[position + len(junk) :]
    for damaged in (data, data[: position + len(junk)]):
        try:
            decode_png(damaged)
        except ValueError:
            continue


def test_another_shape_is_refused() -> None:
    data = encode_png(np.zeros((6, 5, 1), np.uint8))
    assert decode_image(data, (6, 5, 1)).shape == (6, 5, 1)
    with pytest.raises(ValueError, match=r"the image is \(6, 5, 1\), not \(5, 6, 1\)"):
        decode_image(data, (5, 6, 1))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "I;16"])
def test_other_kinds_of_pixels_are_refused(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (3, 3)).save(file, "PNG")
    with pytest.raises(ValueError, match="not L, RGB or RGBA"):
        decode_png(file.getvalue())
