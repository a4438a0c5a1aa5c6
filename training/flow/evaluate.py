"""Evaluate the network: `python -m training.flow.evaluate MODEL.keras --steps 5 10 20 50 --guidance 1 1.5 2 3`.

One setting gets every figure of `pipeline/datasets/evaluation/evaluation.py`; several get a row each of those figures
that need no classifier of the samples, below a row of real training images.
"""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.common.settings import load_settings
from pipeline.datasets.evaluation.real_data import RealData
from training.data import CLASS_NAMES
from training.evaluate import evaluate, evaluation_parser, load_real, report
from training.flow.network import build_network
from training.flow.sampling import sample
from workers.once.evaluation.classifier import classify, kept_classifier
from workers.once.evaluation.figures import diversity, frechet_distance
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
        diversities = [
            diversity(features[labels == label], test_features[real.test.labels == label])
            for label in range(len(CLASS_NAMES))
        ]
        figures = (
            float(np.mean(classes == labels)),
            float(np.mean([each for each in diversities if each is not None])),
            coverage(test_features[:count], features),
            frechet_distance(features, test_features[:count]),
        )
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)

    print_row("real |", real.training.images[:count], real.training.labels[:count])
    for steps, guidance in settings:
        print_row(f"{steps} | {guidance:g}", make(labels, steps, guidance), labels)


def main(arguments: list[str] | None = None) -> None:
    parser = evaluation_parser("python -m training.flow.evaluate", __doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20], help="numbers of steps to try")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0], help="weights of the label to try")
    parser.add_argument("--heun", action="store_true", help="Heun's steps, of two evaluations, instead of Euler's")
    parser.add_argument("--bfloat16", action="store_true", help="compute samples in bfloat16")
    options = parser.parse_args(arguments)
    real = load_real(options.data)
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
    report(evaluation, as_json=options.json)


if __name__ == "__main__":
    main()
