"""Computes samples again and compares them with the stored ones: `python -m workers.once.recompute DEST`.

Reads {"indices": [...], "generator": reference, "judge": reference or null} from stdin and writes the comparison as
JSON to stdout. It computes whole batches, aligned like those of the shard, with the engine and batch in its receipt: on
the same kind of device the bits must be the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, GeneratorError
from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.common.settings import load_settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import Receipt
from pipeline.datasets.verification import Recomputed
from pipeline.formats.values import to_stored
from pipeline.generators import Choice, Judge, find_generator, find_judge
from pipeline.spec.job_spec import JobSpec
from workers.engine.devices import pin_device

if TYPE_CHECKING:
    from workers.engine.calibration import CalibratedEngines
    from workers.engine.engine import Engine

#: Share of full scale within which engines, batch shapes and devices agree (docs/decisions/0070-how-engines-agree.md)
#: after one pass; of a sampler, what such differences in each pass come to (docs/decisions/0096-samplers.md).
_FLOAT_TOLERANCE = 1e-5
#: The same for reduced precision.
_LOW_PRECISION_TOLERANCE = 5e-2
#: Difference between the ranks of two candidates, as a share of the greater one or of 1, below which either may win:
#: a judge may amplify what engines differ by (docs/decisions/0101-best-of.md).
_RANK_TOLERANCE = 100 * _FLOAT_TOLERANCE
_MOST_RANK_TOLERANCE = 0.5
#: In place of infinity.
_HUGE = 1e300
#: Rounding to a stored type can add a difference of one step.
_STEP = {"float32": 0.0, "float16": 2**-10, "uint8": 1 / 255}


def recompute(destination: str, indices: list[int], reference: str, judge: str | None = None) -> Recomputed:
    """Compares stored samples with new ones, made by the referenced generator and chosen by the referenced judge.

    Raises NoisemillError if they cannot be computed.
    """
    dataset = Dataset(destination)
    generator = find_generator(reference)
    if generator.digest != dataset.spec.digest:
        raise GeneratorError(f"generator {reference!r} is not the one that made this dataset")
    judging = None if judge is None else find_judge(judge)
    if dataset.spec.judge_digest != (judging.digest if judging else None):
        raise GeneratorError(f"judge {judge!r} is not the one that chose the samples of this dataset")
    device = pin_device("auto")
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned: it loads TensorFlow.

    return compare(dataset, indices, CalibratedEngines(generator, device, load_settings().cache_dir), judging)


def compare(dataset: Dataset, indices: list[int], engines: CalibratedEngines, judge: Judge | None = None) -> Recomputed:
    """Compares stored samples with new ones of a loaded generator."""
    identical, largest, widest, different = 0, 0.0, 0.0, []
    for (shard, start), members in _by_batch(dataset, indices).items():
        receipt = dataset.receipt(shard)
        if receipt is None:
            raise DatasetError(f"shard {shard} has no receipt")
        count = min(receipt.made_by.batch, receipt.first + receipt.count - start)
        for index, (difference, tolerance) in _compare_batch(
            dataset, receipt, start, count, members, engines, judge
        ).items():
            identical += difference == 0
            largest, widest = max(largest, difference), max(widest, tolerance)
            if not difference <= tolerance:
                different.append(index)
    return Recomputed(
        samples=len(indices),
        identical=identical,
        largest_difference=largest,
        different=tuple(different),
        tolerance=widest,
        reproducible=engines.is_reproducible(),
    )


def _compare_batch(
    dataset: Dataset,
    receipt: Receipt,
    start: int,
    count: int,
    members: list[int],
    engines: CalibratedEngines,
    judge: Judge | None,
) -> dict[int, tuple[float, float]]:
    """Index -> difference from the stored sample and tolerance, as shares of full scale, for samples of one batch.

    The recorded winners are computed again. One that the judge does not find the best now, by more than rounding
    explains, differs by full scale.
    """
    spec = dataset.spec
    one_pass = _FLOAT_TOLERANCE if spec.precision == "float32" else _LOW_PRECISION_TOLERANCE
    samples, ranks = _computed(dataset, receipt, start, count, engines, judge)
    fresh = to_stored(samples, spec.dtype, spec.value_range)
    winners = dataset.winners(start, count)

    def differences(others: dict[int, NDArray[Any]]) -> dict[int, float]:
        return {index: _difference(other, fresh[index - start], spec.value_range) for index, other in others.items()}

    found = differences({index: dataset.samples(index, 1)[0] for index in members})
    tolerances = dict.fromkeys(members, one_pass + _STEP[spec.dtype])
    behind = np.zeros(count)
    if ranks is not None and winners is not None and judge is not None:
        behind = _behind(ranks, winners, _choice(spec, judge).enough_rank)
    allowed = np.full(count, min(_RANK_TOLERANCE * one_pass / _FLOAT_TOLERANCE, _MOST_RANK_TOLERANCE))
    rows = [index - start for index in members]
    close = all(found[index] <= tolerances[index] for index in members) and (behind[rows] <= allowed[rows]).all()
    if spec.sampling is not None and not close:
        # The errors of the passes add up, and the network may amplify them: a disturbed run measures by how much.
        disturbed, other_ranks = _computed(dataset, receipt, start, count, engines, judge, disturbance=one_pass)
        others = to_stored(disturbed, spec.dtype, spec.value_range)
        for index, moved in differences({index: others[index - start] for index in members}).items():
            tolerances[index] += moved
        if ranks is not None and other_ranks is not None:
            allowed += 2 * _largest_move(ranks, other_ranks)
    return {
        index: (found[index] if behind[index - start] <= allowed[index - start] else 1.0, tolerances[index])
        for index in members
    }


def _computed(
    dataset: Dataset,
    receipt: Receipt,
    start: int,
    count: int,
    engines: CalibratedEngines,
    judge: Judge | None,
    disturbance: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The samples of a batch, and the ranks of their candidates, if any: of these, the recorded winners' samples.

    With a `disturbance`, each prediction of a denoiser is disturbed at random.
    """
    spec, made_by = dataset.spec, receipt.made_by
    rows, labels = dataset.rows(start, count), dataset.labels(start, count)
    how = (spec.precision, spec.settings, spec.sampling)

    def maybe_disturbed(engine: Engine) -> Engine:
        return engines.disturbed_engine(engine, disturbance) if disturbance else engine

    winners = dataset.winners(start, count)
    if winners is None or judge is None:
        return maybe_disturbed(engines.engine(made_by.engine, made_by.batch, *how)).predict(
            rows, labels
        ).samples(), None
    judging = engines.judging_engine(made_by.engine, made_by.batch, *how, _choice(spec, judge))
    judged = maybe_disturbed(judging).predict(rows, labels)
    samples = judged.samples().copy()
    others = judged.winners() != winners
    if others.any():
        # All candidates again, so that the pass has the same shape.
        plain = maybe_disturbed(engines.engine(judging.engine, made_by.batch * spec.best_of, *how))
        each = plain.predict(rows, None if labels is None else np.repeat(labels, spec.best_of)).samples()
        samples[others] = each[(np.arange(count) * spec.best_of + winners)[others]]
    return samples, judged.ranks()


