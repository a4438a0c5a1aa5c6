"""docker-compose.yml: settings that keep jobs safe, pinned images, health checks."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
FOREIGN = {name: service for name, service in SERVICES.items() if "build" not in service}


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


@pytest.mark.parametrize("name", FOREIGN)
def test_server_has_a_health_check(name):
    assert FOREIGN[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", FOREIGN)
def test_server_is_open_to_this_machine_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in FOREIGN[name]["ports"])


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "scheduler"])
def test_worker_waits_for_server_and_bucket(name):
    assert SERVICES[name]["depends_on"] == {
        "valkey": {"condition": "service_healthy"},
        "bucket": {"condition": "service_completed_successfully"},
    }


def test_only_the_gpu_worker_is_behind_a_profile():
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-gpu"]


@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"]], ids=["cpu", "gpu"])
def test_compose_accepts_it(profile):
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose")
    done = subprocess.run(
        ["docker-compose", *profile, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_docker_context_holds_what_the_image_copies():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert f"!{name}" in ignore
        assert (ROOT / name).exists()
