"""The last two versions of a job and of a message are read, newer and older ones refused by name (decision 77)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from pipeline.common.errors import DatasetError, NewerVersionError
from pipeline.jobs.broker import (
    MESSAGE_VERSION,
    OLDEST_MESSAGE_VERSION,
    SLICE_TASK,
    RefusedMessage,
    Wakeup,
    read_wakeup,
)
from pipeline.spec.job_spec import OLDEST_SPEC_VERSION, SPEC_VERSION, JobSpec

#: What each version wrote, to the letter; never changed once it was released.
JOBS: dict[int, str] = {
    1: """{
 "batch": 0,
 "classes": [
  "circle",
  "square",
  "star",
  "cross"
 ],
 "count": 100,
 "digest": "sha256:8950abfda7b727630760dd35bcf5c3daa7631aff223a90f7728c0d2521dde10c",
 "dtype": "float32",
 "format": "npy",
 "generator": "/models/tiny.keras",
 "labels": "balanced",
 "latent_shape": [
  8
 ],
 "latents": null,
 "layout": "flat",
 "noise": "normal",
 "sample_shape": [
  4,
  4,
  1
 ],
 "seed": 7,
 "shard_size": 30,
 "value_range": [
  -1.0,
  1.0
 ],
 "version": 1
}"""
}
MESSAGES: dict[int, str] = {1: '{"version": 1, "job": "clothes-0123456789", "token": 3, "serial": 7}'}


def read(arguments: dict[str, Any]) -> Wakeup:
    """The wake-up of a message that has these arguments."""
    body = base64.b64encode(json.dumps([[], arguments, {}]).encode()).decode()
    return read_wakeup({"content-type": "application/json", "headers": {"task": SLICE_TASK}, "body": body})


@pytest.mark.parametrize(
    ("kept", "oldest", "newest"),
    [(JOBS, OLDEST_SPEC_VERSION, SPEC_VERSION), (MESSAGES, OLDEST_MESSAGE_VERSION, MESSAGE_VERSION)],
    ids=["jobs", "messages"],
)
def test_the_last_two_versions_are_kept_here_and_readable(kept: dict[int, str], oldest: int, newest: int) -> None:
    assert 1 <= oldest <= max(1, newest - 1)
    assert set(range(max(1, newest - 1), newest + 1)) <= set(kept)


@pytest.mark.parametrize("version", [version for version in JOBS if version >= OLDEST_SPEC_VERSION])
def test_what_a_version_wrote_of_a_job_is_read(version: int) -> None:
    spec = JobSpec.from_json(JOBS[version])
    assert (spec.count, spec.seed, spec.shard_size) == (100, 7, 30)
    if version == SPEC_VERSION:
        assert spec.to_json().strip() == JOBS[version].strip()


@pytest.mark.parametrize("version", [version for version in MESSAGES if version >= OLDEST_MESSAGE_VERSION])
def test_what_a_version_wrote_of_a_message_is_read(version: int) -> None:
    wakeup = read(json.loads(MESSAGES[version]))
    assert (wakeup.job, wakeup.token, wakeup.serial) == ("clothes-0123456789", 3, 7)


def test_a_newer_one_is_refused_by_name() -> None:
    newer = SPEC_VERSION + 1
    with pytest.raises(
        NewerVersionError, match=rf"newer noisemill \(version {newer}, known is {SPEC_VERSION}\): upgrade"
    ):
        JobSpec.from_json(json.dumps({**json.loads(JOBS[SPEC_VERSION]), "version": newer}))
    with pytest.raises(RefusedMessage, match=rf"a newer noisemill sent it \(version {MESSAGE_VERSION + 1}\): upgrade"):
        read({**json.loads(MESSAGES[MESSAGE_VERSION]), "version": MESSAGE_VERSION + 1})


def test_one_that_is_too_old_is_refused_by_name() -> None:
    older = OLDEST_SPEC_VERSION - 1
    with pytest.raises(DatasetError, match=rf"too old for this one \(version {older}, the oldest that is read is"):
        JobSpec.from_json(json.dumps({**json.loads(JOBS[SPEC_VERSION]), "version": older}))
    with pytest.raises(RefusedMessage, match=rf"a noisemill too old .* \(version {OLDEST_MESSAGE_VERSION - 1}\)"):
        read({**json.loads(MESSAGES[MESSAGE_VERSION]), "version": OLDEST_MESSAGE_VERSION - 1})
