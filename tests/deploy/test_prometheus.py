"""deploy/prometheus and the page of Grafana, by Prometheus itself: they are sound, and what they ask for is there.

Prometheus and promtool are those of the Debian package `prometheus`; where it is absent these tests skip.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.end_to_end.fleet import TINY, environment
from tests.schedules.conftest import PREFIX, ScheduledFleet
from tests.servers import Valkey, free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
PANELS = json.loads((ROOT / "deploy/grafana/dashboards/noisemill.json").read_text())["panels"]
#: What the page draws.
DRAWN = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
#: When each alert comes.
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="no Prometheus: apt-get install prometheus")


def promtool(*arguments: str | Path) -> str:
    """What it says. Fails where it finds fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_configuration_and_alerts_are_sound() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "config", FOLDER / "prometheus.yml")


def test_alerts_come_when_they_should_and_not_before() -> None:
    told = (Path(__file__).parent / "alerts_test.yml").read_text()
    assert set(re.findall(r"alertname: (\w+)", told)) == set(ALERTS)
    promtool("test", "rules", Path(__file__).parent / "alerts_test.yml")


def test_what_the_page_asks_can_be_asked(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": asked} for number, asked in enumerate(DRAWN)]
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
    promtool("check", "rules", path)


class Prometheus:
    """A real one with our rules, that reads given ports every second."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        self.port = free_port()
        scrapes = [
            {"job_name": job["job_name"], "static_configs": [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]}
            for job in CONFIG["scrape_configs"]
        ]
        pace = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        shutil.copy(FOLDER / "alerts.yml", folder)
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({**CONFIG, "global": pace, "scrape_configs": scrapes}))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdout=output, stderr=output
            )  # fmt: skip

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now; none while the server starts."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/query?{urlencode({'query': expression})}", timeout=10
            ) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except URLError:
            return []
        return found

    def wait_for(self, expressions: list[str], told: Callable[[], str], timeout_s: float = 600) -> None:
        """Until each has a series whose value is a number."""
        deadline = time.monotonic() + timeout_s
        without = expressions
        while without := [one for one in without if not any(_is_number(series) for series in self.ask(one))]:
            assert time.monotonic() < deadline, f"no series: {without}; {told()}"
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(600)


def _is_number(series: dict[str, Any]) -> bool:
    return str(series["value"][1]) != "NaN"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[ScheduledFleet, Valkey, dict[str, int]]]:
    """A fleet, its server, and the ports at which a worker and a scheduler are to serve, by Prometheus' jobs."""
    with Valkey(port=0) as server:
        fleet = ScheduledFleet(tmp_path, environment(server.url, PREFIX, tmp_path / "cache"))
        yield fleet, server, {job["job_name"]: free_port() for job in CONFIG["scrape_configs"]}
        fleet.stop()


@pytest.mark.compat
def test_a_real_prometheus_has_what_the_page_and_the_alerts_ask_for(
    tmp_path: Path, watched: tuple[ScheduledFleet, Valkey, dict[str, int]]
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    fleet, server, ports = watched
    prometheus = Prometheus(tmp_path, ports)
    try:
        worker = fleet.start_worker(TINY, "--metrics-port", str(ports["noisemill"]))
        fleet.start_scheduler("--metrics-port", str(ports["noisemill-scheduler"]))
        fleet.schedule("often", "out/{run}", "-n", "500", "--every", "2s")
        fleet.wait_for_runs("often", 2)

        # Everything that is drawn, and every series that an alert looks at.
        prometheus.wait_for(DRAWN, worker.said)
        looked_at = sorted(
            {name for expr in ALERTS.values() for name in re.findall(r"\b(?:up|noisemill_\w+)(?:\{.*?\})?", expr)}
        )
        prometheus.wait_for(looked_at, worker.said)
        made = "sum(noisemill_samples_total)"
        fleet.wait_until(lambda: float(prometheus.ask(made)[0]["value"][1]) >= 1000)
        assert {alert for alert, expr in ALERTS.items() if prometheus.ask(expr)} == set()

        # What the alerts are there for.
        server.stop()
        prometheus.wait_for([ALERTS["RedisAway"], ALERTS["NoSchedulerActive"]], worker.said)
        worker.kill()
        prometheus.wait_for([ALERTS["WorkerGone"]], worker.said)
    finally:
        prometheus.stop()
