"""One evaluation, for `pipeline.datasets.evaluation.evaluation`: a request as JSON, the metrics as JSON on stdout."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.processes import exit_on_error
from pipeline.common.settings import load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.evaluation import PROGRESS, Evaluation
from pipeline.datasets.evaluation.pairs import draw_pairs
from pipeline.datasets.evaluation.real_data import Labelled, load_real
from pipeline.formats.image import image_shape
from pipeline.formats.values import to_stored
from workers.engine.devices import pin_device
from workers.engine.tensorflow_start import start_tensorflow

#: Samples read at a time.
_CHUNK = 256


def draw(dataset: Dataset, most: int) -> tuple[Labelled, NDArray[np.int64]]:
    """At most `most` samples as uint8, in runs spread over the dataset, in random order; and their indices."""
    spec = dataset.spec
    stretches = [
        (first, min(_CHUNK, shard.first + shard.count - first))
        for index in dataset.made()
        for shard in [dataset.plan[index]]
        for first in range(shard.first, shard.first + shard.count, _CHUNK)
    ]
    random = np.random.default_rng(0)
    images, labels, indices, taken = [], [], [], 0
    for first, count in (stretches[place] for place in random.permutation(len(stretches))):
        count = min(count, most - taken)
        if not count:
            break
        samples, own = dataset.samples(first, count), dataset.labels(first, count)
        assert own is not None
        if samples.dtype != np.uint8:
            samples = to_stored(samples.astype(np.float32), "uint8", spec.value_range)
        images.append(samples.reshape(count, *(image_shape(spec.sample_shape) or spec.sample_shape)))
        labels.append(own)
        indices.append(np.arange(first, first + count, dtype=np.int64))
        taken += count
    order = random.permutation(taken)
    return Labelled(np.concatenate(images), np.concatenate(labels)).only(order), np.concatenate(indices)[order]


def run(request: dict[str, str | int]) -> tuple[Evaluation, bytes]:
    """Carries out a request; returns the metrics, and the picture of the closest pairs. Raises NoisemillError."""
    dataset = Dataset(str(request["destination"]))
    # Matrices are grey images, as for PNG.
    pictures = replace(dataset.spec, sample_shape=image_shape(dataset.spec.sample_shape) or dataset.spec.sample_shape)
    real = load_real(Path(str(request["real"])), pictures)
    samples, indices = draw(dataset, int(request["limit"]))
    pin_device("auto")
    _report_progress("TensorFlow is starting")
    start_tensorflow()
    from workers.once.evaluation.figures import compute_metrics  # After the device is pinned: it loads TensorFlow.

    assert dataset.spec.classes is not None
    found = compute_metrics(
        samples,
        real.limited(int(request["limit"])),
        dataset.spec.classes,
        seed=int(request["seed"]),
        cache_dir=load_settings().cache_dir,
        all_training=real.training,
        progress=_report_progress,
    )
    pairs = found.near_copies.pairs
    picture = draw_pairs(
        samples.images[[pair.sample for pair in pairs]], real.training.images[[pair.real for pair in pairs]]
    )
    named = tuple(replace(pair, sample=int(indices[pair.sample]), real=real.position(pair.real)) for pair in pairs)
    return replace(found, near_copies=replace(found.near_copies, pairs=named)), picture


def _report_progress(words: str) -> None:
    print(f"{PROGRESS}{words}", file=sys.stderr, flush=True)


def main() -> None:
    """Exit code 0 with the metrics on stdout; otherwise one line."""
    with exit_on_error():
        found, picture = run(json.loads(sys.argv[1]))
        print(json.dumps({"metrics": found.as_json(), "pairs": base64.b64encode(picture).decode()}))


if __name__ == "__main__":
    main()
