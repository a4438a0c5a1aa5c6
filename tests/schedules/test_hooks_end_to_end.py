"""Hooks of real jobs: `generate --on-done`, and webhooks that outlive the worker that ended the job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.datasets.dataset import Dataset
from tests.data.described import write_described
from tests.end_to_end.fleet import TINY, Fleet
from tests.schedules.conftest import ScheduledFleet
from tests.schedules.receiver import receiver
from tests.servers import free_port

TELL = 'echo "$NOISEMILL_STATE $NOISEMILL_COUNT $NOISEMILL_DESTINATION" > told; echo from the command'


@pytest.fixture
def here(tmp_path: Path, scheduled_fleet: ScheduledFleet) -> Fleet:
    """A command line that knows of no Redis."""
    own = {name: value for name, value in scheduled_fleet.environment.items() if name != "NOISEMILL_REDIS_URL"}
    return Fleet(tmp_path, own)


def test_on_done(here: Fleet) -> None:
    done = here.run("generate", TINY, "out", "-n", "50", "--json", "--on-done", f"{TELL}; exit 3")
    assert done.returncode == 1
    assert "the dataset is complete, but the --on-done command ended with 3" in done.stderr
    assert json.loads(done.stdout)["count"] == 50, "what the command prints is no part of the result"
    assert "from the command" in done.stderr
    assert (here.folder / "told").read_text() == f"done 50 {here.folder}/out\n"
    assert Dataset(here.folder / "out").whole
    (here.folder / "told").unlink()
    again = here.run("resume", "out", "--on-done", TELL)
    assert (again.returncode, (here.folder / "told").exists()) == (0, True)


@pytest.mark.faults
def test_on_done_hears_of_failure(here: Fleet) -> None:
    # Its weights are none: only the worker finds out.
    write_described(here.folder / "broken.keras", [8], [5])
    (here.folder / "broken.toml").write_text('[latent]\ninput = "latent"\nshape = [8]\n[output]\nshape = [5]\n')
    done = here.run(
        "generate", "broken.keras", "out", "-n", "10", "--on-done", f'{TELL}; echo "$NOISEMILL_ERROR"; exit 3'
    )
    assert done.returncode == 1
    assert (here.folder / "told").read_text() == f"failed 10 {here.folder}/out\n"
    assert "the --on-done command ended with 3" in done.stderr


def test_on_done_is_for_jobs_made_here(here: Fleet) -> None:
    done = here.run("resume", "out", "--on-done", "true", "--redis", "redis://127.0.0.1:1/0")
    assert done.returncode == 2
    assert "'submit --webhook URL'" in done.stderr


@pytest.mark.faults
def test_a_webhook_outlives_the_worker_that_ended_the_job(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    port = free_port()
    url = f"http://user:passwort@127.0.0.1:{port}/token-123"
    worker = fleet.start_worker()
    job = fleet.submit(TINY, "out", "-n", "200", "--webhook", url)
    assert fleet.watch(job).returncode == 0
    fleet.wait_until(lambda: f"webhook http://127.0.0.1:{port}/... failed" in worker.said(), told=worker.said)
    worker.kill()
    with receiver(500, port=port) as hooks:
        other = fleet.start_worker()
        fleet.wait_until(lambda: len(hooks.received) == 2, told=other.said)
    bodies = [json.loads(request.body)["data"] for request in hooks.received]
    assert [(body["job"], body["state"], body["samples_done"]) for body in bodies] == [(job, "done", 200)] * 2
    assert len({request.headers["webhook-id"] for request in hooks.received}) == 1
    assert all(request.headers["webhook-signature"].startswith("v1,") for request in hooks.received)
    fleet.wait_until(lambda: "its webhook was called" in other.said(), told=other.said)
    for log in (
        worker.said(),
        other.said(),
        fleet.run("status", job).stdout,
        fleet.run("status", job, "--json").stdout,
    ):
        assert "passwort" not in log
        assert "token-123" not in log
        assert "geheim" not in log


@pytest.mark.faults
def test_a_cancelled_job_is_told_of_once_a_worker_is_up(scheduled_fleet: ScheduledFleet) -> None:
    fleet = scheduled_fleet
    with receiver() as hooks:
        job = fleet.submit(TINY, "out", "-n", "200", "--webhook", hooks.url)
        fleet.run("cancel", job)
        worker = fleet.start_worker()
        fleet.wait_until(lambda: bool(hooks.received), told=worker.said)
    assert json.loads(hooks.received[0].body)["type"] == "job.cancelled"
