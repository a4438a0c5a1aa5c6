"""Specs and small datasets for tests, made by the real mill with a stand-in for the engine.

The stand-in computes samples with a few exact operations of numpy: what is tested here is what happens
around the forward pass, TensorFlow would take seconds to start, and tests must be able to say which
sample is to be NaN. The tests in `tests/end_to_end` run the same with real generators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.receipts import EngineRecord, Receipt, Statistics
from pipeline.jobs.ledger import Claim
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from pipeline.stores.store import Store, StoredFile
from workers.engine.engine import Engine
from workers.making.mill import Mill, Work

CLASSES = ("circle", "square", "star", "cross")

_PLAIN: dict[str, Any] = {
    "generator": "/models/tiny.keras",
    "digest": "sha256:" + hashlib.sha256(b"tiny").hexdigest(),
    "count": 100,
    "seed": 7,
    "shard_size": 30,
    "format": "npy",
    "dtype": "float32",
    "layout": "flat",
    "labels": "balanced",
    "noise": "normal",
    "latent_shape": (8,),
    "sample_shape": (4, 4, 1),
    "value_range": (-1.0, 1.0),
    "classes": CLASSES,
}


def make_spec(**changes: Any) -> JobSpec:
    """A sound spec of 100 samples in 4 shards, with changes."""
    return JobSpec(**{**_PLAIN, **changes})


@dataclass(frozen=True)
class Made:
    """Samples that are there already; stands in for `workers.engine.engine.Prediction`."""

    values: NDArray[np.float32]

    def samples(self) -> NDArray[np.float32]:
        return self.values


@dataclass(frozen=True)
class Chosen(Made):
    """The best of several candidates."""

    #: Which won, and the scores of all.
    won: NDArray[np.int32]
    scored: NDArray[np.float64]

    def winners(self) -> NDArray[np.int32]:
        return self.won

    def scores(self) -> NDArray[np.float64]:
        return self.scored


@dataclass
class StandIn:
    """Stands in for `workers.engine.engine.Engine`."""

    sample_shape: tuple[int, ...] = (4, 4, 1)
    batch: int = 8
    at_once: int = 1
    #: Candidates per sample, of which the one with the greatest mean is the best.
    best_of: int = 1
    #: Sizes of the batches that it was given.
    sizes: list[int] = field(default_factory=list)

    @property
    def record(self) -> EngineRecord:
        return EngineRecord(
            engine="tf",
            batch=self.batch,
            precision="float32",
            device="cpu",
            device_name="stand-in",
            versions={"numpy": np.__version__},
        )

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
        self.sizes.append(len(latents))
        if self.best_of == 1:
            return Made(forward(latents, labels, self.sample_shape))
        labels = None if labels is None else np.repeat(labels, self.best_of)
        candidates = forward(latents, labels, self.sample_shape).reshape(-1, self.best_of, *self.sample_shape)
        scores = candidates.astype(np.float64).mean(axis=tuple(range(2, candidates.ndim)))
        winners = scores.argmax(axis=1).astype(np.int32)
        return Chosen(candidates[np.arange(len(winners)), winners], winners, scores)


def forward(
    latents: NDArray[np.float32], labels: NDArray[np.int32] | None, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Samples in [-1, 1], by operations whose results do not depend on the batch's size."""
    columns = np.arange(int(np.prod(shape, dtype=np.int64))) % latents.shape[1]
    values = np.clip(latents[:, columns] * np.float32(0.5), -1, 1)
    if labels is not None:
        values = values * (np.float32(1) - labels[:, None].astype(np.float32) / np.float32(64))
    return values.reshape(len(latents), *shape)


class Shift:
    """The least that a slice does: hands out shards, writes receipts, remembers what it was told."""

    def __init__(self, spec: JobSpec, store: Store, order: Iterable[int]) -> None:
        self.spec, self.store = spec, store
        self.order = iter(order)
        self.engine: Any = None
        self.made_shards: list[int] = []
        self.given_up: list[Work] = []
        self.ours = True
        self.stop = False

    def next_work(self) -> Work | None:
        index = next(self.order, None)
        if index is None:
            return None
        return Work(claim=Claim(shard=index, fence="1", attempt=1), shard=self.spec.plan[index])

    def stopping(self) -> bool:
        return self.stop

    def still_ours(self, work: Work) -> bool:
        return self.ours

    def made(self, work: Work, files: list[StoredFile], statistics: Statistics) -> None:
        receipt = make_receipt(self.spec, work.shard.index, tuple(files), statistics, self.engine.record)
        if work.candidates is not None:
            receipt = replace(receipt, candidates=work.candidates.result())
        self.store.write(shards.receipt_name(receipt.shard), receipt.to_json().encode())
        self.made_shards.append(work.shard.index)

    def gave_up(self, work: Work) -> None:
        self.given_up.append(work)


def make_receipt(
    spec: JobSpec, index: int, files: tuple[StoredFile, ...], statistics: Statistics, record: EngineRecord
) -> Receipt:
    """A receipt of a shard's first attempt."""
    shard = spec.plan[index]
    return Receipt(
        samples_sha256=spec.samples_sha256,
        shard=index,
        first=shard.first,
        count=shard.count,
        files=files,
        statistics=statistics,
        made_by=record,
        attempt=1,
        worker="host-1",
        finished_at=1_700_000_000.5,
    )


def run_mill(
    spec: JobSpec,
    store: Store,
    order: Iterable[int],
    engine: Any = None,
    shift: Shift | None = None,
    lanes: int = 1,
) -> Shift:
    """Makes shards in this order, or with several lanes perhaps at the same time; answers the shift."""
    shift = shift or Shift(spec, store, order)
    shift.engine = engine or StandIn(spec.sample_shape, best_of=spec.best_of)
    mill = Mill(cast(Engine, shift.engine), spec, store, shift, lanes)
    mill.run()
    mill.wait()
    return shift


def make_dataset(
    folder: Path,
    spec: JobSpec,
    *,
    finished: bool = True,
    uploads: dict[str, bytes] | None = None,
    engine: Any = None,
) -> Path:
    """A dataset of this spec in a folder, as a job leaves it; without the last step unless `finished`."""
    store = open_store(folder)
    for name, data in (uploads or {}).items():
        store.write(name, data)
    store.write(shards.JOB, spec.to_json().encode())
    shift = run_mill(spec, store, range(len(spec.plan)), engine)
    assert not shift.given_up, shift.given_up[0].trouble
    if finished:
        finish_dataset(str(folder), spec.job_id(store.url))
    return folder
