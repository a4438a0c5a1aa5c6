"""One PNG: any image comes back, any bytes are an image or a ValueError."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.formats.image import decode_image, decode_png, encode_png

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))


@given(shapes.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_every_image_comes_back(image: np.ndarray) -> None:
    data = encode_png(image)
    assert data == encode_png(image.copy())
    np.testing.assert_array_equal(decode_png(data), image)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)


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
