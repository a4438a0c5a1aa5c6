"""A dataset that is never stored: its batches, made where they are used, by a process of their own."""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.client.recipes import read_recipe, recipe_generator, recipe_uploads
from pipeline.common.errors import GeneratorError, UsageError, WorkerError, shown
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.common.quantities import MAX_SEED
from pipeline.datasets.destination import Upload
from pipeline.datasets.receipts import EngineRecord
from pipeline.generators import find_generator, find_named_by_data, remember, same_judge
from pipeline.jobs.request import JobRequest
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.order import Order, turn_of

#: Batches of the engine that wait to be used, besides the one in use.
SLOTS = 4
_ALIGNED = 64

Batch = tuple[NDArray[Any], NDArray[np.int32] | None]


def stream(
    source: str | os.PathLike[str] | JobSpec,
    *,
    batch_size: int = 256,
    first: int = 0,
    epochs: int | None = 1,
    shuffle: int | None = None,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    generator: str | None = None,
    trust_generator: bool = False,
    device: str = "auto",
    **options: Any,
) -> Stream:
    """Batches of the dataset of a recipe, of a spec or of a generator, without files.

        for samples, labels in noisemill.stream("out.recipe.json", batch_size=128, epochs=3, shuffle=1): ...
        for samples, labels in noisemill.stream("fashion", count=100_000, seed=7, dtype="uint8"): ...

    They are those that the dataset would hold, bit for bit, as numpy arrays: samples (batch_size, *sample_shape) in the
    stored dtype, labels int32 (batch_size,) or None. A generator takes the options of `generate`, count among them; a
    recipe (a .json file, without count) those of `latents`, `attributes` and `labels` that were too large for it.

    `first`: position to begin at, from 0. `epochs`: passes over the dataset; None repeats it for ever. `shuffle`: seed
    of a random order of the shards, another one in each epoch. `drop_last`: leaves out a last batch that is smaller.
    `rank` and `world_size`: one of several processes that share the samples; each is made by one of them.
    `generator`, `trust_generator`: as for `reproduce`. `device`: "auto", "cpu" or "gpu:N".
    Raises UsageError, GeneratorError, DatasetError.
    """
    _check_numbers(batch_size=batch_size, epochs=epochs, world_size=world_size)
    if type(first) is not int or first < 0:
        raise UsageError(f"first {shown(first)} is not a whole number of at least 0")
    if type(rank) is not int or not 0 <= rank < world_size:
        raise UsageError(f"rank {shown(rank)} is not a whole number from 0 to {world_size - 1}")
    if shuffle is not None and (type(shuffle) is not int or not 0 <= shuffle <= MAX_SEED):
        raise UsageError(f"shuffle {shown(shuffle)} is not a seed, a whole number from 0 to {MAX_SEED}")
    made_by: EngineRecord | None = None
    uploads: list[Upload] = []
    if isinstance(source, JobSpec):
        spec = _checked(source, generator, trust_generator, options)
    elif "count" in options or not os.fspath(source).endswith(".json"):
        spec, uploads = JobRequest(**options).resolve(remember(find_generator(os.fspath(source))))
    else:
        recipe = read_recipe(os.fspath(source))
        if unknown := sorted(set(options) - {"latents", "attributes", "labels"}):
            raise UsageError(f"{unknown[0]}: the recipe {os.fspath(source)} decides that")
        files = {name: options.get(name) for name in ("latents", "attributes", "labels")}
        uploads, made_by = recipe_uploads(recipe, **files), recipe.made_by[0]
        judge = same_judge(recipe.spec, trust=trust_generator)
        named = recipe_generator(recipe, generator, trust=trust_generator)
        spec = replace(recipe.spec, generator=named.reference, judge=judge.reference if judge else None)
    order = Order(first=first, epochs=epochs, shuffle=shuffle, rank=rank, world_size=world_size)
    return Stream(spec, order, batch_size, drop_last=drop_last, device=device, made_by=made_by, uploads=tuple(uploads))


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if (number is None and name != "epochs") or (number is not None and (type(number) is not int or number < 1)):
            raise UsageError(f"{name} {shown(number)} is not a whole number of at least 1")


def _checked(spec: JobSpec, generator: str | None, trust: bool, options: dict[str, Any]) -> JobSpec:
    """A spec with a generator that may be loaded. Raises UsageError, GeneratorError."""
    if options:
        raise UsageError(f"{min(options)}: the spec decides that")
    if spec.user_files():
        raise UsageError(f"the spec needs {', '.join(spec.user_files())}: give the dataset's recipe instead")
    found = find_named_by_data(spec.generator, generator=generator, trust=trust)
    if found.digest != spec.digest:
        raise GeneratorError(f"generator {found.reference!r} is not the spec's: its digest is {found.digest[:19]}...")
    judge = same_judge(spec, trust=trust)
    return replace(spec, generator=found.reference, judge=judge.reference if judge else None)


@dataclass(frozen=True)
class _Piece:
    """Samples in shared memory, until the next one is asked for."""

    samples: NDArray[Any]
    labels: NDArray[np.int32] | None
    position: int


