"""Converts a dataset to another format: npy, png, tar, tfrecord, parquet, or one npz file.

An export in any format but npz is a dataset like any other, with a spec, receipts and a manifest: those of the job that
would have made the samples in this format. So it is recognized while incomplete, the same command continues it, and
`verify`, `extend` and other commands work on it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.common.errors import UsageError
from pipeline.common.settings import load_settings
from pipeline.common.version import VERSION
from pipeline.datasets.candidates import Candidates, bits_of, pack
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import prepare, spec_as_begun
from pipeline.datasets.export.conversion import FORMS, check_form, converted, exported_spec
from pipeline.datasets.export.npz import NpzArrays, NpzFile, npz_arrays, write_npz
from pipeline.datasets.export.source import Source
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.receipts import Receipt
from pipeline.datasets.shard_statistics import ShardStatistics
from pipeline.formats import FORMATS, library_versions
from pipeline.formats.image import encoder_versions
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.plan import Shard
from pipeline.stores import normalise, open_store
from pipeline.stores.lease import Lease
from pipeline.stores.store import Store

__all__ = ["FORMS", "Exported", "export"]

#: Shards made at the same time: one is read and decoded while another is encoded and written.
_THREADS = 2
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    source: str
    out: str
    form: str
    dtype: str
    count: int
    #: Number of files of samples: shards, or the one npz.
    shards: int
    size_bytes: int
    #: Samples that existed already from an interrupted export.
    count_found: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def export(
    source: str,
    out: str,
    *,
    to: str,
    dtype: str | None = None,
    layout: str | None = None,
    shard_size: int | None = None,
    channels: int | None = None,
    arrays: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Writes a complete dataset in another format to `out`: a new or empty destination, or a new `.npz` file.

    Of an npz file, `channels` is 3 for RGB from grey images, and `arrays` names the two arrays, as "images,labels".
    Every file is checked against its receipt while it is read. `progress` is called with (samples done, samples),
    from any thread. If `out` has the same export, interrupted, it is completed.
    Raises UsageError for an impossible conversion, DatasetError if the source is incomplete or damaged,
    DestinationOccupiedError, DestinationBusyError, StoreError.
    """
    check_form(to)
    _check_apart(normalise(source), normalise(out))
    opened = Source(source, shards_kept=_THREADS + 1)
    if to == "npz":
        for name, value in (("--layout", layout), ("--shard-size", shard_size)):
            if value is not None:
                raise UsageError(f"{name} is not for npz, which is one file")
        if dtype not in (None, "uint8"):
            raise UsageError(f"dtype {dtype}: npz is uint8, as FID tools read it; use --to npy for {dtype}")
        return _to_npz(opened, out, npz_arrays(opened.spec, channels, arrays), progress)
    for name, value in (("--channels", channels), ("--arrays", arrays)):
        if value is not None:
            raise UsageError(f"{name} is only for npz")
    spec = exported_spec(opened.spec, to, dtype=dtype, layout=layout, shard_size=shard_size)
    spec = spec_as_begun(spec, open_store(out))
    store = prepare(spec, out, [])
    with Lease(store, what=f"export of {opened.dataset.url}", ttl_s=load_settings().lease_s).held():
        return _Conversion(opened, spec, store, progress).run()


def _check_apart(source: str, out: str) -> None:
    if out == source:
        raise UsageError(f"{out} is the dataset itself: export it to another destination")
    if out.startswith(source.rstrip("/") + "/"):
        raise UsageError(f"{out} is inside the dataset {source}: export it to another destination")


def _to_npz(source: Source, out: str, arrays: NpzArrays, progress: Callable[[int, int], None] | None) -> Exported:
    file = NpzFile(out)
    file.check_free()
    done = 0

    def count_done(samples: int) -> None:
        nonlocal done
        done += samples
        if progress is not None:
            progress(done, source.spec.count)

    stored = write_npz(source, file, arrays, _origin(source), count_done)
    return Exported(
        source=source.dataset.url,
        out=file.url,
        form="npz",
        dtype="uint8",
        count=source.spec.count,
        shards=1,
        size_bytes=stored.size_bytes,
        count_found=0,
    )


def _origin(source: Source) -> dict[str, Any]:
    """The record of an export's source."""
    return {
        "noisemill": VERSION,
        "exported_from": source.dataset.url,
        "source_spec_sha256": source.spec.sha256,
        "source_index_sha256": source.manifest.index_sha256,
        "source_form": f"{source.spec.format}, {source.spec.dtype}",
        "generator": source.spec.generator_name,
        "digest": source.spec.digest,
        **({"about": source.manifest.about.as_json()} if source.manifest.about else {}),
    }


