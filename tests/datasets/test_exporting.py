"""Exports: each form into each other, on disk and in S3, interrupted, from damaged sources, over existing data."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import DatasetError, DestinationOccupiedError, NoisemillError, SampleError, UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export, source
from pipeline.datasets.verification import verify
from pipeline.formats.values import to_stored
from pipeline.stores import open_store
from pipeline.stores.local import LocalDraft
from tests.making import make_dataset, make_spec
from tests.servers import S3Server

SOURCES: dict[str, dict[str, Any]] = {
    "npy": {},
    "float16": {"dtype": "float16", "labels": "random"},
    "bytes": {"dtype": "uint8"},
    "png": {"format": "png", "dtype": "uint8", "sample_shape": (4, 4, 3)},
    "png-class": {"format": "png", "dtype": "uint8", "layout": "class", "labels": "random"},
    "tar": {"format": "tar", "dtype": "uint8", "labels": "counts:2=50,0=50"},
    "tfrecord": {"format": "tfrecord", "dtype": "uint8"},
    "parquet": {"format": "parquet", "dtype": "uint8"},
    "plain": {"classes": None, "labels": None, "sample_shape": (4, 4, 4)},
}
TARGETS: dict[str, dict[str, Any]] = {
    "npy": {"to": "npy"},
    "bytes": {"to": "npy", "dtype": "uint8", "shard_size": 7},
    "png": {"to": "png", "shard_size": 50},
    "png-class": {"to": "png", "layout": "class"},
    "tar": {"to": "tar", "shard_size": 100},
    "tfrecord": {"to": "tfrecord", "shard_size": 100},
    "parquet": {"to": "parquet", "shard_size": 40},
    "npz": {"to": "npz"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of each form; nobody changes them."""
    folder = tmp_path_factory.mktemp("sources")
    for name, changes in SOURCES.items():
        make_dataset(folder / name, make_spec(**changes))
    return folder


def expected_pixels(dataset: Dataset) -> Any:
    """All samples as uint8."""
    samples = dataset.samples(0, len(dataset))
    return samples if samples.dtype == np.uint8 else to_stored(samples.astype(np.float32), "uint8", (-1.0, 1.0))


def files(place: str) -> dict[str, bytes]:
    store = open_store(place)
    return {entry.name: store.read(entry.name) for entry in store.list()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", SOURCES)
def test_every_form_into_every_other(made: Path, tmp_path: Path, form: str, target: str) -> None:
    original = Dataset(made / form)
    options = TARGETS[target]
    if target == "png-class" and form == "plain":
        with pytest.raises(UsageError, match="needs a generator with classes"):
            export(str(made / form), str(tmp_path / "out"), **options)
        return
    out = tmp_path / ("out.npz" if target == "npz" else "out")
    told: list[tuple[int, int]] = []
    done = export(str(made / form), str(out), **options, progress=lambda *pair: told.append(pair))
    assert (done.count, done.count_found, told[-1]) == (100, 0, (100, 100))
    if target == "npz":
        check_npz(out, original)
        return
    exported = Dataset(out)
    wanted = original.samples(0, 100) if target == "npy" else expected_pixels(original)
    assert exported.samples(0, 100).dtype == wanted.dtype
    assert np.array_equal(exported.samples(0, 100), wanted)
    if original.labels() is not None:
        assert np.array_equal(exported.labels(), original.labels())  # type: ignore[arg-type]
    assert verify(str(out)).sound
    assert json.loads((out / "export.json").read_text())["exported_from"] == original.url
    assert f"| Exported from | `{original.url}` |" in (out / "README.md").read_text()
    assert exported.available == 100


def check_npz(path: Path, original: Dataset) -> None:
    with np.load(path) as arrays:
        assert sorted(arrays) == (["arr_0"] if original.labels() is None else ["arr_0", "arr_1"])
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], expected_pixels(original))
        if original.labels() is not None:
            assert arrays["arr_1"].dtype == np.int64
            assert np.array_equal(arrays["arr_1"], original.labels())  # type: ignore[arg-type]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.comment)["exported_from"] == original.url


EXACT: dict[str, dict[str, Any]] = {
    "png": {"to": "png"},
    "tar": {"to": "tar", "shard_size": 40},
    "tfrecord": {"to": "tfrecord"},
    "parquet": {"to": "parquet"},
}


