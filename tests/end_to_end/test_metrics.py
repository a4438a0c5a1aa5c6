"""What a worker tells Prometheus and the collectors of logs, read from a real one."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from tests.end_to_end.fleet import TINY, Fleet
from tests.end_to_end.scraping import scrape, value
from tests.servers import free_port


def test_metrics_and_json_logs_of_a_worker(lone_fleet: Fleet) -> None:
    port = free_port()
    worker = lone_fleet.start_worker(TINY, "--metrics-port", str(port), "--log-format", "json")
    fresh = scrape(port)
    assert value(fresh, "noisemill_samples_total") == 0
    assert value(fresh, "noisemill_shard_failures_total", then="retry") == 0
    assert value(fresh, "noisemill_busy") == 0
    [info] = [dict(labels) for name, labels in fresh if name == "noisemill_worker_info"]
    assert info["generator"] == "tiny"
    assert info["device"] == "cpu"

    job = lone_fleet.submit(TINY, str(lone_fleet.folder / "out"), "--count", "2000", "--shard-size", "100")
    assert lone_fleet.watch(job).returncode == 0
    made = scrape(port)
    assert value(made, "noisemill_samples_total") == 2000
    assert value(made, "noisemill_shards_total") == 20
    assert value(made, "noisemill_written_bytes_total") == lone_fleet.json("status", job)["bytes_done"]
    assert value(made, "noisemill_slices_total") >= 1
    assert value(made, "noisemill_redis_up") == 1
    assert value(made, "noisemill_queue_depth", generator="tiny") == 0
    assert value(made, "noisemill_batch_size") in (64, 128, 256, 512)
    for stage in ("noise", "predict", "encode", "write"):
        assert value(made, "noisemill_stage_busy_seconds_total", stage=stage) > 0
    assert value(made, "noisemill_child_process_resident_memory_bytes") > 1e8

    # A child that dies takes no count with it, and the endpoint stays up meanwhile.
    os.kill(worker.child, signal.SIGKILL)
    lone_fleet.wait_until(lambda: "noisemill_worker_info" not in {name for name, _ in scrape(port)})
    assert value(scrape(port), "noisemill_samples_total") == 2000
    lone_fleet.wait_until(lambda: "noisemill_worker_info" in {name for name, _ in scrape(port)})
    more = lone_fleet.submit(TINY, str(lone_fleet.folder / "more"), "--count", "500")
    assert lone_fleet.watch(more).returncode == 0
    assert value(scrape(port), "noisemill_samples_total") == 2500

    lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
    commits = [line for line in lines if line.get("job") == job and "shard" in line]
    assert sorted(line["shard"] for line in commits) == list(range(20))
    assert {line["attempt"] for line in commits} == {1}
    assert {line["worker"] for line in lines} == {worker.id}
    assert all(line["level"] and line["message"] and line["time"].endswith("+00:00") for line in lines)
    # Nothing else is said but JSON.
    assert [line for line in worker.said().splitlines() if not line.startswith("{")] == []


def test_a_port_that_is_taken_is_told(lone_fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = lone_fleet.run("worker", TINY, "--metrics-port", str(port))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"noisemill: metrics cannot be served on 127.0.0.1:{port}: Address already in use; "
        "choose another --metrics-port"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none(lone_fleet: Fleet, port: str) -> None:
    done = lone_fleet.run("worker", TINY, "--metrics-port", port)
    assert done.returncode == 2
    assert "is not a whole number from 0 to 65535" in done.stderr
