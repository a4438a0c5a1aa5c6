"""Shards that always fail, whatever way, and generators that take the process with them while they load."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipeline.spec.latents import latents
from tests.end_to_end.fleet import TINY, Fleet
from tests.faults.plugin import faulty
from tests.faults.same import SHARD, assert_same, make_quietly, size

pytestmark = pytest.mark.timeout(600)

SHARDS = 12
POISON = 5

SAID = {
    "nan": "sample 550 ",
    "memory": "Unable to allocate",
    "kill": "died while it made this shard: a crash, or out of memory",
    "segfault": "died while it made this shard: a crash, or out of memory",
}


def poison(how: str) -> dict[str, Any]:
    """A generator that cannot bear the latent of one sample."""
    return {"latent": {"value": float(latents(9, POISON * SHARD + 50, 1, 8)[0, 0]), "how": how}}


@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how == "nan" else pytest.mark.faults) for how in SAID])
def test_it_is_tried_three_times_then_set_aside_and_resume_tries_again(fleet: Fleet, how: str) -> None:
    ill = fleet.start_worker(**faulty(**poison(how)))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(SHARDS))
    watched = fleet.watch(job)
    assert watched.returncode == 1
    assert watched.stderr.splitlines()[-2].startswith(
        f"noisemill: job {job} failed: 1 of {SHARDS} shards, the first is {POISON}: "
    )
    assert watched.stderr.splitlines()[-1] == f"'noisemill resume {fleet.folder}/out' tries them again"
    status = fleet.run("status", job)
    assert status.returncode == 1
    assert SAID[how] in status.stdout
    state = fleet.json("status", job)
    # The others are whole, however often it took its process along.
    assert (state["state"], state["shards_done"], list(state["failed"])) == ("failed", SHARDS - 1, [str(POISON)])
    assert SAID[how] in state["failed"][str(POISON)]
    if how in ("nan", "memory"):
        assert [f"shard {POISON} attempt {attempt} failed" in ill.said() for attempt in range(1, 5)] == [True] * 3 + [
            False
        ]
    else:
        assert ill.said().count("exited with 'signal") == 3
    assert ill.stop() == 0
    fleet.start_worker()
    again = fleet.run("resume", "out").stdout.strip()
    assert fleet.watch(again).returncode == 0
    assert_same(fleet, make_quietly(fleet, SHARDS), fleet.folder / "out")


@pytest.mark.faults
def test_it_is_tried_on_different_workers(fleet: Fleet) -> None:
    ill = faulty(**poison("nan"), pace_s=0.2)
    workers = [fleet.start_worker(ready=False, **ill) for _ in range(2)]
    fleet.wait_until(lambda: all(fleet.is_up(worker) for worker in workers))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(60))
    assert fleet.watch(job).returncode == 1
    tried = [worker.said().count(f"shard {POISON} attempt") for worker in workers]
    assert sorted(tried) == [1, 2]


@pytest.mark.faults
def test_a_generator_that_crashes_its_process_while_it_loads_does_not_loop(fleet: Fleet) -> None:
    flags = fleet.folder / "flags"
    flags.mkdir()
    die = {
        "at": "workers.engine.calibration:CalibratedEngines.calibrate",
        "when": "before",
        "times": 99,
        "flags": str(flags),
    }
    worker = fleet.start_worker(ready=False, **faulty(die=die))
    assert worker.process.wait(120) == 1
    assert len(list(flags.iterdir())) == 3
    told = "noisemill: the process died 3 times while it loaded the generator: is it too large?"
    assert told in worker.said().splitlines()
    done = fleet.run("generate", TINY, "out", *size(2), **faulty(die=die))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == told.replace("noisemill: ", "noisemill: the worker ended: ")


@pytest.mark.faults
def test_a_generator_that_crashed_once_while_it_loaded_is_loaded_again(fleet: Fleet) -> None:
    flags = fleet.folder / "flags"
    flags.mkdir()
    die = {"at": "workers.engine.calibration:CalibratedEngines.calibrate", "when": "before", "flags": str(flags)}
    fleet.start_worker(**faulty(die=die))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(2))
    assert fleet.watch(job).returncode == 0


@pytest.mark.parametrize(
    "at",
    [
        "workers.making.job_slice:JobSlice.predict",
        pytest.param("pipeline.jobs.ledger:Ledger.claim", marks=pytest.mark.faults),
    ],
)
def test_what_nobody_foresaw_fails_the_job_once(fleet: Fleet, at: str) -> None:
    """Outside a shard, where no attempts are counted: one traceback, the reason in `status`, and no further wake-up."""
    ill = fleet.start_worker(**faulty(fail=at))
    job = fleet.submit(TINY, str(fleet.folder / "out"), *size(2))
    watched = fleet.watch(job)
    assert watched.returncode == 1
    assert "unexpected error: RuntimeError: nobody foresaw" in watched.stderr
    assert "Traceback" not in watched.stderr
    time.sleep(3)  # The reconciler looks every half second.
    assert ill.said().count("unexpected error") == 1
    assert ill.said().count("Traceback (most recent call last)") == 1
    assert fleet.json("status", job)["state"] == "failed"
    assert ill.stop() == 0
    fleet.start_worker()
    again = fleet.run("resume", "out").stdout.strip()
    assert fleet.watch(again).returncode == 0