@pytest.mark.parametrize(("form", "channels"), [("npy", 1), ("tar", 1), ("png", 3)])
def test_npz_with_three_channels_and_other_names(made: Path, tmp_path: Path, form: str, channels: int) -> None:
    export(str(made / form), str(tmp_path / "a.npz"), to="npz", channels=3, arrays="x_train,y_train")
    original = Dataset(made / form)
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["x_train", "y_train"]
        assert arrays["x_train"].dtype == np.uint8
        assert np.array_equal(arrays["x_train"], np.repeat(expected_pixels(original), 3 // channels, axis=-1))
        assert np.array_equal(arrays["y_train"], original.labels())  # type: ignore[arg-type]


def test_guided_diffusion_reads_npz_with_three_channels(made: Path, tmp_path: Path) -> None:
    """Batch by batch from within the zip file, as its evaluator does, whose network takes (n, height, width, 3)."""
    export(str(made / "bytes"), str(tmp_path / "a.npz"), to="npz", channels=3)
    batches = []
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("arr_0.npy") as member:
        assert np.lib.format.read_magic(member) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        assert (shape[-1], fortran, dtype.name) == (3, False, "uint8")
        for first in range(0, shape[0], 64):
            rows = min(64, shape[0] - first)
            data = member.read(rows * int(np.prod(shape[1:])))
            batches.append(np.frombuffer(data, dtype).reshape(rows, *shape[1:]))
        assert member.read() == b""
    assert np.array_equal(np.concatenate(batches), np.repeat(expected_pixels(Dataset(made / "bytes")), 3, axis=-1))


def test_npz_with_three_channels_of_matrices(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(sample_shape=(4, 5), classes=None, labels=None))
    export(str(folder), str(tmp_path / "a.npz"), to="npz", channels=3, arrays="images")
    with np.load(tmp_path / "a.npz") as arrays:
        assert list(arrays) == ["images"]
        assert np.array_equal(arrays["images"], np.stack([expected_pixels(Dataset(folder))] * 3, axis=-1))


def test_values_stay_values(tmp_path: Path) -> None:
    """Formats for any samples store others than images as they are, and images too if asked for."""
    folder = make_dataset(tmp_path / "d", make_spec(sample_shape=(5,), dtype="float16"))
    pictures = make_dataset(tmp_path / "pictures", make_spec())
    for form in ("tfrecord", "parquet"):
        export(str(folder), str(tmp_path / form), to=form)
        assert Dataset(tmp_path / form).spec.dtype == "float16"
        assert np.array_equal(Dataset(tmp_path / form).samples(0, 100), Dataset(folder).samples(0, 100))
        export(str(pictures), str(tmp_path / f"{form}-floats"), to=form, dtype="float32")
        assert np.array_equal(Dataset(tmp_path / f"{form}-floats").samples(0, 100), Dataset(pictures).samples(0, 100))
        export(str(tmp_path / f"{form}-floats"), str(tmp_path / f"{form}-back"), to="npy")
        assert (tmp_path / f"{form}-back/shards/00000001.npy").read_bytes() == (
            pictures / "shards/00000001.npy"
        ).read_bytes()


def test_an_export_is_what_its_job_would_have_made(made: Path, tmp_path: Path) -> None:
    """From float32, byte for byte: the same spec, so the same dataset."""
    for name, options in EXACT.items():
        export(str(made / "npy"), str(tmp_path / name), **options)
        changes = {"format": name, "dtype": "uint8", "shard_size": options.get("shard_size", 30)}
        direct = make_dataset(tmp_path / f"direct-{name}", make_spec(**changes))
        assert Dataset(tmp_path / name).spec == Dataset(direct).spec
        ours, theirs = files(str(tmp_path / name)), files(str(direct))
        data = [file for file in theirs if file.startswith("shards/")]
        assert data
        assert all(ours[file] == theirs[file] for file in data)


def test_other_programs_see_the_labels(made: Path, tmp_path: Path) -> None:
    export(str(made / "npy"), str(tmp_path / "pictures"), to="png", layout="class")
    paths = list((tmp_path / "pictures/images").rglob("*.png"))
    assert {path.parent.name for path in paths} == {"circle", "square", "star", "cross"}
    with Image.open(paths[0]) as image:
        assert (image.size, image.mode) == ((4, 4), "L")
    export(str(made / "npy"), str(tmp_path / "tars"), to="tar")
    with tarfile.open(tmp_path / "tars/shards/00000001.tar") as tar:
        member = tar.extractfile("000000000031.cls")
        assert member is not None
        assert member.read() == b"3"


@pytest.mark.parametrize("form", ["tar"])
def test_s3_on_both_sides(made: Path, tmp_path: Path, s3: S3Server, form: str) -> None:
    there, back, file = s3.destination(), tmp_path / "back", f"{s3.destination()}/a.npz"
    export(str(made / form), there, to="png")
    assert verify(there).sound
    export(there, str(back), to="tar")
    assert np.array_equal(Dataset(back).samples(0, 100), expected_pixels(Dataset(made / form)))
    elsewhere = s3.destination()
    export(there, elsewhere, to="npy", shard_size=10)
    assert verify(elsewhere).sound
    export(elsewhere, file, to="npz")
    (tmp_path / "a.npz").write_bytes(open_store(file.removesuffix("/a.npz")).read("a.npz"))
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], expected_pixels(Dataset(made / form)))
    with pytest.raises(DestinationOccupiedError, match=r"a\.npz is there already"):
        export(elsewhere, file, to="npz")


