"""docker-compose.yml and the Dockerfile: settings that keep jobs safe, pinned images, health checks, least rights."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import executable

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FOREIGN = {name: service for name, service in SERVICES.items() if not service["image"].startswith("noisemill:")}
OWN = {name: service for name, service in SERVICES.items() if name not in FOREIGN}
LASTING = {name: service for name, service in SERVICES.items() if name != "bucket"}
PROFILES = [[], ["gpu"], ["metrics"], ["flower"], ["gpu", "metrics", "flower"]]


def test_valkey_keeps_what_it_was_given():
    command = SERVICES["valkey"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["valkey"]["volumes"] == ["valkey:/data"]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_image_is_pinned(name):
    image = FOREIGN[name]["image"]
    tag = image.partition("@")[2] or image.rpartition("/")[2].partition(":")[2]
    assert re.search(r"\d+\.\d+\.\d+|\d{4}-\d\d-\d\d|sha256:", tag), image


@pytest.mark.parametrize("name", LASTING)
def test_service_has_a_health_check(name):
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_more_rights_than_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"]
    assert limits["memory"]
    assert service["restart"] in ("unless-stopped", "on-failure")
    if name not in OWN and name != "minio":  # Ours say so in the Dockerfile.
        assert int(service["user"].split(":")[0]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_open_to_this_machine_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name):
    """Secrets come from files; what the environment names is the file."""
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|SECRET|CREDENTIALS|URL_FILE", variable):
            secret = str(value).removeprefix("/run/secrets/")
            assert secret in SERVICES[name]["secrets"], variable
    for secret in SERVICES[name].get("secrets", []):
        assert COMPOSE["secrets"][secret] == {"file": f"deploy/secrets/{secret}"}


def test_secrets_are_made_once_and_are_not_in_the_repository(tmp_path):
    folder = tmp_path / "secrets"
    for _ in range(2):
        subprocess.run([ROOT / "deploy/make-secrets.sh", folder], check=True, capture_output=True)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(before) == set(COMPOSE["secrets"])
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run([ROOT / "deploy/make-secrets.sh", folder], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    password = before["valkey.conf"].split()[1]
    assert len(password) == 48
    assert before["redis_url"] == f"redis://:{password}@valkey:6379/0\n"
    assert before["minio_password"] in before["aws_credentials"]
    assert len({password, before["minio_password"], before["grafana_password"]}) == 3
    ignored = subprocess.run(["git", "check-ignore", "deploy/secrets/redis_url"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "scheduler", "flower"])
def test_ours_wait_for_server_and_bucket(name):
    assert SERVICES[name]["depends_on"] == {
        "valkey": {"condition": "service_healthy"},
        "bucket": {"condition": "service_completed_successfully"},
    }


def test_gpu_containers_share_their_locks():
    gpu = SERVICES["worker-gpu"]
    assert "locks:/run/noisemill" in gpu["volumes"]
    assert "NOISEMILL_LOCK_DIR=/run/noisemill" in (ROOT / "Dockerfile").read_text()
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu", "compute", "utility"])


def test_what_runs_without_a_profile():
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"valkey", "minio", "bucket", "worker", "scheduler"}


@pytest.mark.parametrize("profiles", PROFILES, ids="-".join)
def test_compose_accepts_it(profiles):
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose")
    flags = [part for profile in profiles for part in ("--profile", profile)]
    done = subprocess.run(
        ["docker-compose", *flags, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_prometheus_looks_where_workers_and_scheduler_are():
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    found = {scrape["job_name"]: scrape["dns_sd_configs"][0] for scrape in prometheus["scrape_configs"]}
    names = {job: place["names"] for job, place in found.items()}
    assert names == {"noisemill": ["worker", "worker-gpu"], "noisemill-scheduler": ["scheduler"]}
    for place in found.values():
        for name in place["names"]:
            assert f"--metrics-port {place['port']}" in SERVICES[name]["command"]


def test_the_page_and_the_alerts_ask_for_metrics_that_there_are():
    page = json.loads((ROOT / "deploy/grafana/dashboards/noisemill.json").read_text())
    asked = [target["expr"] for panel in page["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    code = "".join((ROOT / "workers" / "telemetry" / name).read_text() for name in ("metrics.py", "metrics_server.py"))
    told = set(re.findall(r'"(noisemill_[a-z_]+)"', code)) | {"noisemill_child_process_resident_memory_bytes"}
    names = {
        name.removesuffix("_total") for expression in asked for name in re.findall(r"noisemill_[a-z_]+", expression)
    }
    assert names <= told, names - told
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])


def test_the_docs_tell_of_every_metric():
    page = (ROOT / "docs/deploy.md").read_text()
    code = "".join((ROOT / "workers" / "telemetry" / name).read_text() for name in ("metrics.py", "metrics_server.py"))
    for name in set(re.findall(r'"(noisemill_[a-z_]+)"', code)) - {"noisemill_child"}:
        assert f"`{name}" in page, name


# -- the image -------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say_of_the_dockerfile():
    done = subprocess.run(
        [executable("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_docker_context_holds_what_the_image_copies():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert f"!{name}" in ignore
        assert (ROOT / name).exists()


def test_every_image_is_a_target_of_the_dockerfile():
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", (ROOT / "Dockerfile").read_text(), re.M)
    names = [name for _, name in stages]
    assert names[-1] == "cpu"  # The default.
    for service in OWN.values():
        assert service["build"]["target"] == service["image"].removeprefix("noisemill:")
        assert service["build"]["target"] in names
    # Every stage builds on one that is there, and the outermost is pinned and slim.
    known: set[str] = set()
    for base, name in stages:
        assert base in known or re.fullmatch(r"python:3\.12\.\d+-slim-[a-z]+", base), base
        known.add(name)
    assert re.search(r"^USER 10001:10001$", (ROOT / "Dockerfile").read_text(), re.M)
