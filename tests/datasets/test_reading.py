"""`Dataset` as users of Python read it: indices, slices, iteration, growing datasets, S3, other processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import DatasetError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.finishing import finish_dataset
from pipeline.stores import open_store
from tests.making import make_dataset, make_spec
from tests.servers import S3Server

FORMS: dict[str, dict[str, Any]] = {
    "npy": {},
    "plain": {"classes": None, "labels": None, "sample_shape": (3,)},
    "scalar": {"sample_shape": ()},
    "png": {"format": "png", "dtype": "uint8"},
    "png-class": {"format": "png", "dtype": "uint8", "layout": "class", "labels": "random"},
    "tar": {"format": "tar", "dtype": "uint8"},
    "tfrecord": {"format": "tfrecord", "dtype": "uint8"},
    "parquet": {"format": "parquet", "dtype": "uint8"},
}
SLICES = [
    slice(None), slice(0, 0), slice(25, 65), slice(-7, None), slice(29, 31), slice(90, 500), slice(60, 20),
    slice(None, None, 7), slice(80, 10, -9), slice(None, None, -1), slice(5, 6, 3),
]  # fmt: skip


def copied(folder: Path, destination: str) -> str:
    """The same dataset in S3."""
    source, target = open_store(folder), open_store(destination)
    for entry in source.list():
        target.write(entry.name, source.read(entry.name))
    return destination


def check_reading(dataset: Dataset, whole: Any) -> None:
    """Every way to ask for samples answers what `whole`, all of them read by the format itself, says."""
    labels = dataset.labels()
    for one in SLICES:
        samples, some = dataset[one]
        assert np.array_equal(samples, whole[one])
        assert samples.dtype == whole.dtype
        assert (some is None) == (labels is None)
        assert labels is None or np.array_equal(some, labels[one])  # type: ignore[arg-type]
    for index in (0, 99, -1, -100, 30, 29, np.int64(31)):
        sample, label = dataset[index]  # type: ignore[index]
        assert np.array_equal(sample, whole[index])
        assert label == (None if labels is None else labels[index])
    assert np.array_equal(np.stack([sample for sample, _ in dataset]), whole)
    assert np.array_equal(np.concatenate([samples for samples, _ in dataset.shards()]), whole)
    assert dataset.available == len(dataset) == 100
    assert dataset.latents(7).shape == (1, 8)


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_ask(form: str, tmp_path: Path) -> None:
    spec = make_spec(**FORMS[form])
    dataset = Dataset(make_dataset(tmp_path / "d", spec))
    shards = [
        dataset._format.read(dataset.store, shard, spec.sample_type, dataset.labels(shard.first, shard.count))[0]
        for shard in dataset.plan
    ]
    whole = np.concatenate(shards)
    check_reading(dataset, whole)
    check_reading(Dataset(dataset.url, cache_bytes=0), whole)


@pytest.mark.parametrize("form", ["npy", "tar", "tfrecord", "parquet"])
def test_in_s3(form: str, tmp_path: Path, s3: S3Server) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(**FORMS[form]))
    whole = Dataset(folder).samples(0, 100)
    check_reading(Dataset(copied(folder, s3.destination())), whole)


def test_s3_is_asked_once_for_neighbours(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stores.s3 import S3Store

    dataset = Dataset(copied(make_dataset(tmp_path / "d", make_spec()), s3.destination()))
    opened: list[str] = []
    original = S3Store.open

    def counting(self: S3Store, name: str) -> Any:
        opened.append(name)
        return original(self, name)

    monkeypatch.setattr(S3Store, "open", counting)
    for index in [*range(30), *range(29, -1, -1)]:
        dataset[index]
    assert opened == ["shards/00000000.npy"]


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(format="tar", dtype="uint8", shard_size=10))
    block = 10 * 16
    dataset = Dataset(folder, cache_bytes=3 * block)
    for index in range(0, 100, 3):
        dataset[index]
    kept = dataset._rows._cache
    assert sum(array.nbytes for array in kept.values()) <= 3 * block
    assert [shard for shard, _ in kept] == [7, 8, 9]


def test_local_arrays_are_mapped_and_few_at_a_time(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(shard_size=1, count=80)))
    before = len(os.listdir("/proc/self/fd"))
    for index in range(80):
        dataset[index]
    assert len(dataset._rows._cache) <= 64
    assert all(isinstance(array, np.memmap) for array in dataset._rows._cache.values())
    assert len(os.listdir("/proc/self/fd")) - before <= 70


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec()))
    first = dataset.samples(0, 100).copy()
    for samples in (dataset[3][0], dataset[3:40][0], *(part for part, _ in dataset.shards())):
        samples[...] = 0
    assert np.array_equal(dataset.samples(0, 100), first)


def test_a_growing_dataset(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    held = (folder / "receipts/00000001.json").read_bytes()
    (folder / "receipts/00000001.json").unlink()
    dataset = Dataset(folder)
    assert (len(dataset), dataset.available) == (100, 70)
    assert dataset[0][1] == 0
    assert dataset[-1][1] == 3
    with pytest.raises(DatasetError, match=r"sample 30 of .* has not been made yet"):
        dataset[45]
    with pytest.raises(DatasetError, match="has not been made yet"):
        dataset[20:40]
    assert [label for _, label in dataset] == [*(i % 4 for i in range(30)), *(i % 4 for i in range(60, 100))]
    assert [len(samples) for samples, _ in dataset.shards()] == [30, 30, 10]
    (folder / "receipts/00000001.json").write_bytes(held)
    assert dataset[45][1] == 1
    assert dataset.available == 100
    finish_dataset(str(folder), "j")
    assert dataset.whole


def test_damage_of_a_whole_dataset_is_no_reason_to_skip(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    (folder / "shards/00000002.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"00000002\.npy is malformed: it is empty"):
        list(Dataset(folder))
    data = (folder / "shards/00000001.npy").read_bytes()
    (folder / "shards/00000001.npy").write_bytes(data[:-1])
    with pytest.raises(DatasetError, match=r"00000001\.npy is malformed"):
        Dataset(folder)[30]


def _read_all(dataset: Dataset, queue: Any) -> None:
    queue.put(float(np.stack([dataset[index][0] for index in range(len(dataset))]).sum(dtype=np.float64)))


@pytest.mark.parametrize(("method", "place"), [("fork", "s3"), ("spawn", "local")])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_in_another_process(tmp_path: Path, s3: S3Server, method: str, place: str) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    dataset = Dataset(folder if place == "local" else copied(folder, s3.destination()))
    expected = float(dataset.samples(0, 100).sum(dtype=np.float64))
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_all, args=(dataset, queue))
    child.start()
    assert queue.get(timeout=600) == expected
    child.join(60)
    assert child.exitcode == 0
    assert pickle.loads(pickle.dumps(dataset))[3][1] == 3


def test_indices_that_are_none(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "d", make_spec(count=5)))
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"sample {index} of 5"):
            dataset[index]
    for wrong in ("3", 1.0, None):
        with pytest.raises(TypeError):
            dataset[wrong]  # type: ignore[call-overload]
