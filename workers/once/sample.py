"""Predicts a few samples: `python -m workers.once.sample FOLDER`.

Run as a process of its own by `pipeline.generators.sampling`, which leaves rows (and labels) in the folder.
Engine and batch are those of a job on this machine, so that the same bits come out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError, SampleError
from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.common.settings import load_settings
from pipeline.generators import find_generator, sampling
from pipeline.spec.sampler import parse_sampler
from workers.engine.devices import pin_device


def sample(folder: Path) -> NDArray[np.float32]:
    """The samples of the rows in a folder. Raises NoisemillError."""
    request = json.loads((folder / sampling.REQUEST).read_text())
    generator = find_generator(request["generator"])
    if generator.digest != request["digest"]:
        raise GeneratorError(f"generator {generator.reference} changed just now: try again")
    rows = np.load(folder / sampling.ROWS)
    labels = np.load(folder / sampling.LABELS) if (folder / sampling.LABELS).exists() else None
    device = pin_device("auto")
    from workers.engine.engine_room import EngineRoom  # After the device is pinned: it loads TensorFlow.

    rooms = EngineRoom(generator, device, load_settings().cache_dir)
    sampler = parse_sampler(request["sampler"]) if request["sampler"] else None
    engine = rooms.quick_engine(generator.settings(request["settings"]), sampler)
    pieces = [
        engine.predict(rows[first : first + engine.batch], None if labels is None else labels[first:][: engine.batch])
        for first in range(0, len(rows), engine.batch)
    ]
    samples = np.concatenate([piece.samples() for piece in pieces])
    if not np.isfinite(samples).all():
        raise SampleError(f"generator {generator.reference} makes NaN or infinity of this latent")
    return samples


def main() -> None:
    """Exit code 0 with the samples in the folder; otherwise one line."""
    folder = Path(sys.argv[1])
    with exit_on_error():
        # The model may not be trusted: for example that of a schedule, whose range is measured.
        drop_rights(writable=[Path(tempfile.gettempdir()), folder, load_settings().cache_dir], network=True)
        np.save(folder / sampling.SAMPLES, sample(folder))


if __name__ == "__main__":
    main()
