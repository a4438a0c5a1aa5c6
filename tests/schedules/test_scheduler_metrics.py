"""What a scheduler tells Prometheus, read from real ones."""

from __future__ import annotations

import time

from tests.end_to_end.scraping import scrape, value
from tests.schedules.conftest import ScheduledFleet
from tests.servers import free_port


def test_a_scheduler_tells_what_becomes_of_schedules(scheduled_fleet: ScheduledFleet) -> None:
    """Of two schedulers one is active; both say the same of schedules."""
    fleet = scheduled_fleet
    ports = [free_port(), free_port()]
    first, second = [fleet.start_scheduler("--metrics-port", str(port), active=port == ports[0]) for port in ports]
    fleet.wait_until(lambda: [is_active(port) for port in ports] == [True, False], told=first.said)
    fresh = scrape(ports[0])
    assert value(fresh, "noisemill_redis_up") == 1
    assert value(fresh, "noisemill_schedules", state="carried_out") == 0
    assert value(fresh, "process_resident_memory_bytes") > 1e6

    fleet.schedule("often", "out/{run}", "-n", "20", "--every", "1h")
    assert fleet.run("schedule", "pause", "often").returncode == 0
    held = scrape(ports[1])
    assert value(held, "noisemill_schedules", state="paused") == 1
    assert value(held, "noisemill_schedule_runs_total", schedule="often") == 0
    assert value(held, "noisemill_schedule_runs_ended_total", schedule="often", state="failed") == 0
    assert not {name for name, _ in held if name.endswith("timestamp_seconds") and name.startswith("noisemill")}

    fleet.start_worker()
    before = time.time()
    for command in ("resume", "run"):
        assert fleet.run("schedule", command, "often").returncode == 0
    fleet.wait_until(lambda: done(ports[0]) >= 1, told=first.said)
    assert done(ports[1]) == 0
    for series in map(scrape, ports):
        assert value(series, "noisemill_schedule_runs_total", schedule="often") == 1
        assert value(series, "noisemill_schedule_last_run_timestamp_seconds", schedule="often") > before - 5
        assert 0 < value(series, "noisemill_schedule_next_run_timestamp_seconds", schedule="often") - before < 3700
        assert value(series, "noisemill_schedules", state="carried_out") == 1

    # The one that is active leaves: the other has its turn, and says so.
    assert first.stop() == 0
    fleet.wait_until(lambda: is_active(ports[1]), told=second.said)


def is_active(port: int) -> bool:
    return value(scrape(port), "noisemill_scheduler_active") == 1


def done(port: int) -> float:
    """Runs that this scheduler saw done."""
    return value(scrape(port), "noisemill_schedule_runs_ended_total", schedule="often", state="done")