class Stream:
    """Batches without files; see `stream`. Each iteration starts a process, which takes seconds, and begins at `first`.

    Can be pickled. `close`, the end of a `with` block and the end of an iteration end the processes; they also end with
    this one, however it ends.
    """

    def __init__(
        self,
        spec: JobSpec,
        order: Order,
        batch_size: int,
        *,
        drop_last: bool = False,
        device: str = "auto",
        made_by: EngineRecord | None = None,
        uploads: tuple[Upload, ...] = (),
    ) -> None:
        self.spec, self.order, self.batch_size = spec, order, batch_size
        #: Position of the next sample: `first` of a stream that continues this one.
        self.position = order.first
        self._drop_last, self._device, self._made_by, self._uploads = drop_last, device, made_by, uploads
        self._open: weakref.WeakSet[_Maker] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `first` on. Raises WorkerError if the process fails."""
        shape, classes = self.spec.sample_shape, self.spec.classes is not None
        with closing(_Maker(self.spec, self.order, self._device, self._made_by, self._uploads)) as maker:
            self._open.add(maker)
            filled = 0
            samples, labels = np.empty((0, *shape), self.spec.dtype), np.empty(0, np.int32)
            for piece in maker.pieces():
                taken = 0
                while taken < len(piece.samples):
                    if not filled:
                        samples = np.empty((self.batch_size, *shape), self.spec.dtype)
                        labels = np.empty(self.batch_size, np.int32)
                    count = min(self.batch_size - filled, len(piece.samples) - taken)
                    samples[filled : filled + count] = piece.samples[taken : taken + count]
                    if piece.labels is not None:
                        labels[filled : filled + count] = piece.labels[taken : taken + count]
                    filled, taken = filled + count, taken + count
                    if filled == self.batch_size:
                        self.position, filled = piece.position + taken, 0
                        yield samples, labels if classes else None
            if filled and not self._drop_last:
                self.position = piece.position + len(piece.samples)
                yield samples[:filled], labels[:filled] if classes else None

    def shared(self, rank: int, world_size: int) -> Stream:
        """The share of one of `world_size` processes that together have this stream's share."""
        order = replace(
            self.order,
            rank=self.order.rank * world_size + rank,
            world_size=self.order.world_size * world_size,
        )
        return Stream(
            self.spec, order, self.batch_size,
            drop_last=self._drop_last, device=self._device, made_by=self._made_by, uploads=self._uploads,
        )  # fmt: skip

    def close(self) -> None:
        """Ends all iterations."""
        for maker in list(self._open):
            maker.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _rebuilt, (
            self.spec, self.order, self.batch_size, self._drop_last, self._device, self._made_by, self._uploads,
        )  # fmt: skip


def _rebuilt(
    spec: JobSpec,
    order: Order,
    batch_size: int,
    drop_last: bool,
    device: str,
    made_by: EngineRecord | None,
    uploads: tuple[Upload, ...],
) -> Stream:
    return Stream(spec, order, batch_size, drop_last=drop_last, device=device, made_by=made_by, uploads=uploads)


class _Maker:
    """The process that makes the samples, `workers.once.stream`, and the memory that it shares with this one.

    It writes a line per batch to its stdout, and reads from its stdin which parts of the memory are free again. Its
    stdin ends when this process does.
    """

    def __init__(
        self,
        spec: JobSpec,
        order: Order,
        device: str,
        made_by: EngineRecord | None,
        uploads: tuple[Upload, ...],
    ) -> None:
        self._spec = spec
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="noisemill-stream-")
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._memory = _memory_file()
        for upload in uploads:
            (Path(self._folder.name) / upload.name).write_bytes(upload.data)
        batch = made_by.batch if made_by else spec.batch
        request = {
            "spec": spec.to_json(),
            "order": asdict(order),
            "turn": turn_of(batch),
            "device": device,
            "engine": [made_by.engine, made_by.batch] if made_by else None,
            "inputs": self._folder.name,
            "memory": self._memory,
        }
        self._process = subprocess.Popen(
            python_command("workers.once.stream"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            pass_fds=[self._memory],
        )
        self._tell(json.dumps(request))

    def pieces(self) -> Iterator[_Piece]:
        """All that it makes, in order; each is valid until the next."""
        engine_batch = int(self._line())
        shape, dtype = self._spec.sample_shape, np.dtype(self._spec.dtype)
        values = engine_batch * math.prod(shape)
        labels_at = -(-values * dtype.itemsize // _ALIGNED) * _ALIGNED
        slot_bytes = -(-(labels_at + engine_batch * 4) // _ALIGNED) * _ALIGNED
        os.ftruncate(self._memory, SLOTS * slot_bytes)
        memory = mmap.mmap(self._memory, SLOTS * slot_bytes)
        self._tell(f"{slot_bytes} {labels_at}")
        while (line := self._line()) != "end":
            slot, count, position = map(int, line.split())
            start = slot * slot_bytes
            samples = np.frombuffer(memory, dtype, count * math.prod(shape), start).reshape(count, *shape)
            labels = None if self._spec.classes is None else np.frombuffer(memory, np.int32, count, start + labels_at)
            yield _Piece(samples, labels, position)
            self._tell(str(slot))

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # It has ended: `_line` reports why.
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def _line(self) -> str:
        """The next line of the process. Raises WorkerError if it has ended."""
        assert self._process.stdout is not None
        if self._closed:
            raise WorkerError("the stream is closed")
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            return line.decode().strip()
        status = self._process.wait()
        self._messages.seek(0)
        reason = error_from_stderr(self._messages.read().decode(errors="replace"))
        raise WorkerError(f"the stream has ended: {f'killed by signal {-status}' if status < 0 else reason}")

    def close(self) -> None:
        """Ends the process and removes what belongs to it. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._process.kill()
        self._process.wait()
        os.close(self._memory)
        for file in (self._process.stdin, self._process.stdout, self._messages):
            assert file is not None
            with suppress(BrokenPipeError):
                file.close()
        self._folder.cleanup()


def _memory_file() -> int:
    """A file in memory without a name. Unlike /dev/shm, it has no limit of its own in containers."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("noisemill-stream")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
