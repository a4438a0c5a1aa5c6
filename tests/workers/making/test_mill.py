"""The mill around a stand-in engine (see `tests.making`): faults at every stage, order, memory."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import LedgerError, SampleError, StoreError
from pipeline.stores import Store, open_store
from pipeline.stores.store import Draft, Sink, StoredFile
from tests.making import Made, Shift, StandIn, make_dataset, make_spec, run_mill
from workers.making import mill
from workers.making.mill import Mill, Pace, Work, most_lanes
from workers.making.stage_clock import StageClock


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "d")


def files(store: Store) -> dict[str, str]:
    """Every file below the destination, temporary ones too, with its hash."""
    root = Path(store.url)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


FORMS: list[dict[str, Any]] = [
    {}, {"dtype": "float16"}, {"format": "png", "dtype": "uint8"}, {"format": "tar", "dtype": "uint8"},
    {"format": "tfrecord", "dtype": "uint8"}, {"format": "parquet", "dtype": "uint8"},
    {"format": "null"}, {"classes": None, "labels": None, "sample_shape": (5,)},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_of_a_shard_do_not_depend_on_the_order_of_shards(tmp_path: Path, form: dict[str, Any]) -> None:
    spec = make_spec(**form)
    made = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        store = open_store(tmp_path / str(number))
        shift = run_mill(spec, store, order)
        assert shift.made_shards == order
        made.append(files(store))
    alone = open_store(tmp_path / "alone")
    for index in range(4):
        run_mill(spec, alone, [index])
    assert made[0] == made[1] == files(alone)


def test_batches_begin_at_the_shards_start_and_the_last_is_short(store: Store) -> None:
    engine = StandIn(batch=8)
    run_mill(make_spec(), store, range(4), engine)
    assert engine.sizes == [8, 8, 8, 6] * 3 + [8, 2]


@pytest.mark.parametrize("batch", [1, 7, 29, 30, 31, 512])
def test_any_batch_makes_the_same_shards(tmp_path: Path, batch: int) -> None:
    made = []
    for name, size in (("a", batch), ("b", 8)):
        store = open_store(tmp_path / name)
        run_mill(make_spec(), store, range(4), StandIn(batch=size))
        made.append({name: sha for name, sha in files(store).items() if name.startswith("shards")})
    assert made[0] == made[1]
    assert len(made[0]) == 8


# -- samples that must not be written --------------------------------------------------------------


class Spoiling(StandIn):
    """Makes one sample NaN, infinite or too large, by its place in all that it makes."""

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.at, self.value, self.seen = at, value, 0

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
        made = super().predict(latents, labels)
        if self.seen <= self.at < self.seen + len(latents):
            made.values[self.at - self.seen :, 1, 2] = self.value
        self.seen += len(latents)
        return made


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [30, 37, 45, 59])
def test_the_first_bad_sample_is_named_and_nothing_is_left(store: Store, value: float, at: int) -> None:
    shift = run_mill(make_spec(), store, range(4), Spoiling(at, value))
    assert shift.made_shards == [0, 2, 3] if at != 30 else set(shift.made_shards) <= {0, 2, 3}
    [work] = shift.given_up
    assert isinstance(work.trouble, SampleError)
    assert str(work.trouble) == f"the generator made NaN or infinity: sample {at} is the first"
    assert not any("00000001" in name or name.startswith(".") for name in files(store))


def test_a_value_beyond_float16_is_never_written_as_infinity(store: Store) -> None:
    shift = run_mill(make_spec(dtype="float16"), store, [0], Spoiling(9, 70_000.0))
    assert str(shift.given_up[0].trouble) == "the generator made values that float16 cannot hold: sample 9 is the first"
    assert files(store) == {}


def test_values_beyond_the_range_are_clipped_in_uint8(store: Store) -> None:
    run_mill(make_spec(dtype="uint8"), store, [0], Spoiling(9, 3e38))
    samples = np.load(Path(store.url) / "shards/00000000.npy")
    assert samples[9, 1, 2, 0] == 255


# -- faults ----------------------------------------------------------------------------------------


class Raising(StandIn):
    """Fails at the n-th batch, when it is computed or when it is fetched from the device."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        self.at, self.where = at, where

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Any:
        made = super().predict(latents, labels)
        if len(self.sizes) - 1 != self.at:
            return made
        if self.where == "predict":
            raise RuntimeError("out of memory on the device")
        return self

    def samples(self) -> NDArray[np.float32]:
        raise RuntimeError("out of memory on the device")