def test_what_the_user_brought_comes_along(tmp_path: Path) -> None:
    def npy(array: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    rows = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    uploads = {"latents.npy": npy(rows), "labels.npy": npy((np.arange(100) // 30).astype(np.int32))}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in uploads.items()}
    spec = make_spec(latents=hashes["latents.npy"], labels=f"file:{hashes['labels.npy']}")
    folder = make_dataset(tmp_path / "d", spec, uploads=uploads)
    export(str(folder), str(tmp_path / "out"), to="png")
    assert verify(str(tmp_path / "out")).sound
    assert np.array_equal(Dataset(tmp_path / "out").latents(0, 100), rows)
    (folder / "labels.npy").write_bytes(uploads["labels.npy"][:-1] + b"\1")
    with pytest.raises(DatasetError, match=r"labels\.npy is damaged"):
        export(str(folder), str(tmp_path / "again"), to="png")
    (folder / "labels.npy").unlink()
    with pytest.raises(DatasetError, match=r"labels\.npy is missing"):
        export(str(folder), str(tmp_path / "again"), to="npz")
    assert not (tmp_path / "again").exists()


# -- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["png", "npz"])
@pytest.mark.parametrize("after", [0, 60])
def test_an_interrupted_export_is_recognised_and_goes_on(made: Path, tmp_path: Path, target: str, after: int) -> None:
    out = tmp_path / ("out.npz" if target == "npz" else "out")

    def interrupt(done: int, _total: int) -> None:
        if done > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(str(made / "bytes"), str(out), to=target, progress=interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".noisemill-") and path.is_dir()]
    if target == "npz":
        assert list(tmp_path.iterdir()) == []
    else:
        assert not Dataset(out).whole
        assert not verify(str(out)).sound
        with pytest.raises(DestinationOccupiedError, match="holds another job"):
            export(str(made / "bytes"), str(out), to="tar")
        with pytest.raises(DatasetError, match="is not whole"):
            export(str(out), str(tmp_path / "other"), to="npy")
    found = 0 if target == "npz" else sum(receipt.count for receipt in Dataset(out).finished().values())
    done = export(str(made / "bytes"), str(out), to=target)
    assert done.count_found == found
    if target == "npz":
        check_npz(out, Dataset(made / "bytes"))
    else:
        assert verify(str(out)).sound
        again = export(str(made / "bytes"), str(out), to=target)
        assert (again.count_found, again.size_bytes) == (100, done.size_bytes)
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_disk_that_fails_ends_it_in_words(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.common.errors import StoreError

    calls = 0
    original = LocalDraft.commit

    def commit(self: LocalDraft) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StoreError("the disk is full")
        return original(self)

    monkeypatch.setattr(LocalDraft, "commit", commit)
    with pytest.raises(StoreError, match="the disk is full"):
        export(str(made / "npy"), str(tmp_path / "out"), to="png")
    export(str(made / "npy"), str(tmp_path / "out"), to="png")
    assert verify(str(tmp_path / "out")).sound


# -- sources that are not sound --------------------------------------------------------------------------------


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "byte": ("npy", lambda f: flip(f / "shards/00000002.npy"), r"shards/00000002\.npy is damaged: its hash"),
    "pixel": ("png", lambda f: flip(f / "shards/00000001/000000000031.png", 60), r"000000000031\.png is damaged"),
    "truncated": (
        "npy",
        lambda f: (f / "shards/00000001.npy").write_bytes((f / "shards/00000001.npy").read_bytes()[:-9]),
        r"its hash is not its receipt's \(it has [0-9,]+ bytes of [0-9,]+\); 'noisemill resume",
    ),
    "cut tar": ("tar", lambda f: os.truncate(f / "shards/00000003.tar", 1000), "it has 1,000 bytes of"),
    "missing": ("npy", lambda f: (f / "shards/00000001.npy").unlink(), r"shards/00000001\.npy is missing"),
    "missing png": ("png-class", lambda f: shutil.rmtree(f / "images/star"), r"images/star/.* is missing"),
    "no receipt": ("npy", lambda f: (f / "receipts/00000002.json").unlink(), "shard 2 has no receipt"),
    "no manifest": ("npy", lambda f: (f / "manifest.json").unlink(), "is not whole: 'noisemill resume"),
    "no job": ("npy", lambda f: (f / "job.json").unlink(), "holds no dataset"),
}


@pytest.mark.parametrize(
    ("kind", "large"),
    [*((kind, False) for kind in DAMAGE), *((kind, True) for kind in ("byte", "truncated", "cut tar", "missing"))],
)
def test_damaged_sources_are_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, large: bool
) -> None:
    form, damage, words = DAMAGE[kind]
    folder = Path(shutil.copytree(made / form, tmp_path / "source"))
    damage(folder)
    if large:
        monkeypatch.setattr(source, "_WHOLE_BYTES", 10)
    for to, out in (("npy", tmp_path / "out"), ("npz", tmp_path / "out.npz")):
        with pytest.raises(DatasetError, match=words):
            export(str(folder), str(out), to=to, dtype="uint8")
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "out/manifest.json").exists()


# -- what cannot be ------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[str, str, dict[str, Any], type[NoisemillError], str]] = {
    "itself": ("npy", "SOURCE", {"to": "png"}, UsageError, "is the dataset itself"),
    "itself by another name": ("npy", "SOURCE/../npy/", {"to": "png"}, UsageError, "is the dataset itself"),
    "below itself": ("npy", "SOURCE/pngs", {"to": "png"}, UsageError, "is inside the dataset"),
    "npz below itself": ("npy", "SOURCE/a.npz", {"to": "npz"}, UsageError, "is inside the dataset"),
    "above itself": ("npy", "SOURCE/..", {"to": "png"}, DestinationOccupiedError, "is not empty"),
    "unknown form": ("npy", "out", {"to": "jpg"}, UsageError, "'jpg' is unknown: did you mean png"),
    "far from any": ("npy", "out", {"to": "hdf5"}, UsageError, "unknown: use npy, png, tar, tfrecord,"),
    "floats from bytes": ("bytes", "out", {"to": "npy", "dtype": "float32"}, UsageError, "cannot be restored"),
    "more bits": ("float16", "out", {"to": "npy", "dtype": "float32"}, UsageError, "the samples are float16"),
    "unknown dtype": ("npy", "out", {"to": "npy", "dtype": "int8"}, UsageError, "dtype 'int8' is not"),
    "float PNG": ("npy", "out", {"to": "png", "dtype": "float32"}, UsageError, "png stores uint8"),
    "float npz": ("npy", "out.npz", {"to": "npz", "dtype": "float32"}, UsageError, "npz is uint8"),
    "layout of npy": ("npy", "out", {"to": "npy", "layout": "class"}, UsageError, "npy has no layout 'class'"),
    "layout of npz": ("npy", "out.npz", {"to": "npz", "layout": "class"}, UsageError, "--layout is not for npz"),
    "shards of npz": ("npy", "out.npz", {"to": "npz", "shard_size": 5}, UsageError, "--shard-size is not for npz"),
    "channels of npy": ("npy", "out", {"to": "npy", "channels": 3}, UsageError, "--channels is only for npz"),
    "arrays of npy": ("npy", "out", {"to": "npy", "arrays": "x,y"}, UsageError, "--arrays is only for npz"),
    "four channels": ("npy", "out.npz", {"to": "npz", "channels": 4}, UsageError, "channels 4: only 3"),
    "alpha": ("plain", "out.npz", {"to": "npz", "channels": 3}, UsageError, "have an alpha channel"),
    "one name": ("npy", "out.npz", {"to": "npz", "arrays": "x"}, UsageError, "the samples have labels too"),
    "same names": ("npy", "out.npz", {"to": "npz", "arrays": "x,x"}, UsageError, "two different names"),
    "odd names": ("npy", "out.npz", {"to": "npz", "arrays": "x,a/b"}, UsageError, "two different names"),
    "name of npz": ("npy", "out", {"to": "npz"}, UsageError, r"must end in \.npz"),
    "bucket": ("npy", "s3://name.npz", {"to": "npz"}, UsageError, "names a bucket"),
    "no classes": ("plain", "out", {"to": "png", "layout": "class"}, UsageError, "needs a generator with classes"),
    "no image": ("vector", "out", {"to": "png"}, UsageError, "png needs images of 1, 3 or 4 channels"),
    "two channels": ("pairs", "out.npz", {"to": "npz"}, UsageError, "npz needs images of 1, 3 or 4 channels"),
    "no range": ("unbounded", "out", {"to": "tar"}, UsageError, "uint8 needs the range"),
    "null": ("null", "out", {"to": "npy"}, DatasetError, "holds no samples"),
    "no dataset": ("nothing", "out", {"to": "npy"}, DatasetError, "holds no dataset"),
    "other scheme": ("npy", "ftp://x/y", {"to": "npy"}, UsageError, "cannot be written"),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for name in ("npy", "float16", "bytes", "plain"):
        shutil.copytree(made / name, folder / name)
    make_dataset(folder / "vector", make_spec(sample_shape=(5,)))
    make_dataset(folder / "pairs", make_spec(sample_shape=(4, 4, 2)))
    make_dataset(folder / "unbounded", make_spec(value_range=None))
    make_dataset(folder / "null", make_spec(format="null"))
    return folder


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    form, out, options, error, words = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in odd.rglob("*"))
    with pytest.raises(error, match=words):
        export(str(odd / form), out.replace("SOURCE", str(odd / form)), **options)
    assert sorted(str(path) for path in odd.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_existing_data_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "folder.npz/mine.txt").write_text("mine")
    (tmp_path / "a.npz").write_text("mine")
    shutil.copytree(made / "tar", tmp_path / "other")
    before = files(str(tmp_path))
    for out, to in (("full", "png"), ("other", "png"), ("a.npz", "npz"), ("folder.npz", "npz"), ("a.npz", "png")):
        with pytest.raises(NoisemillError):
            export(str(made / "npy"), str(tmp_path / out), to=to)
    assert files(str(tmp_path)) == before


