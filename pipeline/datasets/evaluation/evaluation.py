"""How good samples are, as classifiers see it: asks for it, in a process of its own that may load TensorFlow."""

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

#: What lines of progress begin with.
PROGRESS = "progress: "

#: Fewer samples than this teach a classifier nothing.
_LEAST = 100


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one class, shares of 1. `tstr` and `real` are recalls on the test set; None without samples."""

    consistency: float | None
    tstr: float
    real: float
    diversity: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of samples beside real images.

    consistency  share of samples to which a classifier trained on real images gives the label they were made for
    tstr         train on synthetic, test on real: accuracy on real test images after seeing only samples
    real         accuracy of the same classifier after seeing real training images
    frechet      distance between Gaussians fitted to that classifier's 64 features of samples and of test images
                 (not the FID of the literature, whose features are Inception's); of_real: of real training images
    diversity    mean distance between the features of two samples of a class, as a share of the same of real ones
    coverage     share of test images with a sample among their nearest neighbours, on the same features
    novelty      median pixel distance from a sample to the nearest training image, as a share of the test images'
    """

    samples: int
    #: Real images that taught the classifier of `real` and `consistency`, and those that all was tested on.
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
    #: How long it took.
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
    """Judges at most `limit` samples of a dataset by real data, of which at most as many are learnt from.

    `progress` hears what is being done, in a few words. Raises UsageError where dataset or real data do not fit.
    """
    dataset = Dataset(destination)
    place = _real_place(dataset, real)
    _check(dataset, limit)
    # Before TensorFlow takes its seconds to start.
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
    """What the process answered."""
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
