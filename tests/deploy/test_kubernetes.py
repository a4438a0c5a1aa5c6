"""The Kubernetes manifests: against the schemas of Kubernetes itself, and against docker-compose.yml.

There is no kustomize here: what the overlay does is done by `overlaid`, which knows the few things that it uses.
"""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
BASE, ELASTIC = ROOT / "deploy/kubernetes/base", ROOT / "deploy/kubernetes/elastic"


def kustomization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return found


def objects(folder: Path) -> list[dict[str, Any]]:
    """The objects of the files that a kustomization names."""
    files = [folder / name for name in kustomization(folder)["resources"] if name.endswith(".yaml")]
    return [found for path in files for found in yaml.safe_load_all(path.read_text())]


def overlaid() -> list[dict[str, Any]]:
    """The base with the overlay's patches, settings and objects of its own."""
    found = copy.deepcopy(objects(BASE))
    overlay = kustomization(ELASTIC)
    assert overlay["resources"][0] == "../base"
    for patch in overlay["patches"]:
        target = patch["target"]
        chosen = [
            each
            for each in found
            if each["kind"] == target["kind"] and re.fullmatch(target["name"], each["metadata"]["name"])
        ]
        assert chosen
        for each in chosen:
            for change in yaml.safe_load(patch["patch"]):
                apply_change(each, **change)
    for each in found:
        if each["kind"] == "ConfigMap":
            [settings] = overlay["configMapGenerator"]
            assert (settings["name"], settings["behavior"]) == (each["metadata"]["name"], "merge")
            each["data"].update(line.split("=", 1) for line in settings["literals"])
    return found + objects(ELASTIC)


def apply_change(target: Any, op: str, path: str, value: Any = None) -> None:
    """One change of a JSON patch (RFC 6902)."""
    *parts, last = path.strip("/").split("/")
    for part in parts:
        target = target[int(part) if isinstance(target, list) else part]
    key = int(last) if isinstance(target, list) else last
    if op in ("replace", "remove"):
        assert target[key] is not None
    if op == "remove":
        del target[key]
    else:
        assert op in ("add", "replace")
        target[key] = value


OBJECTS = objects(BASE)
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
    broken = yaml.safe_load((BASE / "worker.yaml").read_text())
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


def test_every_manifest_is_part_of_it() -> None:
    for folder in (BASE, ELASTIC):
        named = {name for name in kustomization(folder)["resources"] if name.endswith(".yaml")}
        assert named | {"kustomization.yaml"} == {path.name for path in folder.glob("*.yaml")}


# -- workers that come and go ------------------------------------------------------------------------------


def test_kubernetes_takes_the_overlay() -> None:
    for found in overlaid():
        if found["kind"] != "ScaledObject":
            kubernetes_validate.validate(found, "1.33", strict=True)


def test_scaling_sets_the_number_of_each_kind_of_worker() -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in overlaid()}
    scaled = {name: each["spec"] for (kind, name), each in found.items() if kind == "ScaledObject"}
    assert set(scaled) == {"worker", "worker-gpu"}
    for name, spec in scaled.items():
        assert set(spec) == {
            "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "advanced",
            "triggers",
        }  # fmt: skip
        assert spec["scaleTargetRef"] == {"name": name}
        assert spec["minReplicaCount"] == 0
        deployment = found["Deployment", name]["spec"]
        assert "replicas" not in deployment
        assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 30
        [trigger] = spec["triggers"]
        generator = deployment["template"]["spec"]["containers"][0]["args"][1]
        assert trigger["metadata"]["query"] == f'max(noisemill_workers_wanted{{generator="{generator}"}})'
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_budgets_name_what_is_there() -> None:
    budgets = [each["spec"] for each in overlaid() if each["kind"] == "PodDisruptionBudget"]
    assert [budget["selector"]["matchLabels"] for budget in budgets] == [
        WORKLOADS["scheduler"]["spec"]["selector"]["matchLabels"]
    ]
    assert budgets[0]["minAvailable"] < WORKLOADS["scheduler"]["spec"]["replicas"]
