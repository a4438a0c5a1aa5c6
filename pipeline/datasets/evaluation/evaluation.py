"""Evaluates samples with classifiers, in a process of its own that may load TensorFlow."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import DatasetError, UsageError, WorkerError, shown
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.common.version import VERSION
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.real_data import FASHION_MNIST, load_real
from pipeline.formats.image import image_shape
from pipeline.spec import plan as shards
from pipeline.stores.records import parse_record, read_record

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
class Pair:
    """A sample and the training image that it is nearest to."""

    #: Index of the sample in the dataset.
    sample: int
    #: Index of the image among the real images, in the order of their files.
    real: int
    #: Root mean square over pixels, as a share of full scale.
    distance: float
    #: The distance up to which it is a near copy.
    limit: float


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Samples that are nearer to a training image than real images nearly ever are to each other.

    The limit is a percentile of the distances of training images of that class to their nearest other one.
    """

    #: Samples examined, and training images that each was compared with.
    examined: int
    training: int
    #: Near copies, and their share.
    near: int
    share: float
    #: The same share of real test images, which copy nothing: what to expect of new images.
    share_of_test: float
    percentile: float
    #: The pairs with the least distances, near copies or not.
    pairs: tuple[Pair, ...]

    def describe(self) -> str:
        """As one line."""
        return (
            f"{self.near:,} of {self.examined:,} samples, {self.share:.2%} (real test images "
            f"{self.share_of_test:.2%}), among {self.training:,} training images"
        )


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
    near_copies  samples that nearly equal a training image; compared with all training images, whatever the limit
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
    near_copies: NearCopies
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
    save: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compares at most `limit` samples of a dataset with real data, of which at most `limit` images are trained on.

    `save` writes the result to the destination, for the report.
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
    told = json.loads(answer)
    found = _evaluation_of(told["metrics"])
    if save:
        text = json.dumps(
            {"noisemill": VERSION, "spec_sha256": dataset.spec.sha256, "metrics": found.as_json()}, indent=1
        )
        dataset.store.write(shards.NEAR_COPIES, base64.b64decode(told["pairs"]))
        dataset.store.write(shards.EVALUATION, f"{text}\n".encode())
    return found


def saved_evaluation(dataset: Dataset) -> tuple[Evaluation, bytes] | None:
    """What `evaluate` saved of this dataset, and the picture of pairs; None if nothing, or of another job.

    Raises DatasetError if it is damaged.
    """
    source = f"{dataset.url}/{shards.EVALUATION}"
    try:
        data = parse_record(read_record(dataset.store, shards.EVALUATION), source)
        picture = dataset.store.read(shards.NEAR_COPIES)
    except FileNotFoundError:
        return None
    try:
        if data["spec_sha256"] != dataset.spec.sha256:
            return None
        _check_numbers(data["metrics"])
        return _evaluation_of(data["metrics"]), picture
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{source} is damaged: {error}") from None


def _check_numbers(data: Any) -> None:
    """Raises ValueError unless all values in these objects and lists are numbers or None."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            _check_numbers(value)
    elif data is not None and type(data) not in (int, float):
        raise ValueError(f"{shown(data)} is not a number")


def _evaluation_of(data: dict[str, Any]) -> Evaluation:
    classes = {name: ClassFigures(**figures) for name, figures in data.pop("classes").items()}
    near = data.pop("near_copies")
    near_copies = NearCopies(**{**near, "pairs": tuple(Pair(**pair) for pair in near["pairs"])})
    return Evaluation(**data, classes=classes, near_copies=near_copies)


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
