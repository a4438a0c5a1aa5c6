"""The job's spec: canonical JSON, identity, and every field that can be wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.common import quantities
from pipeline.common.errors import DatasetError, UsageError
from pipeline.common.quantities import parse_count
from pipeline.spec import latents
from pipeline.spec.job_spec import FORMAT_NAMES, PRECISIONS, JobSpec
from tests.making import make_spec

SHA = "0123456789abcdef" * 4

KNOWN_SHA256 = "659e3af905138f40b3b1ab79afdd878498949c741b26961d76e114eab9dcd296"
KNOWN_ID = "tiny-06f352cdf7"


def test_seeds_and_block_numbers_fill_one_word_each() -> None:
    assert quantities.MAX_SEED < 2**32
    assert quantities.MAX_COUNT // latents.BLOCK < 2**32


# -- JSON and identity -----------------------------------------------------------------------------


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    classes = draw(st.none() | st.lists(st.text("abcdefé猫 /", min_size=1, max_size=5), min_size=1, max_size=4))
    low = draw(st.floats(-1e30, 1e30))
    return make_spec(
        generator=draw(st.sampled_from(["fashion", "/a b/ü.keras"])),
        count=draw(st.integers(1, 10**6)),
        seed=draw(st.integers(0, 2**32 - 1)),
        shard_size=draw(st.integers(1, 10**6)),
        format=draw(st.sampled_from(FORMAT_NAMES)),
        dtype=draw(st.sampled_from(["float32", "float16", "uint8"])),
        classes=tuple(classes) if classes else None,
        labels=draw(st.sampled_from(["balanced", "random", "class:0", f"file:{SHA}"])) if classes else None,
        noise=draw(st.sampled_from(["normal", "uniform", "truncated:0.7", "normal:2.5"])),
        latents=draw(st.sampled_from([None, SHA])),
        batch=draw(st.integers(0, 2**20)),
        precision=draw(st.sampled_from(PRECISIONS)),
        latent_shape=tuple(draw(st.lists(st.integers(1, 12), max_size=3))),
        sample_shape=tuple(draw(st.lists(st.integers(1, 12), max_size=3))),
        value_range=draw(st.sampled_from([None, (low, low + 1 + abs(low))])),
    )


@given(specs())
def test_canonical_json_round_trip(job: JobSpec) -> None:
    job.check()
    text = job.to_json()
    again = JobSpec.from_json(text)
    assert again == job
    assert again.to_json() == text
    assert again.sha256 == job.sha256
    assert JobSpec.from_json(text.encode()) == job


def test_json_is_canonical() -> None:
    text = make_spec().to_json()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert json.loads(text)["version"] == 1


def test_identity_is_known() -> None:
    """A changed hash would make every dataset of an earlier version another job's."""
    assert make_spec().sha256 == KNOWN_SHA256
    assert make_spec().job_id("/data/x") == KNOWN_ID


def test_identity_ignores_how_the_generator_was_asked_for() -> None:
    assert make_spec(generator="fashion").sha256 == make_spec(generator="/elsewhere/fashion.keras").sha256
    assert chosen(judge="fashion-judge").sha256 == chosen(judge="/elsewhere/judge.keras").sha256


@pytest.mark.parametrize(("field", "value"), [
    ("digest", "sha256:" + SHA), ("count", 101), ("seed", 8), ("shard_size", 31), ("format", "tar"),
    ("dtype", "float16"), ("layout", "class"), ("labels", "random"), ("noise", "uniform"), ("latents", SHA),
    ("batch", 64), ("precision", "tf32"), ("latent_shape", (4, 2)), ("sample_shape", (16,)),
    ("noise_sizes", (4,)), ("attributes", "all:0"), ("attributes_dim", 1), ("settings", (("psi", (0.7,)),)),
    ("folder_names", "unicode"), ("sampler", "heun:steps=9"), ("latent_block", 4), ("best_of", 4),
    ("judge_digest", "sha256:" + SHA), ("enough", 0.5), ("min_score", 0.5),
    ("value_range", (0.0, 1.0)), ("classes", ("a", "b", "c", "d")),
])  # fmt: skip
def test_identity_depends_on_every_other_field(field: str, value: Any) -> None:
    assert make_spec(**{field: value}).sha256 != make_spec().sha256


def test_identity_of_samples_leaves_the_count_out_alone() -> None:
    assert make_spec(count=101).samples_sha256 == make_spec().samples_sha256
    assert make_spec(seed=8).samples_sha256 != make_spec().samples_sha256
    assert make_spec(generator="fashion").samples_sha256 == make_spec().samples_sha256


def test_every_field_is_in_the_tests_of_identity() -> None:
    [mark] = test_identity_depends_on_every_other_field.pytestmark
    tested = {field for field, _ in mark.args[1]}
    assert tested | {"generator", "judge", "version"} == {field.name for field in dataclasses.fields(JobSpec)}


def test_job_id_is_a_name_and_depends_on_the_destination() -> None:
    job = make_spec(generator="/models/My Net (v2).keras")
    assert job.job_id("/a").startswith("my-net-v2-")
    assert job.job_id("/a") == job.job_id("/a") != job.job_id("/b")
    assert make_spec(generator="/models/猫.keras").job_id("/a").startswith("job-")
    assert len(make_spec(generator="x" * 300).job_id("/a")) == 24 + 1 + 10


