"""Predicts a few samples: `python -m workers.once.sample FOLDER`.

Run as a process of its own by `pipeline.generators.sampling`, which leaves rows (and labels) in the folder. With `-`
for the folder it reads folders from stdin, one per line, and prints a line when each is done; it keeps the last
generators.
Engine and batch are those of a job on this machine, so that the same bits come out.
"""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError, NoisemillError, SampleError, one_line
from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.common.settings import load_settings
from pipeline.generators import Choice, Generator, find_generator, find_judge, sampling
from pipeline.spec.sampler import parse_sampler
from workers.engine.devices import pin_device

if TYPE_CHECKING:
    from workers.engine.calibration import CalibratedEngines
    from workers.engine.engine import Engine

#: Generators that are kept, and the time without a folder after which the process ends, seconds.
_KEPT, _IDLE_S = 2, 600.0


class Samples:
    """Makes samples, and keeps the generators that it has loaded."""

    def __init__(self) -> None:
        self._device = pin_device("auto")
        self._engines: OrderedDict[str, CalibratedEngines] = OrderedDict()

    def make(self, folder: Path) -> None:
        """Makes the samples of the rows in a folder. Raises NoisemillError."""
        np.save(folder / sampling.SAMPLES, self._predict(folder))

    def _predict(self, folder: Path) -> NDArray[np.float32]:
        request = json.loads((folder / sampling.REQUEST).read_text())
        generator = find_generator(request["generator"])
        if generator.digest != request["digest"]:
            raise GeneratorError(f"generator {generator.reference} changed just now: try again")
        rows = np.load(folder / sampling.ROWS)
        labels = np.load(folder / sampling.LABELS) if (folder / sampling.LABELS).exists() else None
        sampler = parse_sampler(request["sampler"]) if request["sampler"] else None
        engines = self._engines_of(generator)
        engine = engines.quick_engine(generator.settings(request["settings"]), sampler)
        if request["judge"]:
            return _checked(_winner(engines, engine, request, rows, labels, folder), generator)
        pieces = [
            engine.predict(
                rows[first : first + engine.batch], None if labels is None else labels[first:][: engine.batch]
            )
            for first in range(0, len(rows), engine.batch)
        ]
        return _checked(np.concatenate([piece.samples() for piece in pieces]), generator)

    def _engines_of(self, generator: Generator) -> CalibratedEngines:
        from workers.engine.calibration import CalibratedEngines  # After the device is pinned: it loads TensorFlow.

        if generator.digest not in self._engines:
            self._engines[generator.digest] = CalibratedEngines(generator, self._device, load_settings().cache_dir)
        self._engines.move_to_end(generator.digest)
        while len(self._engines) > _KEPT:
            self._engines.popitem(last=False)
        return self._engines[generator.digest]


def _winner(
    engines: CalibratedEngines,
    engine: Engine,
    request: dict[str, Any],
    rows: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    folder: Path,
) -> NDArray[np.float32]:
    """The best of the candidates in the rows; leaves its number and its score in the folder."""
    judge = find_judge(request["judge"])
    if judge.digest != request["judge_digest"]:
        raise GeneratorError(f"judge {judge.reference} changed just now: try again")
    choice = Choice(best_of=request["best_of"], judge=judge, enough=request["enough"])
    batch, how = max(1, engine.batch // choice.best_of), (engine.precision, engine.settings, engine.sampler)
    made = engines.judging_engine(engine.engine, batch, *how, choice).predict(rows, labels)
    winner = int(made.winners()[0])
    np.save(folder / sampling.WINNER, np.array([winner, made.scores()[0, winner]]))
    return made.samples()


def _checked(samples: NDArray[np.float32], generator: Generator) -> NDArray[np.float32]:
    """The samples. Raises SampleError if one is not finite."""
    if not np.isfinite(samples).all():
        raise SampleError(f"generator {generator.reference} makes NaN or infinity of this latent")
    return samples


def _make_many() -> None:
    """Makes the samples of folders whose names come from stdin, until it is closed or for long says nothing."""
    # Only replies go to the caller's pipe; what libraries print goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    samples = Samples()
    while select.select([sys.stdin], [], [], _IDLE_S)[0] and (line := sys.stdin.readline()):
        try:
            samples.make(Path(line.rstrip("\n")))
            reply = sampling.DONE
        except NoisemillError as error:
            reply = one_line(error)
        print(reply, file=replies, flush=True)


def main() -> None:
    """Exit code 0 with the samples in the folder; otherwise one line."""
    name = sys.argv[1]
    with exit_on_error():
        many = name == sampling.MANY
        # The model may not be trusted: for example that of a schedule, whose range is measured.
        folders = [Path(tempfile.gettempdir()), load_settings().cache_dir]
        drop_rights(writable=folders if many else [*folders, Path(name)], network=True)
        if many:
            _make_many()
        else:
            Samples().make(Path(name))


if __name__ == "__main__":
    main()
