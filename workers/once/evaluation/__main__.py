"""One evaluation, for `pipeline.datasets.evaluation.evaluation`: a request as JSON, the metrics as JSON on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.common.processes import exit_on_error
from pipeline.common.settings import load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.evaluation import PROGRESS, Evaluation
from pipeline.datasets.evaluation.real_data import Labelled, load_real
from pipeline.formats.image import image_shape
from pipeline.formats.values import to_stored
from workers.engine.devices import pin_device
from workers.engine.tensorflow_start import start_tensorflow

#: Samples read at a time.
_CHUNK = 256


def draw(dataset: Dataset, most: int) -> Labelled:
    """At most `most` samples as uint8, in runs spread over the dataset, in random order."""
    spec = dataset.spec
    stretches = [
        (first, min(_CHUNK, shard.first + shard.count - first))
        for index in dataset.made()
        for shard in [dataset.plan[index]]
        for first in range(shard.first, shard.first + shard.count, _CHUNK)
    ]
    random = np.random.default_rng(0)
    images, labels, taken = [], [], 0
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
        taken += count
    order = random.permutation(taken)
    return Labelled(np.concatenate(images), np.concatenate(labels)).only(order)


def run(request: dict[str, str | int]) -> Evaluation:
    """Carries out a request. Raises NoisemillError."""
    dataset = Dataset(str(request["destination"]))
    # Matrices are grey images, as for PNG.
    pictures = replace(dataset.spec, sample_shape=image_shape(dataset.spec.sample_shape) or dataset.spec.sample_shape)
    real = load_real(Path(str(request["real"])), pictures).limited(int(request["limit"]))
    samples = draw(dataset, int(request["limit"]))
    pin_device("auto")
    _report_progress("TensorFlow is starting")
    start_tensorflow()
    from workers.once.evaluation.figures import compute_metrics  # After the device is pinned: it loads TensorFlow.

    assert dataset.spec.classes is not None
    return compute_metrics(
        samples,
        real,
        dataset.spec.classes,
        seed=int(request["seed"]),
        cache_dir=load_settings().cache_dir,
        progress=_report_progress,
    )


def _report_progress(words: str) -> None:
    print(f"{PROGRESS}{words}", file=sys.stderr, flush=True)


def main() -> None:
    """Exit code 0 with the metrics on stdout; otherwise one line."""
    with exit_on_error():
        print(json.dumps(run(json.loads(sys.argv[1])).as_json()))


if __name__ == "__main__":
    main()
