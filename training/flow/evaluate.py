"""Evaluate the network: `python -m training.flow.evaluate MODEL.keras --steps 5 10 20 50 --guidance 1 1.5 2 3`.

One setting gets every figure of `pipeline/datasets/evaluation/evaluation.py`; several get a row each of those figures
that need no classifier of the samples, below a row of real training images.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.cli.evaluate import print_evaluation
from pipeline.common.settings import load_settings
from pipeline.datasets.evaluation.real_data import RealData
from training.data import CLASS_NAMES, DEFAULT_DATA, DataMissingError, load_test, load_training
from training.evaluate import evaluate
from training.flow.network import build_network
from training.flow.sampling import sample
from workers.once.evaluation.classifier import classify, kept_classifier
from workers.once.evaluation.figures import frechet_distance, spread
from workers.once.evaluation.neighbours import coverage


def load_network(path: Path, bfloat16: bool) -> keras.Model:
    """The network of a model file that the recipe wrote, to compute in float32 or bfloat16."""
    network = keras.saving.load_model(path, safe_mode=True)
    if not bfloat16:
        return network
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    rebuilt = build_network()
    rebuilt.set_weights(network.get_weights())
    return rebuilt


def print_table(
    settings: Iterable[tuple[int, float]],
    make: Callable[[NDArray[np.int32], int, float], NDArray[np.uint8]],
    real: RealData,
    count: int,
    seed: int,
) -> None:
    """Print a row per setting of steps and guidance; `make` maps labels and both to images."""
    teacher = kept_classifier(real.training, real.training_sha256, len(CLASS_NAMES), seed, load_settings().cache_dir)
    _, test_features = classify(teacher, real.test.images)
    labels = (np.arange(count) % len(CLASS_NAMES)).astype(np.int32)
    print("| steps | guidance | consistency | diversity | coverage | Frechet distance |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")

    def print_row(name: str, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> None:
        classes, features = classify(teacher, images)
        spreads = [
            spread(features[labels == label]) / spread(test_features[real.test.labels == label])
            for label in range(len(CLASS_NAMES))
        ]
        figures = (
            float(np.mean(classes == labels)),
            float(np.mean(spreads)),
            coverage(test_features[:count], features),
            frechet_distance(features, test_features[:count]),
        )
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)

    print_row("real |", real.training.images[:count], real.training.labels[:count])
    for steps, guidance in settings:
        print_row(f"{steps} | {guidance:g}", make(labels, steps, guidance), labels)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.flow.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="network, ending in .keras")
    parser.add_argument("--steps", type=int, nargs="+", default=[20], help="numbers of steps to try")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0], help="weights of the label to try")
    parser.add_argument("--heun", action="store_true", help="Heun's steps, of two evaluations, instead of Euler's")
    parser.add_argument("--count", type=int, default=60_000, help="samples to make for each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data set's four idx files")
    parser.add_argument("--bfloat16", action="store_true", help="compute samples in bfloat16")
    parser.add_argument("--json", action="store_true", help="print one JSON document, of one setting")
    options = parser.parse_args(arguments)
    try:
        real = RealData(load_training(options.data), load_test(options.data))
    except DataMissingError as error:
        sys.exit(str(error))
    network = load_network(options.model, options.bfloat16)
    # The classifier is the same whatever samples are computed in.
    keras.mixed_precision.set_global_policy("float32")
    settings = list(itertools.product(options.steps, options.guidance))

    def make(labels: NDArray[np.int32], steps: int, guidance: float) -> NDArray[np.uint8]:
        return sample(network, labels, seed=options.seed, steps=steps, guidance=guidance, second_order=options.heun)

    if len(settings) > 1:
        print_table(settings, make, real, options.count, options.seed)
        return
    steps, guidance = settings[0]
    evaluation = evaluate(
        lambda labels: make(labels, steps, guidance), real, options.count, options.seed, load_settings().cache_dir
    )
    if options.json:
        print(json.dumps(evaluation.as_json(), indent=1))
    else:
        print_evaluation(evaluation)


if __name__ == "__main__":
    main()
