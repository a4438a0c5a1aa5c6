"""Schedules carried out by real processes: scheduler, worker, Valkey; also when they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY
from tests.schedules.conftest import ScheduledFleet
from tests.schedules.receiver import receiver
from tests.servers import Valkey


def test_a_schedule_makes_datasets_again_and_again(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    with receiver(500) as hooks:
        fleet.schedule(
            "often", "out/{run}", "-n", "60", "--every", "2s", "--keep", "2", "--seed", "3", "--priority", "1",
            "--webhook", f"{hooks.url}/told",
        )  # fmt: skip
        worker = fleet.start_worker(ready=False)
        scheduler = fleet.start_scheduler()
        fleet.wait_for_runs("often", 3)
        assert fleet.run("schedule", "pause", "often").returncode == 0
        fleet.wait_until(
            lambda: [run.state for run in fleet.runs("often")][-3:] == ["removed", "done", "done"],
            told=scheduler.said,
        )
        runs = fleet.runs("often")
        assert {run.state for run in runs[:-2]} == {"removed"}
        assert sorted(os.listdir(fleet.folder / "out")) == [f"{run.number:06d}" for run in runs[-2:]]
        assert [run.seed for run in runs] == list(range(3, 3 + len(runs)))
        assert all((later.due_at - run.due_at) % 2 == 0 for run, later in pairwise(runs))
        samples = [Dataset(run.destination).samples(0, 60) for run in runs[-2:]]
        assert not np.isin(samples[0], samples[1]).all(axis=(1, 2, 3)).any()
        # The jobs tell where they come from.
        jobs = {job["id"]: job for job in fleet.json("jobs")}
        assert all(jobs[run.job]["schedule"] == "often" for run in runs)
        assert {job["priority"] for job in jobs.values()} == {1}
        shown = fleet.json("schedule", "show", "often")
        assert (shown["paused"], shown["next_run_at"], len(shown["runs"])) == (True, None, len(runs))
        # Nothing comes while it is paused, but by hand.
        time.sleep(2.5)
        assert len(fleet.runs("often")) == len(runs)
        by_hand = fleet.json("schedule", "run", "often")
        assert (by_hand["number"], by_hand["by_hand"]) == (len(runs) + 1, True)
        fleet.wait_until(lambda: fleet.runs("often")[-1].state == "done", told=worker.said)
        # What is beyond those to be kept goes once the new one was verified.
        fleet.wait_until(lambda: len(os.listdir(fleet.folder / "out")) == 2, told=scheduler.said)
        # A webhook that failed was called again.
        fleet.wait_until(lambda: len(hooks.received) >= len(runs) + 2, told=worker.said)
        told = [json.loads(request.body)["data"] for request in hooks.received]
        assert {data["job"] for data in told} == set(jobs) | {fleet.runs("often")[-1].job}
        assert all((data["state"], data["schedule"]) == ("done", "often") for data in told)
    assert fleet.run("schedule", "remove", "often").returncode == 0
    assert fleet.json("schedule", "list") == []
    assert len(os.listdir(fleet.folder / "out")) == 2
    assert scheduler.stop() == 0
    assert "Traceback" not in scheduler.said()


@pytest.mark.faults
def test_a_scheduler_that_is_killed_goes_on_where_it_was(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    fleet.start_worker()
    scheduler = fleet.start_scheduler()
    fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1s")
    fleet.wait_for_runs("often", 2)
    for _ in range(2):
        killed, before = scheduler.child, len(fleet.runs("often"))
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        # Its supervisor starts another, which has its turn once the lock of the dead one has expired.
        fleet.wait_for_runs("often", before + 2)
        assert scheduler.child not in (killed, None)
    _assert_sound(fleet)


@pytest.mark.faults
def test_a_supervisor_that_is_killed_takes_the_scheduler_with_it(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    scheduler = fleet.start_scheduler()
    child = scheduler.child
    scheduler.process.kill()
    scheduler.process.wait()
    fleet.wait_until(lambda: not os.path.exists(f"/proc/{child}"), told=scheduler.said)
    fleet.start_scheduler()


@pytest.mark.faults
def test_of_two_schedulers_one_is_active_and_the_other_takes_over(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    fleet.start_worker()
    first = fleet.start_scheduler()
    second = fleet.start_scheduler(active=False)
    fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1s")
    fleet.wait_for_runs("often", 3)
    assert "is due" in first.said()
    assert "is due" not in second.said()
    assert first.stop() == 0
    before = len(fleet.runs("often"))
    fleet.wait_for_runs("often", before + 2)
    assert "this scheduler is active" in second.said()
    # One that was stopped for longer than its lock lasts comes back and finds that it has lost its turn.
    child = second.child
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    third = fleet.start_scheduler()
    before = len(fleet.runs("often"))
    os.kill(child, signal.SIGCONT)
    fleet.wait_for_runs("often", before + 3)
    fleet.wait_until(lambda: "has lost its turn" in second.said(), told=second.said)
    assert "is due" in third.said()
    _assert_sound(fleet)


@pytest.mark.faults
def test_schedules_survive_a_restart_of_redis(scheduled_fleet: ScheduledFleet, own_valkey: Valkey) -> None:
    fleet = scheduled_fleet
    fleet.start_worker()
    scheduler = fleet.start_scheduler()
    fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1s")
    fleet.schedule("paused", "other/{run}", "-n", "20", "--cron", "0 2 * * *", "--timezone", "Europe/Berlin")
    fleet.run("schedule", "pause", "paused")
    fleet.wait_for_runs("often", 2)
    before = fleet.runs("often")
    own_valkey.stop(kill=True)
    fleet.wait_until(lambda: "waits until Redis is back" in scheduler.said(), told=scheduler.said)
    own_valkey.start()
    fleet.wait_for_runs("often", len(before) + 2)
    after = fleet.runs("often")
    assert [run.destination for run in after[: len(before)]] == [run.destination for run in before]
    assert fleet.book.get("paused").paused
    assert "Redis is back" in scheduler.said()
    _assert_sound(fleet)


@pytest.mark.faults
def test_what_was_missed_is_made_up_for_once_or_not_at_all(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    fleet.schedule("one", "one/{run}", "-n", "20", "--every", "70s")
    fleet.schedule("none", "none/{run}", "-n", "20", "--every", "70s", "--catch-up", "none")
    # As if both had been added an hour and a minute ago, and no scheduler had run since.
    for schedule in fleet.book.schedules():
        start = float(int(time.time()) - 70 * 50 - 62)
        moved = replace(schedule, recurrence=replace(schedule.recurrence, start=start), since=start)
        fleet.book.add(moved, replacing=True)
    fleet.start_scheduler()
    fleet.wait_until(lambda: bool(fleet.runs("one")) and bool(fleet.book.skipped("none")))
    assert [run.number for run in fleet.runs("one")] == [1]
    assert fleet.runs("none") == []
    assert [one.reason for one in fleet.book.skipped("none")] == ["no scheduler was up in time"]


@pytest.mark.faults
def test_up_runs_the_scheduler_beside_the_workers(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1s")
    command = [sys.executable, "-m", "pipeline.cli", "up", TINY, "--output-root", str(fleet.folder), "--scheduler"]
    log = fleet.folder / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(command, env=fleet.environment, cwd=fleet.folder, stdout=output, stderr=output)
    try:
        fleet.wait_for_runs("often", 2)
    finally:
        up.terminate()
    assert up.wait(60) == 0, log.read_text()
    assert fleet.book.scheduler() is None


def _assert_sound(fleet: ScheduledFleet) -> None:
    """Every run has a number, a seed, a moment and a job of its own, and is the dataset that it should be."""
    fleet.run("schedule", "pause", "often")
    fleet.wait_until(lambda: not any(run.ended_at is None for run in fleet.runs("often")))
    runs = fleet.runs("often")
    assert [run.number for run in runs] == list(range(1, len(runs) + 1))
    assert [run.seed for run in runs] == list(range(len(runs)))
    moments = [run.due_at for run in runs]
    assert moments == sorted(set(moments))
    assert {run.state for run in runs} == {"done"}
    jobs = [job for job in fleet.json("jobs") if job["schedule"] == "often"]
    assert sorted(job["id"] for job in jobs) == sorted(str(run.job) for run in runs)
    for run in runs:
        assert Dataset(run.destination).spec.seed == run.seed
