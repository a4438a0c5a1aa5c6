"""A stream has the samples of the dataset; its process ends with it. Real processes, real TensorFlow, few of them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noisemill
from pipeline.common.errors import GeneratorError, UsageError, WorkerError
from pipeline.datasets.recipe import recipe_of
from pipeline.spec.order import turn_of

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests/data/tiny.keras")
COUNT, BATCH = 500, 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("NOISEMILL_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def dataset(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> noisemill.Dataset:
    """Four shards with labels from a file, made by a real worker."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "labels.npy", np.random.default_rng(0).integers(0, 4, COUNT).astype(np.int32))
    return noisemill.generate(
        TINY, folder / "out", seed=7, shard_size=150, batch=BATCH, dtype="float16", labels=str(folder / "labels.npy")
    )


@pytest.fixture(scope="module")
def recipe(dataset: noisemill.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "out.recipe.json"
    path.write_text(recipe_of(dataset).to_json(), encoding="utf-8")
    return path


def together(batches: list[Any]) -> tuple[Any, Any]:
    return np.concatenate([samples for samples, _ in batches]), np.concatenate([labels for _, labels in batches])


def test_it_has_the_samples_of_the_dataset(dataset: noisemill.Dataset, recipe: Path) -> None:
    stream = noisemill.stream(recipe, batch_size=90)
    with stream:
        batches = list(stream)
    assert [len(samples) for samples, _ in batches] == [90] * 5 + [50]
    samples, labels = together(batches)
    assert samples.dtype == np.float16
    assert np.array_equal(samples.view(np.uint16), dataset.samples(0, COUNT).view(np.uint16))
    assert np.array_equal(labels, dataset[:][1])  # type: ignore[arg-type]
    assert stream.position == COUNT


def test_it_begins_anywhere_shuffles_shards_and_shares_them(dataset: noisemill.Dataset, recipe: Path) -> None:
    whole = noisemill.stream(recipe, batch_size=64, first=333, epochs=3, shuffle=5, drop_last=True)
    share = pickle.loads(pickle.dumps(whole.shared(1, 2)))
    pieces = list(share.order.pieces(dataset.plan, BATCH, turn_of(BATCH)))
    rows = [index for each in pieces for index in range(each.first + each.skip, each.first + each.count)]
    rows = rows[: len(rows) // 64 * 64]
    samples, labels = together(list(share))
    assert 300 < len(rows) < 1200
    assert np.array_equal(samples, dataset.samples(0, COUNT)[rows])
    assert np.array_equal(labels, dataset.labels()[rows])  # type: ignore[index]


def test_a_process_ends_with_its_iteration_and_its_reader(cache: Path, tmp_path: Path) -> None:
    """Here the reader is killed in the middle; before that, an iteration of its own was left."""
    code = f"""
import noisemill, os
stream = noisemill.stream({TINY!r}, count=10_000, epochs=None)
pids = []
for _ in range(2):
    batches = iter(stream)
    next(batches)
    [maker] = stream._open
    pids.append(maker._process.pid)
    if len(pids) == 1:
        stream.close()
        gone = not os.path.exists(f"/proc/{{pids[0]}}")
        try:
            list(batches)
        except noisemill.NoisemillError as error:
            said = str(error)
        del maker, batches
print(pids[1], gone, said, flush=True)
import time; time.sleep(600)
"""
    reader = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert reader.stdout is not None
        pid, gone, said = reader.stdout.readline().split(maxsplit=2)
        assert (gone, said) == ("True", "the stream is closed\n")
    finally:
        reader.kill()
        reader.wait()
        if reader.stdout is not None:
            reader.stdout.close()
    deadline = time.monotonic() + 600
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(pid), 0)
            time.sleep(0.05)
    assert time.monotonic() < deadline


def test_what_fails_in_the_process_is_told_in_one_line(cache: Path) -> None:
    with pytest.raises(WorkerError) as failure:
        next(iter(noisemill.stream(TINY, count=100, device="gpu:77")))
    assert str(failure.value).startswith("the stream has ended: ")
    assert "gpu:77" in str(failure.value)
    assert "\n" not in str(failure.value)
    stream = noisemill.stream(TINY, count=100_000)
    batches = iter(stream)
    next(batches)
    [maker] = stream._open
    maker._process.send_signal(signal.SIGKILL)
    with pytest.raises(WorkerError, match="the stream has ended: killed by signal 9"):
        list(batches)


def test_wrong_use_is_refused_before_a_process_starts(recipe: Path, dataset: noisemill.Dataset, cache: Path) -> None:
    for options, problem in (
        ({"batch_size": 0}, "batch_size 0 is not a whole number of at least 1"), ({"epochs": 0}, "epochs 0"),
        ({"first": -1}, "first -1"), ({"rank": 2, "world_size": 2}, "rank 2 is not a whole number from 0 to 1"),
        ({"shuffle": -1}, "shuffle -1"), ({"shuffle": True}, "shuffle True"), ({"seed": 3}, "seed: the recipe"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=problem):
            noisemill.stream(recipe, **options)
    with pytest.raises(UsageError, match=r"the spec needs labels\.npy: give the dataset's recipe"):
        noisemill.stream(dataset.spec)
    plain = replace(dataset.spec, labels="balanced")
    assert noisemill.stream(plain).spec == plain
    with pytest.raises(GeneratorError, match="is not the spec's"):
        noisemill.stream(replace(plain, digest="sha256:" + "0" * 64))
    with pytest.raises(UsageError, match="count"):
        noisemill.stream(TINY)
    damaged = recipe.with_name("damaged.json")
    damaged.write_text(json.dumps({**json.loads(recipe.read_text()), "noisemill": "?"}))
    with pytest.raises(noisemill.NoisemillError, match="damaged"):
        noisemill.stream(damaged)