def _choice(spec: JobSpec, judge: Judge) -> Choice:
    return Choice(best_of=spec.best_of, judge=judge, enough=spec.enough)


def _behind(ranks: NDArray[np.float32], winners: NDArray[np.int32], enough: float) -> NDArray[np.float64]:
    """How far the recorded winners are behind the best candidates, as shares of the best rank or of 1.

    From the rank `enough` on, a winner is behind if a candidate before it is beyond that rank.
    """
    ranks = np.nan_to_num(ranks.astype(np.float64), nan=-_HUGE, posinf=_HUGE, neginf=-_HUGE)
    best, own = ranks.max(axis=1), ranks[np.arange(len(ranks)), winners]
    behind = np.minimum(best, enough) - np.minimum(own, enough)
    if enough < np.inf:
        before = np.where(np.arange(ranks.shape[1]) < winners[:, None], ranks, -_HUGE).max(axis=1)
        behind = np.maximum(behind, before - enough)
    shares: NDArray[np.float64] = behind / np.maximum(1, np.abs(best))
    return shares


def _largest_move(ranks: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the ranks of a sample's candidates are from others, as in `_behind`."""
    wide = np.nan_to_num(ranks.astype(np.float64), nan=0, posinf=0, neginf=0)
    moved = np.abs(wide - np.nan_to_num(others.astype(np.float64), nan=0, posinf=0, neginf=0)).max(axis=1)
    shares: NDArray[np.float64] = moved / np.maximum(1, np.abs(wide.max(axis=1)))
    return shares


def _by_batch(dataset: Dataset, indices: list[int]) -> dict[tuple[int, int], list[int]]:
    """The batches that must be computed: (shard, first sample of the batch) -> indices."""
    batches: dict[tuple[int, int], list[int]] = defaultdict(list)
    sizes: dict[int, int] = {}
    for index in indices:
        shard = dataset.plan[index // dataset.spec.shard_size]
        if shard.index not in sizes:
            receipt = dataset.receipt(shard.index)
            sizes[shard.index] = receipt.made_by.batch if receipt else 1
        start = shard.first + (index - shard.first) // sizes[shard.index] * sizes[shard.index]
        batches[shard.index, start].append(index)
    return batches


def _difference(stored: NDArray[Any], fresh: NDArray[Any], value_range: tuple[float, float] | None) -> float:
    """Greatest difference between two samples, as a share of full scale."""
    if stored.dtype == np.uint8:
        full_scale = 255.0
    elif value_range is not None:
        full_scale = value_range[1] - value_range[0]
    else:
        full_scale = float(np.abs(stored).max()) or 1.0
    return float(np.abs(stored.astype(np.float64) - fresh.astype(np.float64)).max()) / full_scale


def main() -> None:
    """Exit code 0 with the comparison on stdout, whatever its result; 1 if there is none."""
    with exit_on_error():
        drop_rights(writable=[Path(tempfile.gettempdir()), load_settings().cache_dir], network=True)
        asked = json.load(sys.stdin)
        print(json.dumps(asdict(recompute(sys.argv[1], asked["indices"], asked["generator"], asked["judge"]))))


if __name__ == "__main__":
    main()
