"""Keras `predict`, then a PNG for each sample by Pillow."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image


def main(path: str, out: str, count: int, batch: int | None = None) -> float:
    """Makes `out`/0.png and so on; returns the seconds it took."""
    model = keras.models.load_model(path, compile=False)
    start = time.perf_counter()
    latents = np.random.default_rng(0).standard_normal((count, 100)).astype(np.float32)
    labels = np.arange(count, dtype=np.int32) % 10
    samples = model.predict([latents, labels], batch_size=batch, verbose=0)
    images = ((samples + 1) * 127.5).astype(np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(Path(out) / f"{index}.png")
    return time.perf_counter() - start


if __name__ == "__main__":
    batch = int(sys.argv[4]) if len(sys.argv) > 4 else None
    seconds = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), batch)
    print(json.dumps({"samples": int(sys.argv[3]), "seconds": seconds}))
