"""Draws contact sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.datasets.dataset import Dataset
from pipeline.formats.image import image_shape
from pipeline.formats.values import to_stored

#: Smallest side of a cell, pixels, so that small images are visible.
_CELL = 56
#: Largest side of a cell, pixels.
_CELL_LIMIT = 128
_GAP = 2
_BACKGROUND = "#ffffff"
_INK = "#3c3c3c"
_COLUMNS = 12
_ROWS = 10
_MOST_CLASSES = 40
#: Of 9. Pillow's `optimize` takes seven times as long for 4 % less.
_COMPRESSION = 4
#: Samples are read in one piece if it has at most this many times the wanted samples, and at most this many bytes.
_DENSE, _AT_ONCE_BYTES = 4, 2**22
#: Columns of an image and of a class name in a terminal.
_TEXT_CELL, _TEXT_NAME = 16, 12
#: The number of runs, and of labels per run, to search for samples of each class.
_RUNS, _RUN_LABELS = 1024, 1024


def contact_sheet(dataset: Dataset) -> bytes | None:
    """PNG of available samples from the start of the dataset, one row per class if there are classes.

    None if there are no samples yet, if they are not images, or if they were not written.
    """
    rows = _rows(dataset)
    if not rows:
        return None
    height, width = dataset.spec.sample_shape[:2]
    scale = max(1, round(_CELL / max(height, width))) if max(height, width) <= _CELL_LIMIT else 1
    shrink = min(1.0, _CELL_LIMIT / max(height, width))
    size = (max(1, int(width * scale * shrink)), max(1, int(height * scale * shrink)))
    return _draw(dataset, rows, size)


def _rows(dataset: Dataset) -> list[tuple[str, list[int]]]:
    """The rows of a sheet: name of the class, and samples of it; none if there is nothing to show."""
    spec = dataset.spec
    made = [] if spec.format == "null" or image_shape(spec.sample_shape) is None else dataset.made()
    if not made:
        return []
    if spec.classes is None:
        first_ones = list(islice(indices_of(dataset, made), _COLUMNS * _ROWS))
        return [("", first_ones[first : first + _COLUMNS]) for first in range(0, len(first_ones), _COLUMNS)]
    found = class_members(dataset, made, _COLUMNS)
    return [(spec.classes[label], members) for label, members in found.items() if members][:_MOST_CLASSES]


def as_image(sample: NDArray[Any], value_range: tuple[float, float] | None) -> Image.Image:
    """A stored sample as an image. Without a declared range, its own least and greatest value are used."""
    if sample.dtype != np.uint8:
        # Workers never write NaN or infinity, but damaged files may contain them.
        sample = np.nan_to_num(sample.astype(np.float32), posinf=0.0, neginf=0.0)
        low, high = value_range or (float(sample.min()), float(sample.max()))
        sample = to_stored(sample, "uint8", (low, high if high != low else low + 1))
    return Image.fromarray(sample[:, :, 0] if sample.shape[2:] == (1,) else sample)


def indices_of(dataset: Dataset, made: Sequence[int]) -> Iterator[int]:
    """The samples of these shards, in order."""
    return (shard.first + row for index in made for shard in [dataset.plan[index]] for row in range(shard.count))


def class_members(dataset: Dataset, made: Sequence[int], most: int) -> dict[int, list[int]]:
    """For each label up to `most` samples of these shards, searched from the start and then all over them."""
    found: dict[int, list[int]] = {label: [] for label in range(len(dataset.spec.classes or ()))}
    size = dataset.spec.shard_size
    looks = np.unique(np.linspace(0, max(0, len(made) * size - _RUN_LABELS), _RUNS).astype(np.int64)).tolist()
    for place in looks:
        shard = dataset.plan[made[place // size]]
        first = min(shard.first + place % size, shard.first + shard.count - 1)
        labels = dataset.labels(first, min(_RUN_LABELS, shard.first + shard.count - first))
        assert labels is not None
        for label in np.unique(labels):
            members = found[int(label)]
            fresh = [index for index in (np.flatnonzero(labels == label) + first).tolist() if index not in members]
            members += fresh[: most - len(members)]
        if all(len(members) >= most for members in found.values()):
            break
    return found


def _draw(dataset: Dataset, rows: list[tuple[str, list[int]]], size: tuple[int, int]) -> bytes:
    font = ImageFont.load_default(13)
    margin = 10 + max((math.ceil(font.getlength(name)) for name, _ in rows), default=0)
    margin = margin if margin > 10 else _GAP
    width = margin + _COLUMNS * (size[0] + _GAP)
    # A sheet of grey images is grey: a third of the data to compress.
    mode = "L" if dataset.spec.sample_shape[2:] in ((), (1,)) else "RGB"
    sheet = Image.new(mode, (width, _GAP + len(rows) * (size[1] + _GAP)), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    picture = _pictures(dataset, [index for _, indices in rows for index in indices])
    for row, (name, indices) in enumerate(rows):
        top = _GAP + row * (size[1] + _GAP)
        pen.text((margin - 6, top + size[1] / 2), name, fill=_INK, font=font, anchor="rm")
        for column, index in enumerate(indices):
            image = as_image(picture(index), dataset.spec.value_range).convert(mode)
            sheet.paste(image.resize(size, Image.Resampling.NEAREST), (margin + column * (size[0] + _GAP), top))
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=_COMPRESSION)
    return file.getvalue()


def _pictures(dataset: Dataset, indices: list[int]) -> Callable[[int], NDArray[Any]]:
    """A function that returns each of these samples. They are read in one piece if they are a shard's first."""
    first, stop = min(indices) // dataset.spec.shard_size * dataset.spec.shard_size, max(indices) + 1
    count, sample_bytes = stop - first, math.prod(dataset.spec.sample_shape) * np.dtype(dataset.spec.dtype).itemsize
    most = min(dataset.spec.shard_size, _DENSE * len(indices), _AT_ONCE_BYTES // sample_bytes)
    if count > most:
        return lambda index: dataset.samples(index, 1)[0]
    lead = dataset.samples(first, count)
    return lambda index: lead[index - first]


def terminal_sheet(dataset: Dataset, columns: int) -> str:
    """The sheet as text for a terminal with 24-bit colors: names, and images with two pixels per character."""
    height, width = dataset.spec.sample_shape[:2]
    cell_width = min(width, _TEXT_CELL, max(1, columns - 1))
    size = (cell_width, max(2, round(height * cell_width / width / 2) * 2))
    lines = []
    for name, indices in _rows(dataset):
        margin = f"{name[:_TEXT_NAME]:<{_TEXT_NAME}} " if name and columns > _TEXT_NAME + size[0] + 1 else ""
        fitting = indices[: max(1, (columns - len(margin)) // (size[0] + 1))]
        cells = [_text_cell(dataset, index, size) for index in fitting]
        for place, parts in enumerate(zip(*cells, strict=True)):
            lines.append((margin if place == 0 else " " * len(margin)) + " ".join(parts))
        lines.append("")
    return "\n".join(lines)


def _text_cell(dataset: Dataset, index: int, size: tuple[int, int]) -> list[str]:
    """The lines of one image."""
    image = as_image(dataset.samples(index, 1)[0], dataset.spec.value_range).convert("RGB")
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX)).tolist()
    return [
        "".join(
            f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m\u2580" for (a, b, c), (d, e, f) in zip(upper, lower, strict=True)
        )
        + "\x1b[0m"
        for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)
    ]
