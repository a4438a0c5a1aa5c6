"""The png format, read back by Pillow and by the rules of the readers it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import UsageError
from pipeline.formats import FORMATS, Labels, SampleType
from pipeline.stores import Store
from tests.formats.suite import CLASSES, SHARD, FormatSuite, Samples, make_samples, write_shard
from tests.formats.test_image import encode_png

FLAT = SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES)
BY_CLASS = SampleType(shape=(6, 5, 3), dtype="uint8", class_names=CLASSES, layout="class")


def pixels(path: Path) -> Samples:
    """An image as Pillow sees it, with its channels last."""
    with Image.open(path) as image:
        array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


class TestPng(FormatSuite):
    name = "png"
    samples = (
        SampleType(shape=(6, 5, 1), dtype="uint8", class_names=None),
        SampleType(shape=(6, 5), dtype="uint8", class_names=None),
        SampleType(shape=(1, 1, 4), dtype="uint8", class_names=None),
        FLAT,
        BY_CLASS,
    )
    refused = (
        (SampleType(shape=(6, 5, 1), dtype="float32", class_names=None), "png stores uint8, not float32"),
        (SampleType(shape=(10,), dtype="uint8", class_names=None), r"1, 3 or 4 channels.*\(10,\); use npy"),
        (SampleType(shape=(6, 1), dtype="uint8", class_names=None), "use npy"),
        (SampleType(shape=(6, 5, 2), dtype="uint8", class_names=None), "use npy"),
        (SampleType(shape=(0, 5, 1), dtype="uint8", class_names=None), "use npy"),
        (
            SampleType(shape=(6, 5, 1), dtype="uint8", class_names=None, layout="class"),
            "needs a generator with classes",
        ),
        (SampleType(shape=(6, 5, 1), dtype="uint8", class_names=("a", "a"), layout="class"), "share a folder"),
        (SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES, layout="tree"), "flat or class"),
    )

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        paths = sorted(root.rglob("*.png"), key=lambda path: path.name)
        assert [path.name for path in paths] == [f"{index:012d}.png" for index in range(21, 28)]
        samples = np.stack([pixels(path).reshape(sample.shape) for path in paths])
        if sample.class_names is None:
            return samples, None
        return samples, _labels_by_folder(root, paths) if sample.layout == "class" else _labels_by_metadata(paths)

    def damage(self, root: Path, sample: SampleType) -> Iterator[tuple[Path, bytes]]:
        path = min(root.rglob("*.png"), key=lambda path: path.name)
        whole = path.read_bytes()
        yield from ((path, data) for data in (b"", b"GIF89a", whole[:20], whole[: len(whole) // 2]))
        yield path, encode_png(np.zeros((9, 2, 1), np.uint8))
        for metadata in root.rglob("metadata.jsonl"):
            lines = metadata.read_bytes().splitlines(keepends=True)
            yield from ((metadata, b"".join(changed)) for changed in (lines[1:], lines[:-1], lines + lines[:1]))
            yield from ((metadata, bad + b"".join(lines[1:])) for bad in (b"[]\n", b"?\n", b"\xff\n", b"\n"))
            yield metadata, b"".join(lines).replace(b'"label": ', b'"label": 9999999999')
            yield metadata, b"".join(lines).replace(b'"label": ', b'"label": -')


def _labels_by_folder(root: Path, paths: list[Path]) -> Labels:
    # As ImageFolder does: the folders below images/ are the classes, and nothing else lies there.
    folders = ["t-shirt_top", "trouser", "t"]
    assert {path.parent.parent for path in paths} == {root / "images"}
    assert not list(root.rglob("metadata.jsonl"))
    return np.array([folders.index(path.parent.name) for path in paths], dtype=np.int32)


def _labels_by_metadata(paths: list[Path]) -> Labels:
    # As imagefolder does: a line per file in the files' own folder.
    (folder,) = {path.parent for path in paths}
    assert folder.name == f"{SHARD.index:08d}"
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [line["file_name"] for line in lines] == [path.name for path in paths]
    assert [line["class"] for line in lines] == [CLASSES[line["label"]] for line in lines]
    return np.array([line["label"] for line in lines], dtype=np.int32)


def test_layout_class_needs_labels() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        FORMATS["png"].names(SHARD, BY_CLASS, None)


def test_two_classes_of_one_name_are_refused() -> None:
    sample = SampleType(shape=(6, 5, 1), dtype="uint8", class_names=("a", "a"), layout="class")
    with pytest.raises(UsageError, match="share a folder"):
        FORMATS["png"].check(sample)


def test_images_hold_neither_times_nor_text(store: Store) -> None:
    samples, labels = make_samples(FLAT)
    write_shard(FORMATS["png"], store, FLAT, samples, labels)
    data = store.read("shards/00000003/000000000021.png")
    assert [name for name in (b"tIME", b"tEXt", b"zTXt", b"iTXt", b"eXIf") if name in data] == []


def test_line_separators_in_class_names_do_not_end_lines(store: Store) -> None:
    sample = SampleType(shape=(6, 5, 1), dtype="uint8", class_names=("a\u2028b", "c\nd", 'e"f'))
    samples, labels = make_samples(sample)
    write_shard(FORMATS["png"], store, sample, samples, labels)
    _, found = FORMATS["png"].read(store, SHARD, sample, None)
    np.testing.assert_array_equal(found, labels)