@pytest.mark.parametrize("where", ["predict", "fetch"])
@pytest.mark.parametrize("at", range(8))
def test_a_failing_engine_costs_one_shard(store: Store, where: str, at: int) -> None:
    shift = run_mill(make_spec(), store, range(4), Raising(at, where))
    failed = at // 4
    assert [work.shard.index for work in shift.given_up] == [failed]
    assert str(shift.given_up[0].trouble) == "out of memory on the device"
    assert shift.made_shards == [index for index in range(4) if index != failed]
    assert not any(f"0000000{failed}" in name or name.startswith(".") for name in files(store))


class Broken:
    """A store of which every draft fails at its n-th call, counted over all drafts; else as the one behind it."""

    def __init__(self, store: Store, at: int, *, also_discard: bool = False) -> None:
        self.store, self.left, self.also_discard = store, at, also_discard
        self.url = store.url
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def count(self) -> None:
        with self.lock:
            self.left -= 1
            failing = self.left == 0
        if failing:
            raise StoreError("the disk is full")

    def draft(self) -> Draft:
        return BrokenDraft(self, self.store.draft())


class BrokenDraft:
    def __init__(self, broken: Broken, draft: Draft) -> None:
        self._broken, self._draft = broken, draft

    def sink(self, name: str) -> Sink:
        self._broken.count()
        return BrokenSink(self._broken, self._draft.sink(name))

    def add(self, name: str, data: bytes) -> None:
        self._broken.count()
        self._draft.add(name, data)

    def commit(self) -> list[StoredFile]:
        self._broken.count()
        return self._draft.commit()

    def discard(self, *, keep_placed: bool = False) -> None:
        self._draft.discard(keep_placed=keep_placed)
        if self._broken.also_discard and self._broken.left <= 0:
            raise StoreError("the disk is still full")


class BrokenSink:
    def __init__(self, broken: Broken, sink: Sink) -> None:
        self._broken, self._sink = broken, sink

    def write(self, data: Any) -> int:
        self._broken.count()
        return self._sink.write(data)


@pytest.mark.parametrize("at", range(1, 18))
def test_a_store_that_fails_once_costs_one_shard(store: Store, at: int) -> None:
    """Eight calls a shard: sink, header, four batches, labels, commit. Shards overlap."""
    shift = run_mill(make_spec(), Broken(store, at), range(3))
    [failed] = [work.shard.index for work in shift.given_up]
    assert isinstance(shift.given_up[0].trouble, StoreError)
    assert shift.made_shards == [index for index in range(3) if index != failed]
    assert not any(f"0000000{failed}" in name or name.startswith(".") for name in files(store))


def test_a_store_that_cannot_even_clear_away_costs_one_shard(store: Store) -> None:
    shift = run_mill(make_spec(), Broken(store, 3, also_discard=True), [0])
    assert [str(work.trouble) for work in shift.given_up] == ["the disk is full"]


def test_latents_that_cannot_be_read_cost_their_shards(store: Store) -> None:
    shift = run_mill(make_spec(latents="0" * 64), store, range(2))
    assert [work.shard.index for work in shift.given_up] == [0, 1]
    assert "latents.npy is missing" in str(shift.given_up[0].trouble)
    assert files(store) == {}


