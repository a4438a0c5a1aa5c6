"""Makes the samples of a stream: `python -m workers.once.stream`, run by `pipeline.client.stream`.

Reads a request as JSON, writes the engine's batch, reads the layout of the shared memory. Then it writes a line for
each batch, "SLOT COUNT POSITION", and "end" after the last; it reads a line for each slot that is free again. When its
stdin ends, so does it: its parent is gone.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.client.stream import SLOTS
from pipeline.common.errors import GeneratorError
from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.common.settings import load_settings
from pipeline.datasets.inputs import Inputs
from pipeline.datasets.shard_statistics import check_finite
from pipeline.formats.values import to_stored
from pipeline.generators import Choice, find_generator, find_judge
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.order import Order, Piece
from pipeline.stores import open_store
from workers.engine.devices import pin_device

if TYPE_CHECKING:
    from workers.engine.engine import Engine, Prediction

#: Batches of rows that are drawn ahead of prediction.
_ROWS_AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = tuple[Piece, NDArray[np.float32], NDArray[np.int32] | None]


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: Executor, most: int) -> Iterator[Result]:
    """The results in order, of which up to `most` are computed before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def load_engine(spec: JobSpec, device: str, settled: tuple[str, int] | None) -> Engine:
    """The engine of a spec: the one named, or the one that a job would choose here. Raises NoisemillError."""
    generator = find_generator(spec.generator)
    if generator.digest != spec.digest:
        raise GeneratorError(f"generator {generator.reference} changed just now: try again")
    pinned = pin_device(device)
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned: it loads TensorFlow.

    engines = CalibratedEngines(generator, pinned, load_settings().cache_dir)
    if settled is None:
        calibration = engines.calibrate(
            spec.precision, spec.sampling, batch=spec.batch * spec.best_of, samples=spec.count * spec.best_of
        )
        settled = calibration.engine, spec.batch or max(1, calibration.batch // spec.best_of)
    (name, batch), how = settled, (spec.precision, spec.settings, spec.sampling)
    if spec.judge is None:
        return engines.engine(name, batch, *how)
    judge = find_judge(spec.judge)
    if judge.digest != spec.judge_digest:
        raise GeneratorError(f"judge {judge.reference} changed just now: try again")
    return engines.judging_engine(name, batch, *how, Choice(best_of=spec.best_of, judge=judge, enough=spec.enough))


def batches(
    engine: Engine, spec: JobSpec, inputs: Inputs, pieces: Iterable[Piece]
) -> Iterator[tuple[Piece, NDArray[Any], NDArray[np.int32] | None]]:
    """Each piece with its stored samples and its labels. Rows are drawn, and batches predicted, ahead."""

    def draw(piece: Piece) -> Rows:
        return piece, inputs.rows(piece.first, piece.count), inputs.labels(piece.first, piece.count)

    def predict(rows: Rows) -> tuple[Rows, Prediction]:
        return rows, engine.predict(rows[1], rows[2])

    with ThreadPoolExecutor(1) as drawers, ThreadPoolExecutor(engine.at_once) as predictors:
        drawn = ahead(draw, pieces, drawers, _ROWS_AHEAD)
        for (piece, _, labels), prediction in ahead(predict, drawn, predictors, engine.at_once + 1):
            samples = prediction.samples()
            check_finite(samples, piece.first)
            stored = to_stored(samples, spec.dtype, spec.value_range)
            if stored.dtype == np.float16:
                check_finite(stored, piece.first)
            yield piece, stored[piece.skip :], None if labels is None else labels[piece.skip :]


def serve(request: dict[str, Any], lines: queue.Queue[str], say: Callable[[str], None]) -> None:
    """Carries out a request. Raises NoisemillError."""
    spec = JobSpec.from_json(request["spec"])
    engine = load_engine(spec, request["device"], request["engine"] and tuple(request["engine"]))
    say(str(engine.batch))
    slot_bytes, labels_at = map(int, lines.get().split())
    memory = mmap.mmap(request["memory"], SLOTS * slot_bytes)
    free: deque[int] = deque(range(SLOTS))
    pieces = Order(**request["order"]).pieces(spec.plan, engine.batch, request["turn"])
    for piece, samples, labels in batches(engine, spec, Inputs(spec, open_store(request["inputs"])), pieces):
        slot = free.popleft() if free else int(lines.get())
        start = slot * slot_bytes
        np.frombuffer(memory, samples.dtype, samples.size, start)[:] = samples.ravel()
        if labels is not None:
            np.frombuffer(memory, np.int32, len(labels), start + labels_at)[:] = labels
        say(f"{slot} {len(samples)} {piece.position}")
    say("end")


def _read(lines: queue.Queue[str]) -> None:
    """Puts each line of stdin into a queue; ends this process when there are no more."""
    # Unbuffered: Python aborts at its end if a thread waits inside a buffered file.
    with open(0, "rb", buffering=0, closefd=False) as file:
        for line in file:
            lines.put(line.decode())
    os._exit(0)


def main() -> None:
    """Exit code 0 after the last batch; otherwise one line on stderr."""
    # Ctrl-C in a notebook interrupts the reader, which may go on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a model prints must not be taken for ours.
    out = os.dup(1)
    os.dup2(2, 1)
    with exit_on_error():
        request = json.loads(sys.stdin.buffer.readline())  # The next line comes only once `serve` has written one.
        # The model may not be trusted. Before other threads start, to which it would not apply.
        drop_rights(writable=[Path(tempfile.gettempdir()), load_settings().cache_dir], network=True)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(lines,), name="reader", daemon=True).start()

        def say(line: str) -> None:
            os.write(out, f"{line}\n".encode())

        serve(request, lines, say)


if __name__ == "__main__":
    main()
