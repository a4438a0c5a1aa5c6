"""A latent per seed, a call of the network per latent, a PNG per call: the generate scripts of GAN repositories."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image


def main(path: str, out: str, count: int) -> float:
    """Makes `out`/seed0000.png and so on; returns the seconds it took."""
    model = keras.models.load_model(path, compile=False)
    start = time.perf_counter()
    for seed in range(count):
        latent = np.random.RandomState(seed).randn(1, 100).astype(np.float32)
        label = np.array([seed % 10], np.int32)
        image = np.asarray(model([latent, label], training=False))
        image = (image[0, :, :, 0] * 127.5 + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(image, "L").save(Path(out) / f"seed{seed:04d}.png")
    return time.perf_counter() - start


if __name__ == "__main__":
    seconds = main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"samples": int(sys.argv[3]), "seconds": seconds}))
