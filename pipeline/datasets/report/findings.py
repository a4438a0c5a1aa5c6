"""The data of a report, from receipts and from a bounded number of samples all over the dataset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.evaluation import Evaluation, saved_evaluation
from pipeline.datasets.receipts import EngineRecord, Receipt, Statistics, merged_statistics
from pipeline.datasets.report.pictures import is_large, shrunk
from pipeline.datasets.report.preview import class_members
from pipeline.formats.image import image_shape
from pipeline.spec.job_spec import JobSpec

#: Limits of the samples that are read: number, bytes as float32, shards.
_SAMPLES, _SAMPLE_BYTES, _SHARDS = 1024, 96 * 2**20, 16
#: Samples shown of each class, and the number of classes shown.
_PER_CLASS, CLASSES = 20, 40
#: The same for large images.
_LARGE_PER_CLASS = 10
_PAIRS = 5
_BINS = 48
#: A gap between two shards longer than this, and than twenty times the median, is a pause, seconds.
_PAUSE_S = 60.0
_READERS = 8


@dataclass(frozen=True)
class Pair:
    """Two samples that look alike."""

    first: int
    second: int
    #: Root mean square difference, as a share of full scale.
    distance: float


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The speed at which samples were made."""

    #: Samples per second in intervals of `step_s` seconds, without pauses; empty if there are too few shards.
    series: tuple[float, ...]
    step_s: float
    #: Seconds of work, and of pauses.
    working_s: float
    paused_s: float
    #: Samples per second overall; None if there is only one shard.
    overall: float | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The data of the page."""

    url: str
    spec: JobSpec
    #: Whether there is a manifest.
    whole: bool
    #: The shards of a partial dataset; None for all.
    selection: str | None
    shards_made: int
    samples_made: int
    size_bytes: int
    statistics: Statistics | None
    made_by: tuple[EngineRecord, ...]
    #: Worker -> number of shards and samples.
    workers: Mapping[str, tuple[int, int]]
    finished_at: float | None
    rate: Rate | None
    stage_seconds: Mapping[str, float]
    #: The samples read: their indices, and their values as stored, (n, *sample_shape).
    indices: tuple[int, ...]
    samples: NDArray[Any]
    #: Label -> some samples of it.
    classes: Mapping[int, NDArray[Any]]
    #: Histogram of the values of the samples read: counts, and edges of the bins.
    histogram: tuple[tuple[int, ...], tuple[float, ...]]
    nearest: tuple[Pair, ...]
    #: Median distance of a sample to its nearest among those read; None for fewer than two.
    nearest_median: float | None
    full_scale: tuple[float, float]
    #: What `evaluate --save` found, and its picture; None if there is none.
    evaluation: tuple[Evaluation, bytes] | None


def gather_findings(dataset: Dataset) -> Findings:
    """Reads receipts and some samples. Raises DatasetError if the files do not match the receipts."""
    spec = dataset.spec
    receipts = dataset.receipts()
    made = sorted(receipts)
    ordered = [receipts[index] for index in made]
    statistics = merged_statistics(ordered) if ordered else None
    indices, samples = _drawn(dataset, made)
    low, high = _full_scale(spec, statistics)
    nearest, median = _nearest(samples, indices, high - low)
    selection = dataset.selection()
    return Findings(
        url=dataset.url,
        spec=spec,
        whole=dataset.whole,
        selection=None if selection is None else str(selection),
        shards_made=len(made),
        samples_made=sum(receipt.count for receipt in ordered),
        size_bytes=sum(receipt.size_bytes for receipt in ordered),
        statistics=statistics,
        made_by=tuple({str(receipt.made_by): receipt.made_by for receipt in ordered}.values()),
        workers=_by_worker(ordered),
        finished_at=max((receipt.finished_at for receipt in ordered), default=None),
        rate=_rate(ordered),
        stage_seconds=dict(sum((Counter(dict(receipt.seconds)) for receipt in ordered), Counter())),
        indices=indices,
        samples=samples,
        classes=_class_samples(dataset, made, indices, samples),
        histogram=_histogram(samples, low, high),
        nearest=nearest,
        nearest_median=median,
        full_scale=(low, high),
        evaluation=saved_evaluation(dataset),
    )


def _drawn(dataset: Dataset, made: Sequence[int]) -> tuple[tuple[int, ...], NDArray[Any]]:
    """Runs of samples from shards all over the dataset, the same at each call."""
    spec = dataset.spec
    if spec.format == "null" or not made:
        return (), np.empty((0, *spec.sample_shape), spec.dtype)
    wanted = max(2, min(_SAMPLES, _SAMPLE_BYTES // max(1, 4 * math.prod(spec.sample_shape))))
    random = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(made) - 1, _SHARDS).astype(int)).tolist()
    length = -(-wanted // len(chosen))
    stretches = []
    for position in chosen:
        shard = dataset.plan[made[position]]
        count = min(length, shard.count)
        stretches.append((shard.first + int(random.integers(0, shard.count - count + 1)), count))
    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(lambda stretch: dataset.samples(*stretch), stretches))
    indices = [first + row for first, count in stretches for row in range(count)]
    return tuple(indices), np.concatenate(parts)


def _class_samples(
    dataset: Dataset, made: Sequence[int], indices: Sequence[int], samples: NDArray[Any]
) -> dict[int, NDArray[Any]]:
    """Some samples of each class: from those read already if they are enough, else searched for."""
    if dataset.spec.classes is None or not len(samples):
        return {}
    rows = {index: row for row, index in enumerate(indices)}
    found = {}
    most = _LARGE_PER_CLASS if is_large(dataset.spec.sample_shape) else _PER_CLASS
    for label, members in list(class_members(dataset, made, most).items())[:CLASSES]:
        if members:
            each = [samples[rows[index]] if index in rows else dataset.samples(index, 1)[0] for index in members]
            found[label] = np.stack(each)
    return found


def _full_scale(spec: JobSpec, statistics: Statistics | None) -> tuple[float, float]:
    if spec.dtype == "uint8":
        return 0.0, 255.0
    if spec.value_range is not None:
        return spec.value_range
    low, high = (statistics.minimum, statistics.maximum) if statistics else (0.0, 1.0)
    return low, high if high > low else low + 1


def _histogram(samples: NDArray[Any], low: float, high: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    counts, edges = np.histogram(samples.astype(np.float32), bins=_BINS, range=(low, high))
    return tuple(counts.tolist()), tuple(edges.tolist())


def _nearest(samples: NDArray[Any], indices: Sequence[int], scale: float) -> tuple[tuple[Pair, ...], float | None]:
    """The most similar pairs, each sample in at most one; images are compared at 32 by 32 at most."""
    if len(samples) < 2:
        return (), None
    features = _features(samples) / scale
    lengths = np.square(features).sum(1)
    squares = lengths[:, None] + lengths - 2 * features @ features.T
    np.fill_diagonal(squares, np.inf)
    # Rounding can make the squared distance of equal samples slightly positive or negative.
    distances = np.sqrt(np.maximum(squares, 0) / features.shape[1])
    distances[distances < 1e-4] = 0
    pairs: list[Pair] = []
    taken: set[int] = set()
    for first in np.argsort(distances.min(1), kind="stable").tolist():
        second = int(distances[first].argmin())
        if first not in taken and second not in taken:
            pairs.append(Pair(indices[first], indices[second], float(distances[first, second])))
            taken |= {first, second}
        if len(pairs) == _PAIRS:
            break
    return tuple(pairs), float(np.median(distances.min(1)))


def _features(samples: NDArray[Any]) -> NDArray[np.float32]:
    if image_shape(samples.shape[1:]) is not None:
        samples = shrunk(samples, 32)
    return samples.reshape(len(samples), -1)[:, :4096].astype(np.float32)


def _by_worker(receipts: Sequence[Receipt]) -> dict[str, tuple[int, int]]:
    shards, samples = Counter[str](), Counter[str]()
    for receipt in receipts:
        shards[receipt.worker] += 1
        samples[receipt.worker] += receipt.count
    return {worker: (shards[worker], samples[worker]) for worker in sorted(shards)}


def _rate(receipts: Sequence[Receipt]) -> Rate | None:
    """The rate, from the times at which shards were finished. Starts at the estimated start of the first shard."""
    if not receipts:
        return None
    ends = sorted((receipt.finished_at, receipt.count, sum(receipt.seconds.values())) for receipt in receipts)
    times = np.array([ends[0][0] - ends[0][2], *(end for end, _, _ in ends)])
    gaps = np.maximum(np.diff(times), 0)
    usual = float(np.median(gaps[1:])) if len(gaps) > 1 else float(gaps[0])
    pauses = gaps > max(_PAUSE_S, 20 * usual)
    pauses[0] = False
    # A shard after a pause is assumed to take as long as the others.
    gaps_worked = np.where(pauses, usual, gaps)
    clock = np.cumsum(gaps_worked)
    working = float(clock[-1])
    counts = np.array([count for _, count, _ in ends])
    series: tuple[float, ...] = ()
    bins = min(40, len(receipts) // 3)
    if bins >= 4 and working > 0:
        made, _ = np.histogram(clock, bins=bins, range=(0, working), weights=counts)
        series = tuple((made / (working / bins)).tolist())
    return Rate(
        series=series,
        step_s=working / bins if series else 0.0,
        working_s=working,
        paused_s=float((gaps - gaps_worked).sum()),
        overall=float(counts.sum() / working) if working > 0 else None,
    )
