"""Contact sheets, one row per class, named at its left: `python -m training.grids MODEL.keras OUT.png`."""

import argparse
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.data import CLASS_NAMES, to_uint8

_GAP, _MARGIN = 2, 112


def sample(generator: keras.Model, labels: NDArray[np.int32], seed: int, batch: int = 500) -> NDArray[np.uint8]:
    """One image per label, uint8 (n, 28, 28, 1), from latents that depend on seed alone."""
    forward = tf.function(lambda latents, labels: generator([latents, labels], training=False))
    latents = np.random.default_rng(seed).standard_normal((len(labels), generator.inputs[0].shape[1]), np.float32)
    parts = [
        forward(latents[first : first + batch], labels[first : first + batch]).numpy()
        for first in range(0, len(labels), batch)
    ]
    return to_uint8(np.concatenate(parts))


def write_contact_sheet(
    make: Callable[[NDArray[np.int32]], NDArray[np.uint8]], path: Path, columns: int = 14, zoom: int = 2
) -> None:
    """Write a PNG of `columns` samples per class, each magnified `zoom` times; `make` maps labels to images."""
    labels = np.repeat(np.arange(len(CLASS_NAMES), dtype=np.int32), columns)
    images = make(labels).reshape(len(CLASS_NAMES), columns, 28, 28)
    pitch = 28 * zoom + _GAP
    sheet = Image.new("L", (_MARGIN + columns * pitch, len(CLASS_NAMES) * pitch), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for row, name in enumerate(CLASS_NAMES):
        draw.text((4, row * pitch + pitch // 2), name, fill=0, font=font, anchor="lm")
        for column in range(columns):
            tile = Image.fromarray(images[row, column]).resize((28 * zoom, 28 * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + column * pitch, row * pitch))
    sheet.save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.grids", description=__doc__)
    parser.add_argument("model", type=Path, help="generator, ending in .keras")
    parser.add_argument("out", type=Path, help="picture to write, ending in .png")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    generator = keras.saving.load_model(options.model, safe_mode=True)
    write_contact_sheet(lambda labels: sample(generator, labels, options.seed), options.out)


if __name__ == "__main__":
    main()
