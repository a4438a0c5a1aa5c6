"""What a dataset must be, whatever happened while it was made."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.dataset import Dataset
from tests.end_to_end.fleet import TINY, Fleet

SHARD = 100


def size(shards: int) -> list[str]:
    """Options of a job of so many small shards."""
    return ["--count", str(shards * SHARD), "--shard-size", str(SHARD), "--seed", "9"]


def make_quietly(fleet: Fleet, shards: int) -> Path:
    """The same job with nothing going wrong, in a folder of its own."""
    done = fleet.run("generate", TINY, "quiet", *size(shards), timeout_s=1200)
    assert done.returncode == 0, done.stderr
    return fleet.folder / "quiet"


def assert_same(fleet: Fleet, quiet: Path, other: Path) -> None:
    """The same files with the same bytes, and a sound receipt for each shard."""
    first, second = Dataset(quiet), Dataset(other)
    assert _hashes(first) == _hashes(second)
    assert sorted(second.receipts()) == list(range(len(second.plan)))
    assert sorted(_files(quiet)) == sorted(_files(other))
    # Receipts, card and manifest tell who made what and when; all else is the same.
    different = [
        name
        for name in _files(quiet)
        if not name.startswith("receipts/") and (quiet / name).read_bytes() != (other / name).read_bytes()
    ]
    assert set(different) - {"manifest.json", "README.md", "croissant.json"} == set()
    verified = fleet.run("verify", str(other), timeout_s=600)
    assert verified.returncode == 0, verified.stderr


def _files(folder: Path) -> list[str]:
    """All of them, hidden ones too."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _hashes(dataset: Dataset) -> dict[int, list[str]]:
    return {index: [file.sha256 for file in receipt.files] for index, receipt in dataset.receipts().items()}
