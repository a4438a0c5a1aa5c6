"""Records as editors leave them, records that say two things, and what is too large to be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.common.errors import DatasetError
from pipeline.datasets.dataset import Dataset
from pipeline.stores.records import MAX_BYTES, parse_record
from tests.making import make_dataset, make_spec

RECORDS = ["job.json", "manifest.json", "receipts/00000000.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "dataset", make_spec(count=20, shard_size=10))


def read(folder: Path) -> object:
    dataset = Dataset(folder)
    return dataset.spec, dataset.manifest(), dataset.receipt(0)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    ("before", "line"), [(b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n"), (b"\xef\xbb\xbf \t", b" \r\n\r\n")]
)
def test_what_editors_leave_changes_nothing(folder: Path, name: str, before: bytes, line: bytes):
    told = read(folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(before + data.replace(b"\n", line) + line)
    assert read(folder) == told


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("again", [b'"version": 1, ', b'"version": 2, '])
def test_a_key_that_is_there_twice_is_refused(folder: Path, name: str, again: bytes):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b"{", b"{" + again, 1))
    with pytest.raises(DatasetError, match=rf"{name} is not valid JSON: 'version' is there twice"):
        read(folder)


@pytest.mark.parametrize("text", [b'{"a": {"b": 1, "b": 1}}', b'[{"\\u0062": 1, "b": 2}]'])
def test_also_further_in(text: bytes):
    with pytest.raises(DatasetError, match=r"^x is not valid JSON: 'b' is there twice$"):
        parse_record(text, "x")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_refused(encoding: str):
    with pytest.raises(DatasetError, match=r"^x is not valid JSON: "):
        parse_record('{"a": "\u00e9"}'.encode(encoding), "x")


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_too_large_is_not_read(folder: Path, name: str):
    """100 GB of a file that takes no place."""
    with (folder / name).open("r+b") as file:
        file.truncate(100 * 10**9)
    with pytest.raises(DatasetError, match=rf"{name} is larger than 64 MB: noisemill did not write that"):
        read(folder)


def test_the_largest_is_read(folder: Path):
    told = read(folder)
    data = (folder / "job.json").read_bytes()
    (folder / "job.json").write_bytes(data + b" " * (MAX_BYTES - len(data)))
    assert read(folder) == told