@pytest.mark.parametrize(("reference", "name"), [
    ("fashion", "fashion"), ("/m/tiny.keras", "tiny"), ("/m/net.h5", "net"), ("https://h/a/b.keras", "b"),
    ("/m/folder/", "folder"), ("/", "generator"),
])  # fmt: skip
def test_generator_name(reference: str, name: str) -> None:
    assert make_spec(generator=reference).generator_name == name


def chosen(**changes: Any) -> JobSpec:
    """A spec with a choice among candidates."""
    return make_spec(**{"best_of": 4, "judge": "j.keras", "judge_digest": "sha256:" + SHA, "min_score": 0.5, **changes})


def test_candidates_come_back_and_are_left_out_where_there_are_none() -> None:
    assert JobSpec.from_json(chosen().to_json()) == chosen()
    assert not {"best_of", "judge", "judge_digest", "min_score"} & set(json.loads(make_spec().to_json()))


@pytest.mark.parametrize(("changes", "message"), [
    ({"best_of": 257}, "best of 257 is not a whole number from 2 to 256"), ({"best_of": 1}, "judge .* together with"),
    ({"judge": None}, "judge None"), ({"judge": ""}, "judge ''"), ({"judge_digest": "sha256:x"}, "judge digest"),
    ({"judge_digest": None}, "judge digest None"), ({"min_score": "0.5"}, "min score"),
    ({"min_score": 1e39}, "min score"),
    ({"judge": None, "judge_digest": None, "best_of": 1}, "min score 0.5 is not a number, together with a judge"),
    ({"count": 10**12, "shard_size": 10**6}, "more than 1,000,000,000,000 candidates"),
    ({"batch": 2**20, "sample_shape": (8, 8, 9)}, "use a smaller one"),
])  # fmt: skip
def test_candidates_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen(**changes).check()


# -- what is refused -------------------------------------------------------------------------------


WRONG: list[tuple[str, Any, str]] = [
    ("version", 0, "version"), ("version", True, "version"), ("version", 1.0, "version"), ("version", None, "version"),
    ("generator", "", "generator"), ("generator", 3, "generator"), ("generator", "a\nb", "generator"),
    ("digest", "sha256:abc", "digest"), ("digest", "md5:" + SHA, "digest"), ("digest", None, "digest"),
    ("digest", "sha256:" + SHA + "\n", "digest"), ("count", 0, "count"), ("count", -1, "count"),
    ("count", 10**12 + 1, "count"), ("count", 1.0, "count"), ("count", "100", "count"), ("count", True, "count"),
    ("count", 10**400, "count"), ("seed", -1, "seed"), ("seed", 2**32, "seed"), ("seed", 0.5, "seed"),
    ("shard_size", 0, "shard size"), ("shard_size", None, "shard size"), ("format", "jpg", "parquet or null"),
    ("format", ["npy"], "format"), ("format", None, "format"), ("dtype", "float64", "float16 or uint8"),
    ("layout", "tree", "flat or class"), ("labels", None, "label plan"), ("labels", "balance", "label plan"),
    ("labels", "class:x", "label plan"), ("labels", "class:\u0661", "label plan"),
    ("labels", "counts:0=", "label plan"),
    ("labels", "file:abc", "label plan"), ("labels", 1, "label plan"), ("labels", "class:4", "no class 4"),
    ("labels", "counts:0=99", "99, the samples 100"), ("labels", "counts:0=50,7=50", "no class 7"),
    ("labels", "counts:0=100,1=0", "as many"), ("noise", "gauss", "distribution"), ("noise", None, "distribution"),
    ("latents", "abc", "sha256"), ("latents", 1, "sha256"), ("batch", -1, "batch"), ("batch", 2**20 + 1, "batch"),
    ("batch", None, "batch"), ("latent_shape", (0,), "shape"), ("latent_shape", (-1,), "shape"),
    ("latent_shape", "8", "shape"), ("latent_shape", (2**24 + 1,), "shape"), ("latent_shape", (8.0,), "shape"),
    ("sample_shape", None, "shape"), ("sample_shape", (2**16, 2**16), "shape"), ("sample_shape", ((4,),), "shape"),
    ("value_range", (1.0, -1.0), "pair"), ("value_range", (0.0, 0.0), "pair"), ("value_range", (0.0,), "pair"),
    ("value_range", (-3e38, 3e38), "pair"),
    ("value_range", (0.0, float("inf")), "pair"), ("value_range", (float("nan"), 1.0), "pair"),
    ("value_range", (0, 10**400), "pair"), ("value_range", ("0", "1"), "pair"), ("value_range", (False, True), "pair"),
    ("value_range", 1.0, "pair"), ("classes", (), "names"), ("classes", ("a", ""), "names"),
    ("classes", ("a", 1), "names"),
    ("classes", "abcd", "names"), ("classes", None, "label plan"), ("classes", ("a", "\ud800"), "names"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "words"), WRONG, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(WRONG)])
