"""Turn a run's averaged generator into an inference model: `python -m training.export RUN OUT.keras`."""

import argparse
import sys
from pathlib import Path

import keras
import tensorflow as tf

from training import networks
from training.averaging import measure_batch_norms


def load_average(run: Path, batches: int) -> keras.Model:
    """The averaged generator of a run's latest checkpoint, in float32, its batch statistics measured anew."""
    checkpoint = tf.train.latest_checkpoint(run)
    if checkpoint is None:
        raise FileNotFoundError(f"no checkpoint in {run}: is it a folder that training.train wrote?")
    generator = networks.build_generator()
    tf.train.Checkpoint(average=generator).restore(checkpoint).expect_partial()
    measure_batch_norms(generator, batches)
    return generator


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.train wrote")
    parser.add_argument("out", type=Path, help="model file to write, ending in .keras")
    parser.add_argument("--batches", type=int, default=16, help="batches of 500 samples to measure statistics over")
    options = parser.parse_args(arguments)
    try:
        load_average(options.run, options.batches).save(options.out)
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
