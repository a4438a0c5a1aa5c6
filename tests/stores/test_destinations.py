"""What `open_store` and `normalise` take for a destination, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import UsageError
from pipeline.stores import normalise, open_store


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    real = os.path.realpath(tmp_path)
    for given in (
        "out",
        "./out",
        "out/",
        "x/../out",
        "~/out",
        tmp_path / "out",
        f"file://{real}/out",
        f"file:{real}/out",
    ):
        assert normalise(given) == f"{real}/out"


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert normalise(tmp_path / "link" / "x") == f"{os.path.realpath(tmp_path)}/real/x"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("file:///data/a%20b", "/data/a b"),
        ("file://localhost/data/x", "/data/x"),
        ("file:///data/x#1", "/data/x#1"),
        ("/data/a b#c?d", "/data/a b#c?d"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://my.bucket-1/a b/ä#?%20", "s3://my.bucket-1/a b/ä#?%20"),
    ],
)
def test_canonical_forms(given: str, expected: str) -> None:
    assert normalise(given) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nul\0",
        "http://host/bucket",
        "gs://bucket/x",
        "file://host/data",
        "file:relative",
        "file:///data?x=1",
        "s3://",
        "s3:///prefix",
        "s3:bucket/prefix",
        "s3:/bucket/prefix",
        "s3://b/prefix",
        "s3://-bucket/prefix",
        "s3://buck et/prefix",
        "s3://bucket/../other",
        "s3://bucket/a/./b",
        "s3://bucket/a//b",
        f"s3://bucket/{'x' * 801}",
    ],
)
def test_refused(given: str) -> None:
    with pytest.raises(UsageError):
        normalise(given)
    with pytest.raises(UsageError):
        open_store(given)


@pytest.mark.parametrize("given", ["https://user:password@host/x", "s3://user:password@bucket/x"])
def test_passwords_stay_out_of_messages(given: str) -> None:
    with pytest.raises(UsageError) as raised:
        normalise(given)
    assert "password" not in str(raised.value)


def test_opening_a_local_store_loads_no_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.stores import open_store; open_store(sys.argv[1]).check_writable();"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=False).returncode == 0
