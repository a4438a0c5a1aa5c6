"""How long it takes until all is at work again, with the leases, slices and intervals of production."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import Receipt
from tests.end_to_end.fleet import TINY, Fleet
from tests.faults.plugin import faulty
from tests.faults.same import size
from tests.servers import Valkey

PRODUCTION = Settings()
PACE_S = 0.2

#: What is promised, seconds; doubled by the assertions, for a machine that has other things to do.
LEASE_S, RESTART_S, REDIS_S = PRODUCTION.lease_s, 45.0, 15.0


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_recovery(fleet: Fleet, durable_valkey: Valkey, figure: Callable[[str], None]) -> None:
    for name in ("SLICE", "LEASE", "RECONCILE"):
        del fleet.environment[f"NOISEMILL_{name}_S"]
    workers = [fleet.start_worker(ready=False, **faulty(pace_s=PACE_S)) for _ in range(2)]
    fleet.wait_until(lambda: all(fleet.is_up(worker) for worker in workers))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(3000))

    def receipts() -> dict[int, Receipt]:
        return Dataset(fleet.folder / "out").receipts()

    def at_work_again(since: float, timeout_s: float) -> float:
        """Seconds from then until a shard was finished that was begun after it."""
        fleet.wait_until(
            lambda: any(receipt.finished_at > since + PACE_S for receipt in receipts().values()), timeout_s=timeout_s
        )
        return min(one.finished_at for one in receipts().values() if one.finished_at > since + PACE_S) - since

    def done() -> int:
        return int(fleet.json("status", job)["shards_done"])

    # Of two workers, one is lost with all that it held.
    fleet.wait_until(lambda: len({receipt.worker for receipt in receipts().values()}) == 2)
    lost, left = workers
    killed_at, child = time.time(), lost.child
    lost.kill()
    os.kill(child, signal.SIGKILL)
    fleet.wait_until(
        lambda: [one for one in receipts().values() if one.attempt > 1], timeout_s=3 * LEASE_S, told=left.said
    )
    again = [one.finished_at for one in receipts().values() if one.attempt > 1]
    times = sorted(one.finished_at for one in receipts().values() if one.finished_at > killed_at)
    idle_s = max(later - sooner for sooner, later in zip([killed_at, *times], times, strict=False))
    taken_up_s = min(again) - killed_at
    figure(f"a killed worker's shard: made by the other after {taken_up_s:.1f} s, which paused at most {idle_s:.1f} s")
    assert taken_up_s < 2 * LEASE_S
    assert idle_s < LEASE_S / 2

    # Its process dies, the worker starts another.
    killed_at = time.time()
    os.kill(left.child, signal.SIGKILL)
    crashed_s = at_work_again(killed_at, 2 * RESTART_S)
    figure(f"a lone worker whose process was killed: at work again after {crashed_s:.1f} s")

    # The lone worker is lost, and started again.
    left.kill()
    time.sleep(1)
    restarted_at = time.time()
    third = fleet.start_worker(ready=False, **faulty(pace_s=PACE_S))
    restart_s = at_work_again(restarted_at, 2 * RESTART_S)
    figure(f"a lone worker killed and started again: at work again {restart_s:.1f} s after its start")
    assert restart_s < 2 * RESTART_S

    # Valkey is away for a while, in the middle of a slice.
    before = done()
    fleet.wait_until(lambda: done() > before + 5)
    durable_valkey.stop(kill=True)
    time.sleep(5)
    durable_valkey.start()
    back_at = time.time()
    back_s = at_work_again(back_at, 2 * REDIS_S)
    figure(f"Valkey killed and back after 5 s: at work again {back_s:.1f} s later")
    assert back_s < 2 * REDIS_S
    assert third.process.poll() is None
    assert fleet.json("status", job)["failed"] == {}
    fleet.run("cancel", job)
