"""The handbook's messages are those of the code, and every kind of error has its place there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import boto3
import pytest

from pipeline.common import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
TABLES = PAGE.partition("<!-- messages")[2].partition("<!-- end of messages")[0]
MESSAGES = [match.removeprefix("(message) ") for match in re.findall(r"^\| `(.+?)` \|", TABLES, flags=re.MULTILINE)]


def sources() -> str:
    """All code, with what is said in several literals or lines put together."""
    paths = [path for folder in ("pipeline", "workers") for path in (ROOT / folder).rglob("*") if path.is_file()]
    text = "\n".join(path.read_text() for path in paths if path.suffix in (".py", ".lua"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


SOURCES = sources()


def test_the_page_tells_of_many() -> None:
    assert len(MESSAGES) > 60
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_in_the_code(message: str) -> None:
    assert message in SOURCES


@pytest.mark.parametrize(
    "name", [name for name, kind in vars(errors).items() if isinstance(kind, type) and name != "NoisemillError"]
)
def test_every_kind_of_error_has_its_place(name: str) -> None:
    assert f"`{name}`" in TABLES


#: The right that each call to S3 takes, as Amazon's table of actions has it.
RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_parts": "s3:ListMultipartUploadParts",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}
OF_THE_BUCKET = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}


def test_the_least_rights_are_those_of_the_calls_and_no_more() -> None:
    [policy] = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)]
    granted = {statement["Resource"]: set(statement["Action"]) for statement in policy["Statement"]}
    operations = boto3.client("s3", region_name="us-east-1").meta.method_to_api_mapping
    named = re.findall(r'client\.(?:get_paginator\(")?(\w+)', SOURCES)
    called = {name for name in named if name in operations}
    assert len(called) >= 10
    used = {RIGHTS[name] for name in called}  # A call that is not in the table needs a place there, and in the page.
    assert granted == {
        "arn:aws:s3:::BUCKET/PREFIX/*": used - OF_THE_BUCKET,
        "arn:aws:s3:::BUCKET": used & OF_THE_BUCKET,
    }
    asked = set(re.findall(r"s3:\w+", (ROOT / "pipeline" / "stores" / "s3_errors.py").read_text()))
    assert asked
    assert asked <= used


def test_settings_that_are_named_exist() -> None:
    from pipeline.common.settings import Settings

    known = {f"NOISEMILL_{name.upper()}" for name in vars(Settings())} | {"NOISEMILL_REDIS_URL_FILE"}
    assert set(re.findall(r"NOISEMILL_[A-Z_]+", PAGE)) <= known