@pytest.mark.parametrize("method", ["next_work", "still_ours", "made", "gave_up", "stopping"])
def test_a_shift_that_fails_ends_the_run_or_one_shard(store: Store, method: str) -> None:
    """Redis may be gone at any moment: the run must end, with the error, and leave no thread."""
    spec = make_spec()

    class Failing(Shift):
        calls = 0

        def gave_up(self, work: Work) -> None:
            super().gave_up(work)
            if method == "gave_up":
                raise LedgerError("Redis is gone")

    shift = Failing(spec, store, range(4))

    def fail(*_: Any) -> Any:
        Failing.calls += 1
        if Failing.calls == 2:
            raise LedgerError("Redis is gone")
        return original(*_)

    engine: Any = StandIn()
    if method == "gave_up":
        engine = Raising(1, "predict")
    else:
        original = getattr(shift, method)
        setattr(shift, method, fail)
    if method in ("still_ours", "made"):
        run_mill(spec, store, [], engine, shift)
        assert [work.shard.index for work in shift.given_up] == [1]
        assert isinstance(shift.given_up[0].trouble, LedgerError)
        assert shift.made_shards == [0, 2, 3]
    else:
        with pytest.raises(LedgerError, match="Redis is gone"):
            run_mill(spec, store, [], engine, shift)
    assert not any(name.startswith(".") for name in files(store))


