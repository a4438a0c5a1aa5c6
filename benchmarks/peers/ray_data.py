"""Ray Data: `map_batches` with an actor that holds the model, then `write_numpy`. Needs `ray[data]`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import ray


class Predict:
    """One actor's model."""

    def __init__(self, path: str) -> None:
        import keras

        self.model = keras.models.load_model(path, compile=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Samples of a batch of indices."""
        count = len(batch["id"])
        latents = np.random.default_rng(int(batch["id"][0])).standard_normal((count, 100)).astype(np.float32)
        labels = (batch["id"] % 10).astype(np.int32)
        return {"sample": self.model.predict([latents, labels], batch_size=count, verbose=0)}


def main(path: str, out: str, count: int, batch: int) -> float:
    """Makes `out`/*.npy; returns the seconds it took, without Ray's own start but with that of its actors."""
    ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    start = time.perf_counter()
    samples = ray.data.range(count).map_batches(
        Predict, fn_constructor_args=(path,), batch_size=batch, concurrency=1, num_cpus=1
    )
    samples.write_numpy(out, column="sample")
    return time.perf_counter() - start


if __name__ == "__main__":
    seconds = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({"samples": int(sys.argv[3]), "seconds": seconds}))
