"""Evaluates samples with classifiers, in a process of its own that may load TensorFlow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import UsageError, WorkerError
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.real_data import FASHION_MNIST, load_real
from pipeline.formats.image import image_shape

#: Prefix of lines of progress.
PROGRESS = "progress: "

#: The fewest samples that can train a classifier.
_LEAST = 100


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Metrics of one class, as shares of 1. `tstr` and `real` are recalls on the test set; None without samples."""

    consistency: float | None
    tstr: float
    real: float
    diversity: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of samples compared with real images.

    consistency  share of samples that a classifier trained on real images assigns to their label
    tstr         train on synthetic, test on real: accuracy on real test images after training on samples only
    real         accuracy of the same classifier after training on real images
    frechet      distance between Gaussians fitted to that classifier's 64 features of samples and of test images
                 (not the FID of the literature, whose features are Inception's); of_real: of real training images
    diversity    mean distance between the features of two samples of a class, relative to real ones
    coverage     share of test images with a sample among their nearest neighbors, by the same features
    novelty      median pixel distance from a sample to the nearest training image, relative to test images
    """

    samples: int
    #: Real images that trained the classifier of `real` and `consistency`, and those used for testing.
    real_training: int
    real_test: int
    distinct_samples: int
    consistency: float
    tstr: float
    real: float
    tstr_of_real: float
    frechet: float
    frechet_of_real: float
    diversity: float
    coverage: float
    coverage_of_real: float
    novelty: float
    classes: dict[str, ClassFigures]
    #: Duration in seconds.
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def evaluate(
    destination: str,
    *,
    real: str | None = None,
    limit: int = 20_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compares at most `limit` samples of a dataset with real data, of which at most `limit` images are trained on.

    `progress` is called with a description of each step. Raises UsageError if dataset and real data do not match.
    """
    dataset = Dataset(destination)
    place = _real_place(dataset, real)
    _check(dataset, limit)
    # Before TensorFlow starts, which takes seconds.
    load_real(place, dataset.spec)
    request = {"destination": dataset.url, "real": str(place), "limit": limit, "seed": seed}
    process = subprocess.Popen(
        python_command("workers.once.evaluation", json.dumps(request)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            if line.startswith(PROGRESS) and progress is not None:
                progress(line.removeprefix(PROGRESS).strip())
            said.append(line)
        answer = process.stdout.read()
        process.wait()
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
    if process.returncode:
        raise WorkerError(error_from_stderr("".join(line for line in said if not line.startswith(PROGRESS))))
    return evaluation_from_json(answer)


def evaluation_from_json(text: str) -> Evaluation:
    """Parses the output of the process."""
    data = json.loads(text)
    classes = {name: ClassFigures(**figures) for name, figures in data.pop("classes").items()}
    return Evaluation(**data, classes=classes)


def _real_place(dataset: Dataset, real: str | None) -> Path:
    if real is not None:
        return Path(real).expanduser()
    if dataset.spec.generator != "fashion":
        raise UsageError("give real images to compare with: --real DIR (a folder per class, idx files, or an .npz)")
    if not FASHION_MNIST.is_dir():
        raise UsageError(
            f"{FASHION_MNIST} is missing: 'apt install dataset-fashion-mnist', or give the four idx files by --real DIR"
        )
    return FASHION_MNIST


def _check(dataset: Dataset, limit: int) -> None:
    spec = dataset.spec
    if spec.classes is None:
        raise UsageError(f"{dataset.url} has no classes: evaluate compares what classifiers learn from them")
    if spec.format == "null" or image_shape(spec.sample_shape) is None:
        raise UsageError(f"{dataset.url} holds no images: samples are {spec.sample_shape}, {spec.format}")
    if spec.dtype != "uint8" and spec.value_range is None:
        raise UsageError(f"{dataset.url}: its generator declares no range of values, which images need")
    if min(dataset.available, limit) < _LEAST:
        raise UsageError(f"{dataset.url}: {min(dataset.available, limit):,} samples are too few: at least {_LEAST}")