def test_values_that_float16_cannot_hold(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(sample_shape=(2,), value_range=None))
    samples = np.load(folder / "shards/00000001.npy")
    samples[3] = 1e6
    np.save(folder / "shards/00000001.npy", samples)
    receipt = json.loads((folder / "receipts/00000001.json").read_text())
    receipt["files"][0]["sha256"] = hashlib.sha256((folder / "shards/00000001.npy").read_bytes()).hexdigest()
    (folder / "receipts/00000001.json").write_text(json.dumps(receipt))
    with pytest.raises(SampleError, match="values that float16 cannot hold: sample 33"):
        export(str(folder), str(tmp_path / "out"), to="npy", dtype="float16")


@pytest.mark.parametrize("to", ["npy", "npz"])
def test_memory_is_bounded_whatever_the_shards_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """A shard of 48 MB: read, checked, converted and written in a few pieces of 1 MB."""
    monkeypatch.setattr(source, "_WHOLE_BYTES", 2**20)
    monkeypatch.setattr(source, "_BATCH_BYTES", 2**20)
    spec = make_spec(count=3000, shard_size=3000, sample_shape=(64, 64, 1))
    folder = make_dataset(tmp_path / "d", spec)
    tracemalloc.start()
    try:
        export(str(folder), str(tmp_path / f"out.{to}"), to=to, dtype="uint8")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20


def test_npz_beyond_4_gb_is_zip64(tmp_path: Path, made: Path) -> None:
    """Sizes stand behind each member in 64 bits, since they are not known before; a small file shows it."""
    export(str(made / "bytes"), str(tmp_path / "a.npz"), to="npz")
    data = (tmp_path / "a.npz").read_bytes()
    needs, flags = int.from_bytes(data[4:6], "little"), int.from_bytes(data[6:8], "little")
    assert (needs, bool(flags & 8)) == (45, True)
    export(str(made / "bytes"), str(tmp_path / "b.npz"), to="npz")
    assert (tmp_path / "b.npz").read_bytes() == data
