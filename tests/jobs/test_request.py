"""What a user asks for, resolved against a generator."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import UsageError
from pipeline.datasets.destination import Upload
from pipeline.generators import Generator, Interface
from pipeline.generators.structure import Structure
from pipeline.jobs.request import JobRequest
from pipeline.spec.job_spec import JobSpec
from pipeline.stores import open_store
from tests.making import CLASSES

INTERFACE = Interface(
    latent_input="z", latent_shape=(8,), label_input="y", label_encoding="integer", classes=CLASSES,
    output="image", channels_first=False, sample_shape=(4, 4, 1), value_range=(-1.0, 1.0),
)  # fmt: skip
DIGEST = "sha256:" + "ab" * 32


def generator(**changes: Any) -> Generator:
    return Generator(
        reference="/models/tiny.keras", kind="keras", model=Path("/models/tiny.keras"), name="tiny", summary="",
        content="ab" * 32, digest=DIGEST, size_bytes=1, structure=Structure(inputs=(), outputs=()),
        interface=dataclasses.replace(INTERFACE, **changes),
    )  # fmt: skip


PLAIN = generator(classes=None, label_input=None, label_encoding=None)


def resolve(found: Generator | None = None, **options: Any) -> JobSpec:
    spec, uploads = JobRequest(**options).resolve(found or generator())
    assert uploads == []
    return spec


def refusal(found: Generator | None = None, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        JobRequest(**options).resolve(found or generator())
    return str(caught.value)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_saved_model_computes_as_it_was_saved(precision: str) -> None:
    saved = dataclasses.replace(generator(), kind="saved_model")
    assert resolve(count=1, precision=precision).precision == precision
    assert refusal(saved, count=1, precision=precision).startswith(
        f"{precision}: a SavedModel computes as it was saved"
    )
    assert resolve(saved, count=1, precision="tf32").precision == "tf32"


def test_defaults() -> None:
    spec = resolve(count=10)
    assert spec == JobSpec(
        generator="/models/tiny.keras", digest=DIGEST, count=10, seed=0, shard_size=8192, format="npy", dtype="float32",
        layout="flat", labels="balanced", noise="normal", latents=None, batch=0, latent_shape=(8,),
        sample_shape=(4, 4, 1), value_range=(-1.0, 1.0), classes=CLASSES,
    )  # fmt: skip
    assert JobSpec.from_json(spec.to_json()) == spec


def test_a_generator_without_classes_has_no_labels() -> None:
    assert resolve(PLAIN, count=10).labels is None
    assert refusal(PLAIN, count=10, labels="balanced") == "labels 'balanced': this generator has no classes"


def test_options_arrive_in_their_canonical_form() -> None:
    spec = resolve(
        count=10, seed=3, shard_size=4, format="png", layout="class", labels="class:Star", noise="truncated:0.70",
        batch=64,
    )  # fmt: skip
    assert (spec.seed, spec.shard_size, spec.format, spec.dtype, spec.layout) == (3, 4, "png", "uint8", "class")
    assert (spec.labels, spec.noise, spec.batch) == ("class:2", "truncated:0.7", 64)


def test_the_default_shard_size_follows_from_the_samples_size() -> None:
    large = generator(sample_shape=(1024, 1024, 3))
    assert resolve(large, count=10).shard_size == 4
    assert resolve(large, count=10, dtype="uint8").shard_size == 16
    assert resolve(large, count=10, format="png").shard_size == 16


def test_counts_follow_from_the_label_plan() -> None:
    assert resolve(labels="counts:0=100,star=50").count == 150
    assert resolve(labels="counts:0=100", count=100).count == 100
    assert refusal(labels="counts:0=100", count=99).startswith("labels 'counts:0=100' are 100, the samples 99")


@pytest.mark.parametrize(("options", "words"), [
    ({}, "how many samples? give --count"), ({"count": 0}, "count 0"), ({"count": -1}, "count -1"),
    ({"count": 10**13}, "count"), ({"count": 1, "seed": -1}, "seed -1"), ({"count": 1, "seed": 2**32}, "seed"),
    ({"count": 1, "format": "nyp"}, "did you mean npy"), ({"count": 1, "dtype": "float64"}, "dtype"),
    ({"count": 1, "format": "png", "dtype": "float32"}, "png stores uint8"),
    ({"count": 1, "layout": "class"}, "no layout 'class'"), ({"count": 1, "layout": "x"}, "flat or class"),
    ({"count": 1, "labels": "balance"}, "label plan 'balance' is unknown"),
    ({"count": 1, "labels": "class:circel"}, "did you mean 'circle'"), ({"count": 1, "noise": "x"}, "noise 'x'"),
    ({"count": 1, "batch": -1}, "batch -1"), ({"count": 1, "shard_size": -5}, "shard size -5"),
    ({"count": 10**9, "shard_size": 1}, "larger shard size"),
])  # fmt: skip
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    text = refusal(**options)
    assert words in text
    assert len(text.splitlines()) <= 2


def test_uint8_needs_a_range() -> None:
    unknown = generator(value_range=None)
    assert resolve(unknown, count=1).value_range is None
    assert "uint8 needs the value range" in refusal(unknown, count=1, format="png")


def test_png_needs_images() -> None:
    assert "use npy" in refusal(generator(sample_shape=(16,)), count=1, format="png")


# -- files of the user's own -----------------------------------------------------------------------


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def brought(found: Generator | None = None, **options: Any) -> tuple[JobSpec, list[Upload]]:
    return JobRequest(**options).resolve(found or generator())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4"])
def test_latents_are_copied_as_float32_and_their_rows_are_the_count(tmp_path: Path, dtype: str) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8)).astype(dtype)
    spec, [upload] = brought(latents=save(tmp_path / "z.npy", rows))
    assert (spec.count, spec.latents, upload.name) == (12, upload.sha256, "latents.npy")
    assert upload.sha256 == hashlib.sha256(upload.data).hexdigest()
    assert np.array_equal(np.load(io.BytesIO(upload.data)), rows.astype(np.float32))
    upload.write(open_store(tmp_path / "d"))
    assert (tmp_path / "d/latents.npy").read_bytes() == upload.data
    assert brought(latents=str(tmp_path / "z.npy"), count=12)[0] == spec


def test_latents_of_several_dimensions(tmp_path: Path) -> None:
    found = generator(latent_shape=(2, 2, 2))
    for shape in ((5, 2, 2, 2), (5, 8)):
        spec, [upload] = brought(found, latents=save(tmp_path / "z.npy", np.ones(shape, np.float32, order="F")))
        assert spec.count == 5
        assert np.load(io.BytesIO(upload.data)).shape == (5, 8)


@pytest.mark.parametrize(("array", "words"), [
    (np.zeros((5, 7)), "have the shape (5, 7), the generator takes (count, 8)"), (np.zeros(8), "shape"),
    (np.zeros((0, 8)), "shape"), (np.float64(1), "shape"), (np.zeros((5, 8), np.int64), "not floating point"),
    (np.full((5, 8), np.nan), "NaN"), (np.full((5, 8), 1e300), "too large for float32"),
    (np.array([["a"] * 8]), "not floating"),
])  # fmt: skip
def test_latents_that_are_none(tmp_path: Path, array: np.ndarray, words: str) -> None:
    assert words in refusal(latents=save(tmp_path / "z.npy", array))


@pytest.mark.parametrize(("data", "words"), [
    (None, "cannot be read: No such file"), (b"", "are not an .npy array"), (b"text", "are not an .npy array"),
    (b"\x93NUMPY\x01\x00", "are not an .npy array"), (b"PK\x03\x04broken", "are not an .npy array"),
    (b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9, 8), }".ljust(118), "are no"),
    (b"\x80\x04K\x01.", "are not an .npy array"),
])  # fmt: skip
@pytest.mark.parametrize("what", ["latents", "labels"])
def test_files_that_are_no_arrays(tmp_path: Path, data: bytes | None, words: str, what: str) -> None:
    path = tmp_path / "x.npy"
    if data is not None:
        path.write_bytes(data)
    text = refusal(None, count=9, **{what: str(path)})
    assert f"{what} {path} {words}" in text


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "are not an .npy array" in refusal(latents=str(tmp_path / "z.npy"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.npy").mkdir()
    assert "cannot be read: Is a directory" in refusal(latents=str(tmp_path / "x.npy"))


def test_latents_exclude_noise_and_another_count(tmp_path: Path) -> None:
    path = save(tmp_path / "z.npy", np.zeros((5, 8), np.float32))
    assert "exclude each other" in refusal(latents=path, noise="uniform")
    assert re.search("count 6 is not the 5 rows .*leave --count out", refusal(latents=path, count=6))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
def test_labels_from_an_array(tmp_path: Path, dtype: str) -> None:
    path = save(tmp_path / "y.npy", np.array([3, 0, 1], dtype))
    spec, [upload] = brought(labels=path)
    assert (spec.count, spec.labels) == (3, f"file:{upload.sha256}")
    stored = np.load(io.BytesIO(upload.data))
    assert stored.dtype == np.int32
    assert stored.tolist() == [3, 0, 1]


@pytest.mark.parametrize(("text", "labels"), [
    ("0\n1\n3\n", [0, 1, 3]), ("0\r\n1\r\n", [0, 1]), ("star\n Circle \n2", [2, 0, 2]), ("0", [0]),
    ("\ufeff0\n", [0]),  # A byte order mark, as some editors put before the text.
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_labels_from_lines(tmp_path: Path, text: str, labels: list[int], suffix: str) -> None:
    path = tmp_path / f"y.{suffix}"
    path.write_bytes(text.encode())
    _, [upload] = brought(labels=str(path))
    assert np.load(io.BytesIO(upload.data)).tolist() == labels


@pytest.mark.parametrize(("text", "words"), [
    ("0\n\n1\n", "'' in line 2 is not a class"), ("", "not whole numbers"), ("0\nsqare\n", "did you mean 'square'"),
    ("0\n4\n", "4 at row 1 is not a class, they are 0 to 3"), ("-1\n", "'-1' in line 1"),
    ("\u00b2\n", "is not a class"),
    ("1.0\n", "is not a class"), ("9" * 30 + "\n", "is not a class"), ("0,1\n", "is not a class"),
])  # fmt: skip
def test_lines_that_are_no_labels(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "y.txt").write_text(text, encoding="utf-8")
    assert words in refusal(labels=str(tmp_path / "y.txt"))


@pytest.mark.parametrize(("array", "words"), [
    (np.array([0, 4]), "4 at row 1 is not a class"), (np.array([0, -1]), "-1 at row 1"), (np.array([[0]]), "shape"),
    (np.array([0.0]), "not whole numbers"), (np.zeros(0, np.int32), "not whole numbers"), (np.array([True]), "whole"),
])  # fmt: skip
def test_arrays_that_are_no_labels(tmp_path: Path, array: np.ndarray, words: str) -> None:
    assert words in refusal(labels=save(tmp_path / "y.npy", array))


def test_latents_and_labels_must_be_as_many(tmp_path: Path) -> None:
    latents = save(tmp_path / "z.npy", np.zeros((3, 8), np.float32))
    spec, uploads = brought(latents=latents, labels=save(tmp_path / "y.npy", np.array([0, 1, 2])))
    assert [upload.name for upload in uploads] == ["latents.npy", "labels.npy"]
    assert spec.count == 3
    assert "the numbers must be equal" in refusal(latents=latents, labels=save(tmp_path / "y.npy", np.array([0, 1])))
    assert "the numbers must be equal" in refusal(count=3, labels=str(tmp_path / "y.npy"))
