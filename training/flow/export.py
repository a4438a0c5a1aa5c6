"""Turn a run's averaged network into a model file: `python -m training.flow.export RUN OUT.keras`."""

import argparse
import sys
from pathlib import Path

import keras
import tensorflow as tf

from training.flow.network import build_network


def load_average(run: Path) -> keras.Model:
    """The averaged network of a run's latest checkpoint, in float32."""
    checkpoint = tf.train.latest_checkpoint(run)
    if checkpoint is None:
        raise FileNotFoundError(f"no checkpoint in {run}: is it a folder that training.flow.train wrote?")
    network = build_network()
    tf.train.Checkpoint(average=network).restore(checkpoint).expect_partial()
    return network


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.flow.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.flow.train wrote")
    parser.add_argument("out", type=Path, help="model file to write, ending in .keras")
    options = parser.parse_args(arguments)
    try:
        load_average(options.run).save(options.out)
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