def test_ctrl_c_ends_the_run(store: Store) -> None:
    class Interrupted(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            if len(self.sizes) == 5:
                raise KeyboardInterrupt
            return super().predict(latents, labels)

    with pytest.raises(KeyboardInterrupt):
        run_mill(make_spec(), store, range(4), Interrupted())
    assert not any(name.startswith(".") for name in files(store))


# -- leaving ---------------------------------------------------------------------------------------


class Telling(StandIn):
    """Tells the shift to stop at its batch number `at`, from 1; batches of 100."""

    def __init__(self, shift: Shift, at: int) -> None:
        super().__init__(batch=100)
        self.shift, self.at = shift, at

    def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
        if len(self.sizes) + 1 == self.at:
            self.shift.stop = True
        return super().predict(latents, labels)


@pytest.mark.parametrize("at", range(1, 10))
def test_told_to_go_it_leaves_within_a_few_batches_and_gives_back_what_it_had(store: Store, at: int) -> None:
    spec = make_spec(count=3000, shard_size=300)
    shift = Shift(spec, store, range(10))
    engine = Telling(shift, at)
    run_mill(spec, store, [], engine, shift)
    assert len(engine.sizes) == at
    started = {work.shard.index for work in shift.given_up} | set(shift.made_shards)
    assert started == set(range(len(started)))
    assert all(work.trouble is None for work in shift.given_up)
    assert len(shift.made_shards) <= at // 3
    assert not any(name.startswith(".") for name in files(store))
    assert len([name for name in files(store) if name.startswith("shards")]) == 2 * len(shift.made_shards)


def test_told_to_go_before_it_began_it_claims_nothing(store: Store) -> None:
    shift = Shift(make_spec(), store, range(4))
    shift.stop = True
    run_mill(make_spec(), store, [], None, shift)
    assert (shift.made_shards, shift.given_up) == ([], [])


def test_a_shard_that_went_to_another_is_not_put_in_place(store: Store) -> None:
    shift = Shift(make_spec(), store, range(4))
    shift.ours = False
    run_mill(make_spec(), store, [], None, shift)
    assert [work.shard.index for work in shift.given_up] == [0, 1, 2, 3]
    assert files(store) == {}


def test_no_work_at_all(store: Store) -> None:
    assert run_mill(make_spec(), store, []).made_shards == []


# -- memory and time -------------------------------------------------------------------------------


def test_memory_is_bounded_by_a_few_batches(store: Store) -> None:
    """However slow the store is: so many batches at most are on their way, of a shard of 200."""

    class Slow:
        def __init__(self) -> None:
            self.written = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def draft(self) -> Draft:
            slow = self

            class SlowDraft(BrokenDraft):
                def sink(self, name: str) -> Any:
                    inner = super().sink(name)

                    class SlowSink:
                        def write(self, data: Any) -> int:
                            time.sleep(0.002)
                            slow.written += 1
                            return inner.write(data)

                    return SlowSink()

            return SlowDraft(Broken(store, 0), store.draft())

    slow, ahead = Slow(), []

    class Watched(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            ahead.append(len(self.sizes) - slow.written)
            return super().predict(latents, labels)

    run_mill(make_spec(count=1600, shard_size=1600), slow, [0], Watched())
    assert len(ahead) == 200
    assert max(ahead) <= 5
    assert slow.written >= 200


def test_two_batches_at_once_end_in_order(tmp_path: Path) -> None:
    """Each first of two takes longer than the second, which begins before the first ends."""
    together = threading.Barrier(2)

    class Uneven(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            made = super().predict(latents, labels)
            if together.wait(60) == 0:
                time.sleep(0.01)
            return made

    made = []
    for name, engine in (("two", Uneven(at_once=2)), ("one", StandIn())):
        store = open_store(tmp_path / name)
        assert run_mill(make_spec(count=96, shard_size=32), store, range(3), engine).made_shards == [0, 1, 2]
        made.append({name: sha for name, sha in files(store).items() if name.startswith("shards")})
    assert made[0] == made[1]


def test_of_two_batches_at_once_one_fails(store: Store) -> None:
    class Failing(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            if len(latents) == 2:  # The last batch of the last shard.
                raise RuntimeError("out of memory on the device")
            return super().predict(latents, labels)

    shift = run_mill(make_spec(), store, range(4), Failing(at_once=2))
    assert shift.made_shards == [0, 1, 2]
    assert [str(work.trouble) for work in shift.given_up] == ["out of memory on the device"]


def test_stages_overlap(store: Store) -> None:
    """The samples of a batch are not looked at before the next one is being predicted."""
    predicting = [threading.Event() for _ in range(50)]

    class Telling(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            predicting[len(self.sizes)].set()
            made = super().predict(latents, labels)
            return WaitingMade(made.values, predicting[min(len(self.sizes), 49)])

    @dataclass(frozen=True)
    class WaitingMade(Made):
        next_one: threading.Event

        def samples(self) -> NDArray[np.float32]:
            assert self.next_one.wait(600)
            return self.values

    shift = run_mill(make_spec(count=400, shard_size=400, format="null"), store, [0], Telling())
    assert shift.made_shards == [0]


def test_predict_goes_on_while_a_shard_is_put_in_place(store: Store) -> None:
    """The commit of the first of two shards waits until all of the second has been predicted."""
    predicted = threading.Event()

    class Counting(StandIn):
        def predict(self, latents: NDArray[np.float32], labels: NDArray[np.int32] | None) -> Made:
            made = super().predict(latents, labels)
            if len(self.sizes) == 40:
                predicted.set()
            return made

    class Waiting(BrokenDraft):
        def commit(self) -> list[StoredFile]:
            assert predicted.wait(60)
            return super().commit()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def draft(self) -> Draft:
            return Waiting(Broken(store, 0), store.draft())

    shift = run_mill(make_spec(count=320, shard_size=160), Slow(), [0, 1], Counting())
    assert shift.made_shards == [0, 1]


@pytest.mark.parametrize("form", FORMS[:4])
def test_the_time_of_the_store_is_no_encoders(store: Store, form: dict[str, Any]) -> None:
    class Slow(BrokenDraft):
        def sink(self, name: str) -> Sink:
            time.sleep(0.05)
            return super().sink(name)

        def add(self, name: str, data: bytes) -> None:
            time.sleep(0.002)
            super().add(name, data)

    class SlowStore:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def draft(self) -> Draft:
            return Slow(Broken(store, 0), store.draft())

    spec = make_spec(**form)
    shift, engine = Shift(spec, store, [0]), StandIn()
    shift.engine = engine
    mill = Mill(engine, spec, SlowStore(), shift)  # type: ignore[arg-type]
    mill.run()
    mill.wait()
    assert shift.made_shards == [0]
    assert mill.clock.seconds["write"] >= 0.05
    assert 0 <= mill.clock.seconds["encode"] < mill.clock.seconds["write"]


def test_the_clock_hands_out_each_second_once() -> None:
    clock = StageClock()
    clock.add("noise", 1.5)
    with clock.busy("write"):
        time.sleep(0.01)
    taken = clock.take()
    assert taken["noise"] == 1.5
    assert taken["write"] >= 0.01
    assert set(clock.take().values()) == {0.0}


def test_a_mended_dataset_is_the_same_as_one_made_in_one_go(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", make_spec(), finished=False)
    store = open_store(tmp_path / "mended")
    run_mill(make_spec(), store, range(4), Raising(5, "fetch"))
    run_mill(make_spec(), store, [1])
    mended = files(store)
    assert mended == {name: sha for name, sha in files(open_store(whole)).items() if name != "job.json"}


def test_the_clock_counts_what_is_under_way_and_what_overlaps_once() -> None:
    clock = StageClock()
    with clock.busy("predict"), clock.busy("predict"):
        start = time.perf_counter()
        time.sleep(0.02)
        taken = clock.take()["predict"]
        assert 0.02 <= taken <= time.perf_counter() - start + 0.01
        time.sleep(0.01)
    assert 0.01 <= clock.take()["predict"] < taken + time.perf_counter() - start - 0.02


# -- several lanes ---------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another lane is opened after each batch, and none is closed."""
    monkeypatch.setattr(mill, "_OPEN_ABOVE", -1.0)
    monkeypatch.setattr(mill, "_END_BELOW", -1.0)


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_of_a_shard_do_not_depend_on_lanes(tmp_path: Path, eager: None, form: dict[str, Any]) -> None:
    spec = make_spec(count=500, **form)
    made = []
    for lanes in (1, 4):
        store = open_store(tmp_path / str(lanes))
        shift = run_mill(spec, store, range(len(spec.plan)), lanes=lanes)
        assert sorted(shift.made_shards) == list(range(len(spec.plan)))
        made.append({name: sha for name, sha in files(store).items() if name.startswith("shards")})
    assert made[0] == made[1]


def test_several_shards_are_in_progress(store: Store, eager: None) -> None:
    """None of the first three shards gets its labels, which are written last, before the others are that far."""
    together, calls = threading.Barrier(3), itertools.count()

    class Waiting(BrokenDraft):
        def add(self, name: str, data: bytes) -> None:
            if next(calls) < 3:
                together.wait(600)
            super().add(name, data)

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def draft(self) -> Draft:
            return Waiting(Broken(store, 0), store.draft())

    # Each lane claims up to two.
    shift = run_mill(make_spec(count=180), Slow(), range(6), lanes=3)
    assert sorted(shift.made_shards) == list(range(6))


@pytest.mark.parametrize("where", ["predict", "fetch"])
@pytest.mark.parametrize("at", [0, 1, 5, 20])
def test_a_failing_engine_costs_one_shard_of_several(store: Store, eager: None, where: str, at: int) -> None:
    spec = make_spec(count=300)
    shift = run_mill(spec, store, range(10), Raising(at, where), lanes=4)
    [work] = shift.given_up
    assert str(work.trouble) == "out of memory on the device"
    assert sorted([*shift.made_shards, work.shard.index]) == list(range(10))
    assert not any(f"{work.shard.index:08}" in name or name.startswith(".") for name in files(store))


@pytest.mark.parametrize("at", range(1, 60, 7))
def test_a_store_that_fails_once_costs_one_shard_of_several(store: Store, eager: None, at: int) -> None:
    spec = make_spec(count=300)
    shift = run_mill(spec, Broken(store, at), range(10), lanes=4)
    [work] = shift.given_up
    assert isinstance(work.trouble, StoreError)
    assert sorted([*shift.made_shards, work.shard.index]) == list(range(10))
    assert not any(f"{work.shard.index:08}" in name or name.startswith(".") for name in files(store))


@pytest.mark.parametrize("at", [1, 2, 10, 17])
def test_told_to_go_all_lanes_give_back_what_they_had(store: Store, eager: None, at: int) -> None:
    spec = make_spec(count=3000, shard_size=300)
    shift = Shift(spec, store, range(10))
    engine = Telling(shift, at)
    run_mill(spec, store, [], engine, shift, lanes=4)
    assert len(engine.sizes) == at
    started = {work.shard.index for work in shift.given_up} | set(shift.made_shards)
    assert started == set(range(len(started)))
    assert all(work.trouble is None for work in shift.given_up)
    assert not any(name.startswith(".") for name in files(store))
    assert len([name for name in files(store) if name.startswith("shards")]) == 2 * len(shift.made_shards)


@pytest.mark.parametrize("method", ["next_work", "stopping", "gave_up"])
def test_a_shift_that_fails_ends_all_lanes(store: Store, eager: None, method: str) -> None:
    spec = make_spec(count=300)
    shift = Shift(spec, store, range(10))
    original, calls = getattr(shift, method), itertools.count(1)

    def fail(*arguments: Any) -> Any:
        if next(calls) == (1 if method == "gave_up" else 3):
            raise LedgerError("Redis is gone")
        return original(*arguments)

    setattr(shift, method, fail)
    with pytest.raises(LedgerError, match="Redis is gone"):
        run_mill(spec, store, [], Raising(6, "predict") if method == "gave_up" else StandIn(), shift, lanes=4)
    assert not any(name.startswith(".") for name in files(store))


def test_ctrl_c_ends_all_lanes(store: Store, eager: None) -> None:
    """As a signal to the calling thread, while it hands over a batch, which is lost."""
    shift = Shift(make_spec(count=300), store, range(10))
    shift.engine = StandIn()
    whole = Mill(shift.engine, shift.spec, store, shift, 4)
    get, calls = whole._to_predict.get, itertools.count(1)

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole_queue, name)

        def get(self) -> Any:
            taken = get()
            if next(calls) == 7:
                raise KeyboardInterrupt
            return taken

    whole_queue = whole._to_predict
    whole._to_predict = Interrupted()  # type: ignore[assignment]
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        whole.wait()
    assert not any(name.startswith(".") for name in files(store))


def test_a_lane_is_opened_if_makers_keep_their_cores_busy_for_several_batches() -> None:
    pace = Pace()
    assert not any(pace.wants_lane(0.1, 1.0) for _ in range(100))
    assert pace.has_many_lanes
    assert not pace.wants_lane(1.0, 1.0)
    assert [pace.wants_lane(0.01, 0.01) for _ in range(12)].count(True) == 2
    assert not pace.has_many_lanes
    assert not any(pace.wants_lane(0.6, 1.0) for _ in range(100))
    assert not pace.has_many_lanes
    assert not any(pace.wants_lane(0.4, 1.0) for _ in range(100))
    assert pace.has_many_lanes


def test_lanes_follow_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mill, "usable_cores", lambda: 16)
    monkeypatch.setattr(mill, "usable_memory", lambda: 2**40)
    engine: Any = StandIn(batch=512)
    assert most_lanes(engine, make_spec(sample_shape=(28, 28, 1))) == 16
    assert most_lanes(engine, make_spec(sample_shape=(28, 28, 1), format="png", dtype="uint8")) == 1
    assert most_lanes(engine, make_spec(sample_shape=(256, 256, 3))) == 1
    assert 1 < most_lanes(engine, make_spec(sample_shape=(64, 64, 3))) < 16
    monkeypatch.setattr(mill, "usable_memory", lambda: 2**30)
    assert most_lanes(engine, make_spec(sample_shape=(28, 28, 1))) == 3


def test_a_shard_of_which_a_batch_was_skipped_is_given_back(store: Store) -> None:
    """Told to go between two batches at once, of which the second was asked first."""
    shift, calls = Shift(make_spec(), store, [0]), itertools.count(1)

    def stopping() -> bool:
        return threading.current_thread().name.startswith("predict") and next(calls) == 3

    shift.stopping = stopping  # type: ignore[method-assign]
    run_mill(make_spec(), store, [], StandIn(), shift)
    assert [(work.shard.index, work.trouble) for work in shift.given_up] == [(0, None)]
    assert not any(name.startswith(".") for name in files(store))
