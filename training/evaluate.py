"""Judge a generator, as `noisemill evaluate` judges a dataset: `python -m training.evaluate MODEL.keras`.

What the figures mean is said in `pipeline/datasets/evaluation/evaluation.py`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.cli.evaluate import print_evaluation
from pipeline.common.settings import load_settings
from pipeline.datasets.evaluation.evaluation import Evaluation
from pipeline.datasets.evaluation.real_data import Labelled, RealData
from training.data import CLASS_NAMES, DEFAULT_DATA, DataMissingError, load_test, load_training
from training.grids import sample
from workers.once.evaluation.figures import compute_metrics


def evaluate(
    make: Callable[[NDArray[np.int32]], NDArray[np.uint8]], real: RealData, count: int, seed: int, cache_dir: Path
) -> Evaluation:
    """Judge `count` samples, the classes in equal numbers and in turn; `make` maps labels to images."""
    labels = (np.arange(count) % len(CLASS_NAMES)).astype(np.int32)
    samples = Labelled(make(labels), labels)
    return compute_metrics(samples, real, CLASS_NAMES, seed=seed, cache_dir=cache_dir)


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
        real = RealData(load_training(options.data), load_test(options.data))
    except DataMissingError as error:
        sys.exit(str(error))
    generator = keras.saving.load_model(options.model, safe_mode=True)
    evaluation = evaluate(
        lambda labels: sample(generator, labels, options.seed),
        real,
        options.count,
        options.seed,
        load_settings().cache_dir,
    )
    if options.json:
        print(json.dumps(evaluation.as_json(), indent=1))
    else:
        print_evaluation(evaluation)


if __name__ == "__main__":
    main()