class _Conversion:
    """One export to a dataset."""

    def __init__(
        self, source: Source, spec: JobSpec, store: Store, progress: Callable[[int, int], None] | None
    ) -> None:
        self._source = source
        self._spec = spec
        self._store = store
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self) -> Exported:
        """Makes missing shards, then does the last step."""
        self._copy_inputs()
        out = Dataset(self._store.url)
        finished = out.finished()
        found = sum(receipt.count for receipt in finished.values())
        self._report_progress(found)
        missing = [shard for shard in self._spec.plan if shard.index not in finished]
        if missing or not out.whole:
            origin = json.dumps(_origin(self._source), sort_keys=True, indent=1) + "\n"
            self._store.write(shards.ORIGIN, origin.encode())
            self._make(missing)
            source = self._source.manifest
            finish_dataset(
                self._store.url,
                self._spec.job_id(self._store.url),
                reproducible=source.reproducible,
                about=source.about,
            )
        manifest = Dataset(self._store.url).manifest()
        assert manifest is not None
        return Exported(
            source=self._source.dataset.url,
            out=self._store.url,
            form=self._spec.format,
            dtype=self._spec.dtype,
            count=self._spec.count,
            shards=manifest.shards,
            size_bytes=manifest.size_bytes,
            count_found=found,
        )

    def _copy_inputs(self) -> None:
        """Copies the user's latents, attributes and labels, which belong to the job."""
        for name in [name for name in self._source.spec.user_files() if not self._store.exists(name)]:
            draft = self._store.draft()
            try:
                sink = draft.sink(name)
                with self._source.dataset.store.open(name) as file:
                    while piece := file.read(_PIECE_BYTES):
                        sink.write(piece)
                draft.commit()
            except BaseException:
                draft.discard()
                raise

    def _make(self, missing: list[Shard]) -> None:
        """Makes a few shards at a time, in order. The first error, or Ctrl-C, ends all."""
        waiting = iter(missing)
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(_THREADS) as threads:
            try:
                while True:
                    while len(running) < _THREADS and (shard := next(waiting, None)) is not None:
                        running.add(threads.submit(self._make_shard, shard))
                    if not running:
                        return
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
            finally:
                self._stop.set()

    def _make_shard(self, shard: Shard) -> None:
        spec = self._spec
        draft = self._store.draft()
        try:
            writer = FORMATS[spec.format].writer(draft, shard, spec.sample_type)
            classes = None if spec.classes is None else len(spec.classes)
            statistics = ShardStatistics(shard.count, classes, first=shard.first)
            first = shard.first
            for samples, labels in self._source.batches(shard.first, shard.count):
                if self._stop.is_set():
                    draft.discard()
                    return
                stored = converted(samples, self._source.spec, spec.dtype, first)
                statistics.add(stored, labels)
                writer.write(stored, labels)
                first += len(samples)
                self._report_progress(len(samples))
            writer.close()
            files = draft.commit()
        except BaseException:
            draft.discard()
            raise
        made_by = self._source.made_by(shard.first)
        receipt = Receipt(
            samples_sha256=spec.samples_sha256,
            shard=shard.index,
            first=shard.first,
            count=shard.count,
            files=tuple(files),
            statistics=statistics.result(),
            made_by=replace(
                made_by, versions={**made_by.versions, **encoder_versions(), **library_versions(spec.format)}
            ),
            attempt=1,
            worker="export",
            finished_at=time.time(),
            candidates=self._candidates(shard),
        )
        self._store.write(shards.receipt_name(shard.index), receipt.to_json().encode())

    def _candidates(self, shard: Shard) -> Candidates | None:
        """Which candidates won, from the source's receipts; with the scores if the shard is the same there."""
        dataset, spec = self._source.dataset, self._spec
        winners = dataset.winners(shard.first, shard.count)
        if winners is None:
            return None
        same = dataset.receipt(shard.index) if spec.shard_size == dataset.spec.shard_size else None
        if same is not None:
            return same.candidates
        below = np.zeros(shard.count, np.int32)
        below[dataset.below_min_score(shard.first, shard.count) - shard.first] = 1
        return Candidates(
            winners=pack(winners, bits_of(spec.best_of)),
            below=None if spec.min_score is None else pack(below, 1),
            scores=None,
        )

    def _report_progress(self, samples: int) -> None:
        with self._lock:
            self._done += samples
            if self._progress is not None:
                self._progress(self._done, self._spec.count)
