"""Generators in S3, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.common.errors import GeneratorError, UnknownGeneratorError
from pipeline.generators import find_generator
from pipeline.generators.kinds import find_model
from pipeline.generators.remote import fetch
from pipeline.stores import open_store

FIXTURES = Path(__file__).parent / "tfjs"


@pytest.fixture
def url(s3_environment, tmp_path, monkeypatch):
    """A TensorFlow.js model below a prefix; a cache of its own."""
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    url = s3_environment.destination()
    store = open_store(url)
    for file in (FIXTURES / "sequential").iterdir():
        store.write(f"model/{file.name}", file.read_bytes())
    return f"{url}/model"


def test_it_is_the_same_as_on_disk(url):
    here, there = find_generator(str(FIXTURES / "sequential")), find_generator(url)
    assert there.digest == here.digest == find_generator(f"{url}/model.json").digest
    assert (there.reference, there.name) == (url, "model")


def test_it_is_fetched_once(url, monkeypatch):
    first = fetch(url)
    from pipeline.stores.s3_bucket import Bucket

    monkeypatch.setattr(Bucket, "get", lambda *_: pytest.fail("it was fetched again"))
    assert fetch(url) == first


def test_a_change_is_seen(url):
    before = find_generator(url).digest
    open_store(url).write("generator.toml", b"[output]\nrange = [0, 1]")
    assert find_generator(url).digest != before


def test_too_large(url, monkeypatch, tmp_path):
    monkeypatch.setenv("NOISEMILL_GENERATOR_LIMIT_MB", "0.001")
    with pytest.raises(GeneratorError, match="NOISEMILL_GENERATOR_LIMIT_MB"):
        find_generator(url)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_absent(url):
    for reference in (f"{url}x", f"{url}/absent.keras"):
        with pytest.raises(UnknownGeneratorError, match="no such object"):
            find_generator(reference)


def test_a_bucket_is_no_generator(url):
    with pytest.raises(UnknownGeneratorError, match="names a bucket"):
        find_generator(url.rpartition("/test-")[0])


def test_nothing_is_left_of_a_failure(url, monkeypatch, tmp_path):
    from pipeline.stores.s3_bucket import Bucket

    monkeypatch.setattr(Bucket, "get", lambda *_: b"short")
    with pytest.raises(GeneratorError, match="changed while"):
        find_generator(url)
    assert [path.name for path in (tmp_path / "cache" / "generators").iterdir()] == []


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["keras_2/image.h5"], "image.h5"),
        (["keras_2/image.weights.h5", "keras_2/image.json"], "image.weights.h5"),
        (
            ["keras_2/checkpoints/image.index", "keras_2/checkpoints/image.data-00000-of-00001", "keras_2/image.json"],
            "image.index",
        ),
        (["interpreted/batch_of_one.onnx"], "batch_of_one.onnx"),
        (["jax_export/plain.jaxexport"], "plain.jaxexport"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_file_with_what_belongs_to_it(url, files, name):
    """And not what else lies beside it."""
    store = open_store(url.removesuffix("/model"))
    for file in files:
        store.write(Path(file).name, (FIXTURES.parent / file).read_bytes())
    store.write("other.h5", bytes(1000))
    store.write("generator.toml", b"[output]\nrange = [-1, 1]")
    found = fetch(f"{url.removesuffix('/model')}/{name}")
    wanted = {"generator.toml", *(Path(file).name for file in files)}
    assert {path.name for path in found.parent.iterdir()} == wanted
    assert find_model(found) is not None
