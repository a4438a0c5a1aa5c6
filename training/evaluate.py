"""Judge a generator by what a small classifier makes of its samples: `python -m training.evaluate MODEL.keras`.

consistency  share of samples to which a classifier trained on real images gives the label they were made for
TSTR         train on synthetic, test on real: accuracy on the real test set after seeing only samples
real         accuracy of the same classifier after seeing the real training set
Frechet      distance between Gaussians fitted to that classifier's 64 features of samples and of the test set
             (not the FID of the literature, whose features are Inception's); beside it, that of real training images
diversity    mean distance between the features of two samples of a class, as a share of the same of real ones
coverage     share of the test set's images with a sample among their nearest neighbours, on the same features
novelty      median pixel distance from a sample to the nearest training image, as a share of the test images'
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from training.classifier import classify, train_classifier
from training.data import CLASS_NAMES, DEFAULT_DATA, DataMissingError, LabelledImages, load_test, load_training
from training.grids import sample
from training.neighbours import coverage, novelty

_NOVELTY_IMAGES = 2000


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one class, shares of 1. `tstr` and `real` are recalls on the test set."""

    consistency: float
    tstr: float
    real: float
    diversity: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one generator; see the module's docstring for what they mean."""

    samples: int
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


def evaluate(
    generator: keras.Model, training: LabelledImages, test: LabelledImages, count: int, seed: int
) -> Evaluation:
    """Judge `count` samples, the classes in equal numbers."""
    labels = (np.arange(count) % len(CLASS_NAMES)).astype(np.int32)
    samples = LabelledImages(sample(generator, labels, seed), labels)
    teacher, pupil = train_classifier(training, seed), train_classifier(samples, seed)

    sample_classes, sample_features = classify(teacher, samples.images)
    real_classes, real_features = classify(teacher, test.images)
    _, training_features = classify(teacher, training.images[: len(test.images)])
    pupil_classes, _ = classify(pupil, test.images)

    classes = {
        name: ClassFigures(
            consistency=_accuracy(sample_classes[labels == index], index),
            tstr=_accuracy(pupil_classes[test.labels == index], index),
            real=_accuracy(real_classes[test.labels == index], index),
            diversity=spread(sample_features[labels == index]) / spread(real_features[test.labels == index]),
        )
        for index, name in enumerate(CLASS_NAMES)
    }
    tstr, real = _accuracy(pupil_classes, test.labels), _accuracy(real_classes, test.labels)
    return Evaluation(
        samples=count,
        distinct_samples=len(np.unique(samples.images.reshape(count, -1), axis=0)),
        consistency=_accuracy(sample_classes, labels),
        tstr=tstr,
        real=real,
        tstr_of_real=tstr / real,
        frechet=frechet_distance(sample_features[: len(test.images)], real_features),
        frechet_of_real=frechet_distance(training_features, real_features),
        diversity=float(np.mean([figures.diversity for figures in classes.values()])),
        coverage=coverage(real_features, sample_features[: len(test.images)]),
        coverage_of_real=coverage(real_features, training_features),
        novelty=novelty(training.images, test.images[:_NOVELTY_IMAGES], samples.images[:_NOVELTY_IMAGES]),
        classes=classes,
    )


def frechet_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Frechet distance between Gaussians fitted to features (n, d) and (m, d) (Heusel et al., 2017)."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of a matrix's root is the sum of its eigenvalues' roots; rounding can make small ones negative.
    eigenvalues = np.linalg.eigvals(covariance_a @ covariance_b).real
    root_trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    offset = np.square(a.mean(0, np.float64) - b.mean(0, np.float64)).sum()
    return float(offset + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace)


def spread(features: NDArray[np.float32]) -> float:
    """Mean distance between each of features (n, d) and the one before it."""
    return float(np.linalg.norm(features - np.roll(features, 1, axis=0), axis=1).mean())


def _accuracy(classes: NDArray[np.int32], wanted: NDArray[np.int32] | int) -> float:
    return float(np.mean(classes == wanted))


def _print(evaluation: Evaluation) -> None:
    table = Table("class", "consistency", "TSTR", "real", "diversity", title=f"{evaluation.samples} samples")
    rows: list[tuple[str, ClassFigures | Evaluation]] = [*evaluation.classes.items(), ("all", evaluation)]
    for name, figures in rows:
        values = (figures.consistency, figures.tstr, figures.real, figures.diversity)
        table.add_row(name, *(f"{value:.3f}" for value in values), style="bold" if name == "all" else "")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"TSTR as a share of real  {evaluation.tstr_of_real:.3f}")
    console.print(
        f"Frechet distance         {evaluation.frechet:.2f} (training images {evaluation.frechet_of_real:.2f})"
    )
    console.print(
        f"coverage                 {evaluation.coverage:.3f} (training images {evaluation.coverage_of_real:.3f})"
    )
    console.print(f"novelty                  {evaluation.novelty:.3f}")
    console.print(f"distinct samples         {evaluation.distinct_samples} of {evaluation.samples}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="generator, ending in .keras")
    parser.add_argument("--count", type=int, default=60_000, help="samples to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data set's four idx files")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        training, test = load_training(options.data), load_test(options.data)
    except DataMissingError as error:
        sys.exit(str(error))
    generator = keras.saving.load_model(options.model, safe_mode=True)
    evaluation = evaluate(generator, training, test, options.count, options.seed)
    if options.json:
        print(json.dumps(asdict(evaluation), indent=1))
    else:
        _print(evaluation)


if __name__ == "__main__":
    main()
