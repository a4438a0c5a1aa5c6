"""Judge a generator, as `noisemill evaluate` judges a dataset: `python -m training.evaluate MODEL.keras`.

`pipeline/datasets/evaluation/evaluation.py` defines the figures.
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


def evaluation_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The options that the evaluation of every recipe has."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model file, ending in .keras")
    parser.add_argument("--count", type=int, default=60_000, help="samples to make for each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data set's four idx files")
    parser.add_argument("--json", action="store_true", help="print one JSON document, of one setting")
    return parser


def load_real(folder: Path) -> RealData:
    """Training and test images; ends the command if they are missing."""
    try:
        return RealData(load_training(folder), load_test(folder))
    except DataMissingError as error:
        sys.exit(str(error))


def report(evaluation: Evaluation, *, as_json: bool) -> None:
    """Prints an evaluation."""
    if as_json:
        print(json.dumps(evaluation.as_json(), indent=1))
    else:
        print_evaluation(evaluation)


def main(arguments: list[str] | None = None) -> None:
    options = evaluation_parser("python -m training.evaluate", __doc__).parse_args(arguments)
    real = load_real(options.data)
    generator = keras.saving.load_model(options.model, safe_mode=True)
    evaluation = evaluate(
        lambda labels: sample(generator, labels, options.seed),
        real,
        options.count,
        options.seed,
        load_settings().cache_dir,
    )
    report(evaluation, as_json=options.json)


if __name__ == "__main__":
    main()
