"""Keras and tf.data read datasets as docs/datasets.md says; in a process of their own, as users have them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from tests.compat.readers.blocks import answers, block, blocks_of
from tests.compat.readers.examples import CLASSES, COUNT, LABELS, make_examples

KERAS = """{
    "names": names,
    "paths": [path.rpartition("/")[2] for path in images.file_paths],
    "labels": [int(label) for _, labels in images for label in labels],
    "sums": sorted(float(image.numpy().sum()) for batch, _ in images for image in batch),
}"""
TF_DATA = """{
    "labels": [int(label) for _, labels in batches for label in labels],
    "sums": sorted(float(image.numpy().astype("float64").sum()) for images, _ in batches for image in images),
    "in_order": [int(label) for _, labels in shards for label in labels],
}"""
TFRECORD = """{
    "labels": [int(label) for _, label in records],
    "sums": [float(image.numpy().sum()) for image, _ in records],
}"""
CARD = """sorted(
    (int(label), float(sample.numpy().astype("float64").sum()))
    for samples, labels in batches for sample, label in zip(samples, labels)
)"""
CARDS = ("records", "values")


def card_code(folder: Path) -> str:
    """The first piece of code of a dataset's card."""
    return (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


STREAM = "[int(label) for _, labels in batches for label in labels]"


def test_keras_and_tf_data(tmp_path: Path) -> None:
    folder = make_examples(tmp_path / "examples")
    # A recipe of somebody else, as it seems to a process with a home of its own.
    stream = block("keras", "stream_dataset").replace('.json"', '.json", trust_generator=True')
    pieces = [
        (block("keras", "image_dataset_from_directory"), KERAS),
        (block("keras", "from_generator"), TF_DATA),
        (stream, STREAM),
        (block("keras", "TFRecordDataset"), TFRECORD),
    ]
    assert len(pieces) == len(blocks_of("keras"))
    export(str(folder / "out"), str(folder / "values"), to="tfrecord", dtype="float32")
    # What the datasets' own cards say, of images and of values.
    pieces += [(f"import os\nos.chdir({str(folder / name)!r})\n{card_code(folder / name)}", CARD) for name in CARDS]
    keras, tf_data, streamed, tfrecord, *cards = answers(Path(sys.executable), folder, pieces, tmp_path)
    assert keras["names"] == sorted(CLASSES)
    assert sorted(keras["paths"]) == [f"{index:012d}.png" for index in range(COUNT)]
    by_name = Counter(keras["names"][label] for label in keras["labels"])
    assert by_name == Counter(CLASSES[label] for label in LABELS)
    pixels = Dataset(folder / "pictures").samples(0, COUNT)
    assert np.allclose(keras["sums"], sorted(pixels.reshape(COUNT, -1).sum(axis=1)))
    assert Counter(tf_data["labels"]) == Counter(LABELS)
    assert tf_data["in_order"] == LABELS
    assert Counter(streamed) == Counter(LABELS)
    floats = Dataset(folder / "out").samples(0, COUNT).astype(np.float64)
    assert np.allclose(tf_data["sums"], sorted(floats.reshape(COUNT, -1).sum(axis=1)))
    assert tfrecord == {"labels": LABELS, "sums": pixels.reshape(COUNT, -1).sum(axis=1).tolist()}
    for name, card in zip(CARDS, cards, strict=True):
        samples = Dataset(folder / name).samples(0, COUNT).astype(np.float64)
        assert np.allclose(card, sorted(zip(LABELS, samples.reshape(COUNT, -1).sum(axis=1).tolist(), strict=True)))
