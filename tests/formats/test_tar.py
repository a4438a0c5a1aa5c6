"""The tar format, read back by tarfile and Pillow as WebDataset groups it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.formats import FORMATS, Labels, SampleType
from pipeline.stores import Store
from tests.formats.suite import CLASSES, FormatSuite, Samples, make_samples, write_shard

LABELLED = SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES)
NAME = "shards/00000003.tar"


class TestTar(FormatSuite):
    name = "tar"
    samples = (
        SampleType(shape=(6, 5, 3), dtype="uint8", class_names=None),
        LABELLED,
        SampleType(shape=(30, 31, 4), dtype="uint8", class_names=CLASSES),
    )
    refused = (
        (SampleType(shape=(6, 5, 1), dtype="float16", class_names=None), "tar stores uint8, not float16"),
        (SampleType(shape=(6, 5, 2), dtype="uint8", class_names=None), "tar needs images of 1, 3 or 4 channels"),
        (SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES, layout="class"), "no layout 'class'"),
    )

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        images: list[Samples] = []
        labels: list[int] = []
        for members in _groups(root / NAME):
            with Image.open(io.BytesIO(members["png"])) as image:
                images.append(np.asarray(image).reshape(sample.shape))
            if "cls" in members:
                labels.append(int(members["cls"]))
        return np.stack(images), np.array(labels, dtype=np.int32) if labels else None

    def damage(self, root: Path, sample: SampleType) -> Iterator[tuple[Path, bytes]]:
        path = root / NAME
        whole = path.read_bytes()
        yield from ((path, data) for data in (b"", b"x" * 512, whole[:100], whole[:600], whole[: len(whole) // 2]))
        yield path, whole[:520] + b"?" * 20 + whole[540:]
        yield path, whole.replace(b"000000000023.png", b"000000000099.png")
        if sample.class_names is not None:
            start = whole.index(b"000000000021.cls")
            yield path, whole[: start + 512] + b"x" + whole[start + 513 :]


def _groups(path: Path) -> list[dict[str, bytes]]:
    """Files by extension, for each run of files that share a stem."""
    groups: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            stem, _, extension = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None
            assert stem not in list(groups)[:-1], "the files of a sample follow each other"
            groups.setdefault(stem, {})[extension] = file.read()
    assert list(groups) == [f"{index:012d}" for index in range(21, 28)]
    return list(groups.values())


def test_members_hold_nothing_that_changes(store: Store) -> None:
    write_shard(FORMATS["tar"], store, LABELLED, *make_samples(LABELLED))
    with tarfile.open(Path(store.url) / NAME) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.mode == 0o644
            assert member.isreg()


def test_the_end_is_as_tarfile_writes_it(store: Store) -> None:
    write_shard(FORMATS["tar"], store, LABELLED, *make_samples(LABELLED))
    path = Path(store.url) / NAME
    again = io.BytesIO()
    with tarfile.open(path) as tar, tarfile.open(fileobj=again, mode="w", format=tarfile.USTAR_FORMAT) as copy:
        for member in tar:
            copy.addfile(member, tar.extractfile(member))
    assert path.read_bytes() == again.getvalue()


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the program tar")
def test_the_program_tar_reads_it(store: Store) -> None:
    write_shard(FORMATS["tar"], store, LABELLED, *make_samples(LABELLED))
    listing = subprocess.run(["tar", "tf", f"{store.url}/{NAME}"], capture_output=True, check=True, text=True)
    assert listing.stdout.splitlines()[:3] == ["000000000021.png", "000000000021.cls", "000000000022.png"]
    assert listing.stderr == ""
