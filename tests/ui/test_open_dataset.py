"""Pages by class without reading the dataset, samples of every form and format, and what is read for them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.dataset import Dataset
from pipeline.spec.labels import label_plan
from pipeline.stores.records import read_record
from pipeline.ui import class_index
from pipeline.ui.class_index import ClassIndex
from pipeline.ui.library import Library, key_of
from pipeline.ui.open_dataset import OpenDataset
from pipeline.ui.pictures import cell_size, picture, sprite
from tests.making import make_dataset, make_spec
from tests.servers import S3Server
from tests.ui.conftest import cell


@pytest.mark.parametrize("plan", ["balanced", "random", "class:2", "counts:0=300,3=200,1=499"])
def test_members_of_classes(monkeypatch, plan):
    monkeypatch.setattr(class_index, "_BLOCK", 64)
    made = label_plan(plan, classes=4, seed=3)
    labels = made.labels(0, 999)
    index = ClassIndex(made.labels, 999, 4, balanced=plan == "balanced")
    for label in range(4):
        members = np.flatnonzero(labels == label).tolist()
        for first in (0, 1, 70, len(members) - 3, len(members), len(members) + 100):
            if first >= 0:
                assert index.members(label, first, 90) == members[first : first + 90]
        assert index.total(label) == len(members)


def test_a_page_counts_no_more_labels_than_it_needs(monkeypatch):
    monkeypatch.setattr(class_index, "_AT_ONCE", 0)
    plan, asked = label_plan("random", classes=10, seed=0), []

    def labels(first, count):
        asked.append(count)
        return plan.labels(first, count)

    index = ClassIndex(labels, 10**9, 10, balanced=False)
    assert len(index.members(3, 0, 100)) == 100
    assert index.total(3) is None
    assert sum(asked) == 2 * class_index._BLOCK
    index.members(3, 100, 100)
    assert sum(asked) == 3 * class_index._BLOCK


def test_a_page_of_a_million_reads_its_samples_alone(tmp_path, monkeypatch):
    """A dataset of 1e6 samples, of which some shards are there: pages read 100 samples and few records."""
    spec = make_spec(count=10**6, shard_size=1000, dtype="uint8", labels="random")
    first = make_spec(count=3000, shard_size=1000, dtype="uint8", labels="random")
    folder = make_dataset(tmp_path / "d", first, finished=False)
    (folder / "job.json").write_text(spec.to_json())
    opened = OpenDataset(Dataset(folder))
    read: list[str] = []
    rows: list[int] = []

    def counted_record(store, name):
        read.append(name)
        return read_record(store, name)

    monkeypatch.setattr("pipeline.datasets.dataset.read_record", counted_record)
    samples = Dataset.samples

    def counted_samples(self, at, count):
        rows.append(count)
        return samples(self, at, count)

    monkeypatch.setattr(Dataset, "samples", counted_samples)
    for label in (None, 3):
        page = opened.page(1, label)
        assert page["made"] == [True] * 100
        opened.sprite(page["indices"])
    assert sum(rows) == 200
    assert len(read) <= 6


@pytest.mark.parametrize("form", ["npy", "png", "tar"])
def test_formats(tmp_path, form):
    layout = "class" if form == "png" else "flat"
    spec = make_spec(format=form, dtype="uint8", sample_shape=(6, 5, 3), layout=layout)
    folder = make_dataset(tmp_path / "d", spec)
    opened, samples = OpenDataset(Dataset(folder)), Dataset(folder)
    indices = [3, 40, 41, 99]
    data, kind = opened.sprite(indices)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert kind == "image/png"
    for place, index in enumerate(indices):
        np.testing.assert_array_equal(cell(pixels, place, 5, 6, 4), samples[index][0])
    assert len(opened.sheet()["indices"]) == 40
    told = opened.sample(41)
    assert told["searched"] > 30
    assert (folder / told["file"]).is_file()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((4, 4, 1), (4, 4)), ((7, 5), (5, 7)), ((300, 200, 3), (67, 75)), ((16,), (4, 4)), ((1000, 3, 2), (64, 64)),
     ((1,), (2, 2))],
)  # fmt: skip
def test_shapes(shape, size):
    width, height = cell_size(shape)
    assert max(width, height) <= 96
    assert abs(width / height - size[0] / size[1]) < 0.1
    samples = np.linspace(-1, 1, 3 * int(np.prod(shape)), dtype=np.float32).reshape(3, *shape)
    for value_range in ((-1.0, 1.0), None):
        data, _ = sprite(samples, value_range)
        assert Image.open(io.BytesIO(data)).size == (3 * (width + 2), height + 2)
        assert picture(samples[0], value_range)[0]


def test_values_are_drawn_in_their_range():
    ramp = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    pixels = np.asarray(Image.open(io.BytesIO(sprite(ramp, (-1.0, 1.0))[0])))[1:-1, 1:-1]
    np.testing.assert_array_equal(pixels.reshape(-1), np.rint(np.linspace(0, 255, 16)))
    low = np.asarray(Image.open(io.BytesIO(sprite(ramp * 0 + 5, None)[0])))
    assert low.max() == 0
    broken = np.full((1, 4, 4, 1), np.nan, np.float32)
    assert np.asarray(Image.open(io.BytesIO(sprite(broken, (-1.0, 1.0))[0]))).std() == 0


def test_in_s3(s3: S3Server):
    spec = make_spec(dtype="uint8", sample_shape=(6, 5, 1))
    place = s3.destination()
    make_dataset(place, spec)  # type: ignore[arg-type]
    samples = Dataset(place)
    opened = Library([place]).open(key_of(place))
    page = opened.page(0, 2)
    assert page["indices"] == list(range(2, 100, 4))
    assert all(page["made"])
    pixels = np.asarray(Image.open(io.BytesIO(opened.sprite(page["indices"])[0])))
    np.testing.assert_array_equal(cell(pixels, 24, 5, 6, 16), samples[98][0][:, :, 0])
    assert len(opened.sample(98)["neighbours"]) == 8


def test_a_format_without_samples(tmp_path):
    opened = OpenDataset(Dataset(make_dataset(tmp_path / "d", make_spec(format="null"))))
    assert opened.facts()["shown"] is False
    assert opened.page(0, None)["made"] == [False] * 100
