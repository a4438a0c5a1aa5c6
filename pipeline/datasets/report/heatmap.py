"""Draws one sample: as a heatmap in text, as an image, or as an interactive Plotly heatmap."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.common.errors import UsageError
from pipeline.datasets.report.preview import as_image
from pipeline.formats.image import image_shape

#: From dark to light.
_SHADES = " .:-=+*#%@"
_GAP = 2

Range = tuple[float, float] | None


def as_picture(sample: NDArray[np.float32], value_range: Range) -> Image.Image:
    """The sample as an image. Raises UsageError if it is not one."""
    if image_shape(sample.shape) is None:
        raise UsageError(f"samples of {sample.shape} are not images: use --output NAME.npy")
    return as_image(sample, value_range)


def png(sample: NDArray[np.float32], value_range: Range) -> bytes:
    """The sample as PNG."""
    return _png(as_picture(sample, value_range))


def strip(samples: NDArray[np.float32], value_range: Range) -> bytes:
    """Samples side by side as PNG."""
    pictures = [as_picture(sample, value_range) for sample in samples]
    width, height = pictures[0].size
    sheet = Image.new(pictures[0].mode, (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for position, picture in enumerate(pictures):
        sheet.paste(picture, (position * (width + _GAP), 0))
    return _png(sheet)


def text(sample: NDArray[np.float32], value_range: Range, columns: int) -> str:
    """The sample as characters, two columns per pixel if they fit: dark is low, light is high."""
    picture = as_picture(sample, value_range).convert("L")
    width = min(picture.width, max(1, columns // 2))
    height = max(1, round(picture.height * width / picture.width))
    levels = np.asarray(picture.resize((width, height), Image.Resampling.BOX)).astype(int) * len(_SHADES) // 256
    return "\n".join("".join(_SHADES[level] * 2 for level in row).rstrip() for row in levels)


def html(sample: NDArray[np.float32], value_range: Range, title: str) -> str:
    """The sample as a page with an interactive Plotly heatmap, which needs no network.

    Raises UsageError if the sample is neither an image nor a matrix.
    """
    import plotly.graph_objects as go  # Heavy, and not needed for images and text.

    plane = sample[:, :, 0] if sample.shape[2:] == (1,) else sample
    if plane.ndim == 3 and image_shape(plane.shape) is not None:
        trace: Any = go.Image(z=np.asarray(as_picture(plane, value_range).convert("RGB")))
    elif plane.ndim == 2:
        low, high = value_range or (None, None)
        trace = go.Heatmap(z=plane.tolist(), colorscale="Greys_r", zmin=low, zmax=high)
    else:
        raise UsageError(f"samples of {sample.shape} cannot be drawn as a heatmap: use --output NAME.npy")
    figure = go.Figure(trace)
    figure.update_layout(title=title, template="plotly_white")
    # Rows are counted from the top, as in images, and cells are square.
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain")
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