def test_a_field_that_is_wrong_is_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_spec(**{field: value}).check()
    try:
        text = json.dumps({**json.loads(make_spec().to_json()), field: value})
    except ValueError:
        return
    with pytest.raises(DatasetError, match=f"^here.json.*{words}"):
        JobSpec.from_json(text, source="here.json")


def test_too_many_shards() -> None:
    make_spec(count=10**8, shard_size=1).check()
    with pytest.raises(UsageError, match=r"shard size 1 makes 100,000,001 shards.*larger shard size"):
        make_spec(count=10**8 + 1, shard_size=1).check()


def test_a_shard_and_a_batch_fit_into_memory() -> None:
    make_spec(count=10**12, shard_size=10**7).check()
    make_spec(count=100, shard_size=10**12).check()
    with pytest.raises(UsageError, match="a shard has at most 10,000,000 samples"):
        make_spec(count=10**12, shard_size=10**7 + 1).check()
    make_spec(batch=1024, sample_shape=(2**21,)).check()
    with pytest.raises(UsageError, match="use a smaller one"):
        make_spec(batch=1025, sample_shape=(2**21,)).check()


@pytest.mark.parametrize("layout", ["flat", "class"])
def test_classes_of_any_script_are_taken(layout: str) -> None:
    make_spec(classes=("Dress", "dress!", "猫", "犬"), layout=layout).check()


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "1", '"job"', "\x00", "[" * 100_000, "1" * 5000, '{"version": ' + "9" * 5000 + "}",
])  # fmt: skip
def test_what_is_no_job(text: str) -> None:
    with pytest.raises(DatasetError, match=r"^here\.json"):
        JobSpec.from_json(text, source="here.json")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(DatasetError, match="valid JSON"):
        JobSpec.from_json(b"\xff\xfe\x00{")


def test_unknown_and_missing_fields_are_named() -> None:
    data = json.loads(make_spec().to_json())
    with pytest.raises(DatasetError, match="unknown fields: colour, size"):
        JobSpec.from_json(json.dumps({**data, "size": 1, "colour": 2}))
    del data["seed"], data["count"]
    with pytest.raises(DatasetError, match="lacks fields: count, seed"):
        JobSpec.from_json(json.dumps(data))


def test_float32_goes_without_saying() -> None:
    """Datasets from before there was another precision keep their identity."""
    plain, mixed = make_spec(), make_spec(precision="mixed_bfloat16")
    assert "precision" not in json.loads(plain.to_json())
    assert JobSpec.from_json(plain.to_json()) == plain
    assert json.loads(mixed.to_json())["precision"] == "mixed_bfloat16"
    assert JobSpec.from_json(mixed.to_json()) == mixed
    assert (mixed.sha256 == plain.sha256, mixed.samples_sha256 == plain.samples_sha256) == (False, False)


def test_a_newer_version_says_upgrade_whatever_its_fields() -> None:
    with pytest.raises(DatasetError, match=r"newer noisemill.*upgrade"):
        JobSpec.from_json('{"version": 2, "something": "new"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(field.name for field in dataclasses.fields(JobSpec))


def parses_or_is_refused(text: str | bytes) -> None:
    try:
        job = JobSpec.from_json(text)
    except DatasetError:
        return
    job.check()
    assert JobSpec.from_json(job.to_json()) == job
    assert job.sha256
    assert len(job.plan) > 0


@given(field=st.sampled_from(FIELDS), value=JSON)
@example(field="value_range", value=[0, 10**400])
@example(field="latent_shape", value=[2**24] * 50)
def test_a_field_of_any_value_is_accepted_or_refused(field: str, value: Any) -> None:
    parses_or_is_refused(json.dumps({**json.loads(make_spec().to_json()), field: value}))


@given(where=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_accepted_or_refused(where: int, byte: int, cut: bool) -> None:
    text = bytearray(make_spec().to_json().encode())
    where %= len(text)
    text[where] = byte
    parses_or_is_refused(bytes(text[:where]) if cut else bytes(text))


# -- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "count"), [
    ("1", 1), ("10000", 10_000), ("10_000", 10_000), ("10,000", 10_000), ("10k", 10_000), ("10K", 10_000),
    ("1.5M", 1_500_000), ("0.5k", 500), ("1G", 10**9), (" 7 ", 7), ("1000g", 10**12), ("1 k", 1000),
    ("1,234,567", 1_234_567), ("0.001k", 1),
])  # fmt: skip
def test_counts_as_people_write_them(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(("text", "words"), [
    ("", "not a number"), ("0", "between 1"), ("-5", "not a number"), ("ten", "not a number"), ("1.5", "whole number"),
    ("1e6", "not a number"), ("10kk", "not a number"), ("1001G", "between 1"), ("1.0001k", "whole number"),
    ("1,5k", "not a number"), ("1,0", "not a number"), ("1000,000", "not a number"), ("_1", "not a number"),
    ("\u00b2", "not a number"), ("9" * 5000, "not a number"), ("1" + "0" * 13, "between 1"), ("0.0", "between 1"),
])  # fmt: skip
def test_counts_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_count(text)
