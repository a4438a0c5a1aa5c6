"""Metrics of samples compared with real images; `pipeline.datasets.evaluation.evaluation.Evaluation` defines each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.evaluation.evaluation import ClassFigures, Evaluation
from pipeline.datasets.evaluation.real_data import Labelled, RealData
from workers.once.evaluation.classifier import classify, kept_classifier, train_classifier
from workers.once.evaluation.near_copies import find_near_copies
from workers.once.evaluation.neighbours import coverage, novelty

_NOVELTY_IMAGES = 2000

Features = NDArray[np.float32]


def compute_metrics(
    samples: Labelled,
    real: RealData,
    names: Sequence[str],
    *,
    seed: int,
    cache_dir: Path,
    all_training: Labelled | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Metrics of samples, which must be in random order.

    Copies are looked for in `all_training`, if classifiers train on a part of the real images only. The pairs of
    `near_copies` have the rows of `samples` and of the training images.
    """
    started = time.monotonic()
    training, test = real.training, real.test
    progress(f"a classifier of {len(training.labels):,} real images")
    teacher = kept_classifier(training, real.training_sha256, len(names), seed, cache_dir)
    progress(f"a classifier of {len(samples.labels):,} samples")
    pupil = train_classifier(samples, len(names), seed)
    progress("both classify samples and test images")
    sample_classes, sample_features = classify(teacher, samples.images)
    real_classes, real_features = classify(teacher, test.images)
    _, training_features = classify(teacher, training.images[: len(test.images)])
    pupil_classes, _ = classify(pupil, test.images)
    classes = {
        name: ClassFigures(
            consistency=_accuracy(sample_classes[samples.labels == label], label),
            tstr=_accuracy(pupil_classes[test.labels == label], label) or 0.0,
            real=_accuracy(real_classes[test.labels == label], label) or 0.0,
            diversity=diversity(sample_features[samples.labels == label], real_features[test.labels == label]),
        )
        for label, name in enumerate(names)
    }
    tstr, accuracy = float(np.mean(pupil_classes == test.labels)), float(np.mean(real_classes == test.labels))
    # These two metrics need the same number of both.
    count = min(len(test.labels), len(samples.labels), len(training.labels))
    near_copies = find_near_copies(
        samples.images, test.images, training if all_training is None else all_training, progress=progress
    )
    progress("distances")
    return Evaluation(
        samples=len(samples.labels),
        real_training=len(training.labels),
        real_test=len(test.labels),
        distinct_samples=len(np.unique(samples.images.reshape(len(samples.images), -1), axis=0)),
        consistency=float(np.mean(sample_classes == samples.labels)),
        tstr=tstr,
        real=accuracy,
        tstr_of_real=tstr / accuracy,
        frechet=frechet_distance(sample_features[:count], real_features[:count]),
        frechet_of_real=frechet_distance(training_features[:count], real_features[:count]),
        diversity=float(np.mean([each.diversity for each in classes.values() if each.diversity is not None])),
        coverage=coverage(real_features[:count], sample_features[:count]),
        coverage_of_real=coverage(real_features[:count], training_features[:count]),
        novelty=novelty(training.images, test.images[:_NOVELTY_IMAGES], samples.images[:_NOVELTY_IMAGES]),
        near_copies=near_copies,
        classes=classes,
        seconds=round(time.monotonic() - started, 3),
    )


def frechet_distance(a: Features, b: Features) -> float:
    """Frechet distance between Gaussians fitted to features (n, d) and (m, d) (Heusel et al., 2017)."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of a matrix's square root is the sum of its eigenvalues' roots; rounding can make small ones negative.
    eigenvalues = np.linalg.eigvals(covariance_a @ covariance_b).real
    root_trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    offset = np.square(a.mean(0, np.float64) - b.mean(0, np.float64)).sum()
    return float(offset + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace)


def _spread(features: Features) -> float:
    """Mean distance between each of features (n, d) and the one before it."""
    return float(np.linalg.norm(features - np.roll(features, 1, axis=0), axis=1).mean())


def diversity(samples: Features, real: Features) -> float | None:
    """Spread of samples' features (n, d), as a share of that of real ones.

    None if there are fewer than two samples, or the real ones are all alike.
    """
    if len(samples) < 2 or len(real) < 2 or not (real_spread := _spread(real)):
        return None
    return _spread(samples) / real_spread


def _accuracy(classes: NDArray[np.int32], label: int) -> float | None:
    return float(np.mean(classes == label)) if len(classes) else None
