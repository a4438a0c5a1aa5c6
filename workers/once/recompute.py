"""Computes samples again and compares them with the stored ones: `python -m workers.once.recompute DEST`.

Reads {"indices": [...], "generator": reference} from stdin and writes the comparison as JSON to stdout. It computes
whole batches, aligned like those of the shard, with the engine and batch in its receipt: on the same kind of device the
bits must be the same.
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
from pipeline.generators import find_generator
from workers.engine.devices import pin_device

if TYPE_CHECKING:
    from workers.engine.engine_room import EngineRoom

#: Share of full scale within which engines, batch shapes and devices agree (docs/decisions/0070-how-engines-agree.md)
#: after one pass; of a sampler, what such differences in each pass come to (docs/decisions/0096-samplers.md).
_FLOAT_TOLERANCE = 1e-5
#: The same for reduced precision.
_LOW_PRECISION_TOLERANCE = 5e-2
#: Rounding to a stored type can add a difference of one step.
_STEP = {"float32": 0.0, "float16": 2**-10, "uint8": 1 / 255}


def recompute(destination: str, indices: list[int], reference: str) -> Recomputed:
    """Compares stored samples with new ones, made by the referenced generator.

    Raises NoisemillError if they cannot be computed.
    """
    dataset = Dataset(destination)
    generator = find_generator(reference)
    if generator.digest != dataset.spec.digest:
        raise GeneratorError(f"generator {reference!r} is not the one that made this dataset")
    device = pin_device("auto")
    from workers.engine.engine_room import EngineRoom  # After the device is pinned: it loads TensorFlow.

    return compare(dataset, indices, EngineRoom(generator, device, load_settings().cache_dir))


def compare(dataset: Dataset, indices: list[int], rooms: EngineRoom) -> Recomputed:
    """Compares stored samples with new ones of a loaded generator."""
    identical, largest, widest, different = 0, 0.0, 0.0, []
    for (shard, start), members in _by_batch(dataset, indices).items():
        receipt = dataset.receipt(shard)
        if receipt is None:
            raise DatasetError(f"shard {shard} has no receipt")
        count = min(receipt.made_by.batch, receipt.first + receipt.count - start)
        for index, (difference, tolerance) in _compare_batch(dataset, receipt, start, count, members, rooms).items():
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
        reproducible=rooms.is_reproducible(),
    )


def _compare_batch(
    dataset: Dataset, receipt: Receipt, start: int, count: int, members: list[int], rooms: EngineRoom
) -> dict[int, tuple[float, float]]:
    """Index -> difference from the stored sample and tolerance, as shares of full scale, for samples of one batch."""
    spec, made_by = dataset.spec, receipt.made_by
    one_pass = _FLOAT_TOLERANCE if spec.precision == "float32" else _LOW_PRECISION_TOLERANCE
    engine = rooms.engine(made_by.engine, made_by.batch, spec.precision, spec.settings, spec.sampling)
    fed = dataset.rows(start, count), dataset.labels(start, count)

    def differences(others: dict[int, NDArray[Any]]) -> dict[int, float]:
        return {index: _difference(other, fresh[index - start], spec.value_range) for index, other in others.items()}

    fresh = to_stored(engine.predict(*fed).samples(), spec.dtype, spec.value_range)
    found = differences({index: dataset.samples(index, 1)[0] for index in members})
    tolerances = dict.fromkeys(members, one_pass + _STEP[spec.dtype])
    if spec.sampling is not None and not all(found[index] <= tolerances[index] for index in members):
        # The errors of the passes add up, and the network may amplify them: a disturbed run measures by how much.
        disturbed = rooms.disturbed_engine(engine, one_pass).predict(*fed).samples()
        others = to_stored(disturbed, spec.dtype, spec.value_range)
        for index, moved in differences({index: others[index - start] for index in members}).items():
            tolerances[index] += moved
    return {index: (found[index], tolerances[index]) for index in members}


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
        print(json.dumps(asdict(recompute(sys.argv[1], asked["indices"], asked["generator"]))))


if __name__ == "__main__":
    main()
