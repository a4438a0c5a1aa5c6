"""The Kubernetes manifests: against the schemas of Kubernetes itself, and against docker-compose.yml."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
OBJECTS: list[dict[str, Any]] = [found for path in FILES for found in yaml.safe_load_all(path.read_text())]
WORKLOADS = {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] in ("Deployment", "StatefulSet")}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def pod(name: str) -> dict[str, Any]:
    return WORKLOADS[name]["spec"]["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    [only] = pod(name)["containers"]
    return only


@pytest.mark.parametrize("found", OBJECTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_kubernetes_takes_it(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, "1.33", strict=True)


def test_the_schema_would_find_a_mistake() -> None:
    broken = yaml.safe_load((ROOT / "deploy/kubernetes/worker.yaml").read_text())
    broken["spec"]["template"]["spec"]["containers"][0]["image_"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.33", strict=True)


def test_there_is_what_there_is_in_compose() -> None:
    assert set(WORKLOADS) == {"valkey", "worker", "worker-gpu", "scheduler"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_it_runs_what_compose_runs(name: str) -> None:
    """Which tests/deploy/test_compose_runs.py has run."""
    image, command = COMPOSE[name]["image"], COMPOSE[name]["command"]
    command = command.replace("${NOISEMILL_GENERATOR:-fashion}", "fashion").replace(
        "/run/secrets/", "/run/secrets/noisemill/"
    )
    assert container(name)["args"] == shlex.split(command)
    assert container(name)["image"] == image


@pytest.mark.parametrize("name", WORKLOADS)
def test_it_has_no_more_rights_than_it_needs(name: str) -> None:
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    rights = container(name)["securityContext"]
    assert rights == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container(name)["resources"]["limits"])
    assert "livenessProbe" in container(name)


@pytest.mark.parametrize("name", WORKLOADS)
def test_all_that_it_names_is_there(name: str) -> None:
    """Volumes, the settings, and of the secrets those that deploy/make-secrets.sh makes."""
    claims = WORKLOADS[name]["spec"].get("volumeClaimTemplates", [])
    volumes = {volume["name"] for volume in pod(name)["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes
    [secrets] = [volume["secret"] for volume in pod(name)["volumes"] if "secret" in volume]
    made = {"redis_url", "valkey.conf", "aws_credentials"}
    assert {item["key"] for item in secrets["items"]} <= made
    for source in container(name).get("envFrom", []):
        assert any(
            found["kind"] == "ConfigMap"
            and found["metadata"] == {"name": source["configMapRef"]["name"], "namespace": "noisemill"}
            for found in OBJECTS
        )
    assert (
        WORKLOADS[name]["spec"]["selector"]["matchLabels"] == WORKLOADS[name]["spec"]["template"]["metadata"]["labels"]
    )


def test_settings_are_those_of_compose() -> None:
    [settings] = [found["data"] for found in OBJECTS if found["kind"] == "ConfigMap"]
    assert set(settings) == set(COMPOSE["worker"]["environment"])


def test_a_gpu_pod_has_one_gpu() -> None:
    assert container("worker-gpu")["resources"]["limits"]["nvidia.com/gpu"] == 1
