"""Judge the network: `python -m training.flow.evaluate MODEL.keras --steps 10 20 --guidance 1 2`.

Prints one row per setting. What the figures mean is said in `pipeline/datasets/evaluation/evaluation.py`.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import keras

from pipeline.common.settings import load_settings
from pipeline.datasets.evaluation.evaluation import Evaluation
from pipeline.datasets.evaluation.real_data import RealData
from training.data import DEFAULT_DATA, DataMissingError, load_test, load_training
from training.evaluate import evaluate
from training.flow.network import build_network
from training.flow.sampling import sample

_COLUMNS = ("tstr", "tstr_of_real", "consistency", "diversity", "coverage", "frechet", "novelty")


def load_network(path: Path, bfloat16: bool) -> keras.Model:
    """The network of a model file that the recipe wrote, to compute in float32 or bfloat16."""
    network = keras.saving.load_model(path, safe_mode=True)
    if not bfloat16:
        return network
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    rebuilt = build_network()
    rebuilt.set_weights(network.get_weights())
    return rebuilt


def _print_row(steps: int, guidance: float, evaluation: Evaluation) -> None:
    figures = evaluation.as_json()
    values = (f"{figures[name]:.3f}" for name in _COLUMNS)
    print(f"| {steps} | {guidance:g} | {' | '.join(values)} |", flush=True)


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
    parser.add_argument("--json", action="store_true", help="print one JSON document per setting instead")
    options = parser.parse_args(arguments)
    try:
        real = RealData(load_training(options.data), load_test(options.data))
    except DataMissingError as error:
        sys.exit(str(error))
    network = load_network(options.model, options.bfloat16)
    # The classifier is the same whatever samples are computed in.
    keras.mixed_precision.set_global_policy("float32")
    if not options.json:
        print(f"| steps | guidance | {' | '.join(_COLUMNS)} |\n|{' ---: |' * (len(_COLUMNS) + 2)}", flush=True)
    for steps, guidance in itertools.product(options.steps, options.guidance):
        evaluation = evaluate(
            lambda labels, steps=steps, guidance=guidance: sample(  # type: ignore[misc]
                network, labels, seed=options.seed, steps=steps, guidance=guidance, second_order=options.heun
            ),
            real,
            options.count,
            options.seed,
            load_settings().cache_dir,
        )
        if options.json:
            print(json.dumps({"steps": steps, "guidance": guidance} | evaluation.as_json()), flush=True)
        else:
            _print_row(steps, guidance, evaluation)


if __name__ == "__main__":
    main()
