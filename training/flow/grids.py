"""A contact sheet of the network's samples: `python -m training.flow.grids MODEL.keras OUT.png`."""

import argparse
from pathlib import Path

import keras

from training.flow.sampling import sample
from training.grids import write_contact_sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.flow.grids", description=__doc__)
    parser.add_argument("model", type=Path, help="network, ending in .keras")
    parser.add_argument("out", type=Path, help="picture to write, ending in .png")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    network = keras.saving.load_model(options.model, safe_mode=True)
    write_contact_sheet(
        lambda labels: sample(network, labels, seed=options.seed, steps=options.steps, guidance=options.guidance),
        options.out,
    )


if __name__ == "__main__":
    main()
