"""Inputs of every kind: several latents, noise, attributes, constants that a job may set, signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError, UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.generators import find_generator
from pipeline.generators.sampling import draw, interpolate
from pipeline.jobs.request import JobRequest
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.latents import latents, noise_rows
from tests.generators.suite import CLOSE, noisemill, predict, save_keras

RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((4, 6)).astype(np.float32)
INPUTS = """
[inputs.z2]
kind = "latent"
[inputs.grain]
kind = "noise"
[inputs.face]
kind = "attributes"
[inputs.truncation]
constant = 0.5
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truncation * (z | z2) @ WEIGHT + grain + face, and the class after it, as a SavedModel of two signatures."""
    import tensorflow as tf

    class Everything(tf.Module):  # type: ignore[misc]
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 3], tf.float32, name="z"),
                tf.TensorSpec([None, 1, 1], tf.float32, name="z2"),
                tf.TensorSpec([None, 6], tf.float32, name="grain"),
                tf.TensorSpec([None, 2], tf.float32, name="face"),
                tf.TensorSpec([None], tf.int32, name="label"),
                tf.TensorSpec([], tf.float32, name="truncation"),
            ]
        )
        def generate(self, z: Any, z2: Any, grain: Any, face: Any, label: Any, truncation: Any) -> Any:
            row = tf.concat([z, z2[:, 0]], axis=1)
            own = truncation * row @ WEIGHT + grain + tf.tile(face, (1, 3))
            return {"image": tf.concat([own, tf.cast(label, tf.float32)[:, None]], axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="image")])
        def judge(self, image: Any) -> Any:
            return {"verdict": tf.reduce_sum(image, axis=1, keepdims=True)}

    folder = tmp_path_factory.mktemp("everything") / "model"
    module = Everything()
    signatures = {"generate": module.generate, "judge": module.judge}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    text = 'signature = "generate"\n[label]\ninput = "label"\nclasses = 3\n' + INPUTS
    (folder / "generator.toml").write_text(text)
    return folder


def expected(
    seed: int, first: int, count: int, face: Any, labels: Any, truncation: float = 0.5, noise_of: int | None = None
) -> Any:
    grain = noise_rows(seed, first if noise_of is None else noise_of, count, [6])[0]
    rows = np.concatenate(
        [truncation * latents(seed, first, count, 4) @ WEIGHT + grain + np.tile(face, (1, 3))], axis=1
    )
    return np.concatenate([rows, np.asarray(labels, np.float32)[:, None]], axis=1)


def test_everything_is_understood(everything: Path) -> None:
    found = find_generator(str(everything)).interface
    assert (found.latent_input, found.latent_shape, found.label_input) == ("z", (4,), "label")
    assert found.latent_parts == (("z", (3,)), ("z2", (1, 1)))
    assert found.noise_inputs == (("grain", (6,)),)
    assert found.attributes_input == ("face", (2,))
    assert (found.row_dim, found.constants, found.signature) == (12, (("truncation", (0.5,)),), "generate")
    told = noisemill("generators", "inspect", everything, cwd=everything.parent).stdout
    for line in ("latent:   z 3 + z2 1x1 4", "noise:    grain 6", "attributes:face 2", "settings: truncation=0.5"):
        assert line in told


def test_a_signature_must_be_named_where_there_are_several(everything: Path, tmp_path: Path) -> None:
    sidecar = everything / "generator.toml"
    text = sidecar.read_text()
    try:
        sidecar.write_text("")
        with pytest.raises(GeneratorError, match=r"generate, judge: say which one in generator\.toml, signature"):
            find_generator(str(everything))
        sidecar.write_text('signature = "judge"\n')
        assert find_generator(str(everything)).interface.output == "verdict"
        sidecar.write_text('signature = "sing"\n')
        with pytest.raises(GeneratorError, match="generate, judge"):
            find_generator(str(everything))
    finally:
        sidecar.write_text(text)


def test_a_job_feeds_everything(everything: Path, tmp_path: Path) -> None:
    faces = RNG.standard_normal((50, 2)).astype(np.float32)
    np.save(tmp_path / "faces.npy", faces)
    command = ["generate", everything, "out", "--seed", 7, "--shard-size", 20, "--batch", 8]
    noisemill(*command, "--attributes", "faces.npy", "--set", "truncation=0.25", cwd=tmp_path)
    dataset = Dataset(str(tmp_path / "out"))
    assert len(dataset) == 50
    wanted = expected(7, 0, 50, faces, np.arange(50) % 3, truncation=0.25)
    assert np.abs(dataset.samples(0, 50) - wanted).max() <= CLOSE * np.ptp(wanted)
    noisemill("verify", "out", "--recompute", 50, cwd=tmp_path)
    # The rest of the way: a recipe, the same elsewhere, a card that names what was asked for.
    noisemill("recipe", "out", cwd=tmp_path)
    made = noisemill("reproduce", "out.recipe.json", "again", cwd=tmp_path).stdout
    assert "3 bit-equal" in made, made
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--set truncation=0.25" in card
    assert "attributes.npy" in card
    (tmp_path / "out" / "attributes.npy").write_bytes(b"nothing")
    assert "attributes.npy is damaged" in noisemill("verify", "out", cwd=tmp_path, check=False).stderr


def test_a_sample_is_the_one_of_a_job(everything: Path) -> None:
    found = find_generator(str(everything))
    drawn = draw(found, 30, seed=7, attributes="1,-2", settings={"truncation": 2})
    wanted = expected(7, 30, 1, [[1, -2]], drawn.labels, truncation=2)
    assert np.abs(drawn.samples - wanted).max() <= CLOSE * np.ptp(wanted)
    way = interpolate(found, 3, 9, 3, seed=7, attributes="1,-2", label="1")
    ends = [expected(7, index, 1, [[1, -2]], [1], noise_of=3) for index in (3, 9)]
    assert np.abs(way.samples[[0, -1]] - np.concatenate(ends)).max() <= CLOSE * np.ptp(ends)


def test_what_changes_samples_is_in_the_identity(everything: Path) -> None:
    found = find_generator(str(everything))
    base = JobRequest(count=10, attributes="1,2").resolve(found)[0]
    assert JobSpec.from_json(base.to_json()) == base
    assert base.attributes == "all:1,2"
    same = JobRequest(count=10, attributes="1.0,2", settings={"truncation": 0.5}).resolve(found)[0]
    assert same.sha256 == base.sha256, "the generator's own constant is no setting"
    set_to = JobRequest(count=10, attributes="1,2", settings={"truncation": 0.7})
    for other in (set_to, JobRequest(count=10, attributes="1,3")):
        spec = other.resolve(found)[0]
        assert spec.sha256 != base.sha256
        assert JobSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({}, "takes attributes, 2 numbers a sample: give --attributes FILE.npy, .* --attributes 0,0"),
        ({"attributes": "1,2,3"}, "are not the 2 numbers"),
        ({"attributes": "1,x"}, "neither an .npy file nor numbers"),
        ({"attributes": "1,nan"}, "are not the 2 numbers"),
        ({"attributes": "no/such.npy"}, "cannot be read"),
        ({"attributes": "1,2", "settings": {"psi": 1}}, "has no setting 'psi': it has truncation"),
        ({"attributes": "1,2", "settings": {"truncation": [1, 2]}}, "has 2 numbers, the input takes 1"),
        ({"attributes": "1,2", "settings": {"truncation": float("inf")}}, "not finite"),
    ],
)
def test_wrong_words_are_refused(everything: Path, wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        JobRequest(count=10, **wrong).resolve(find_generator(str(everything)))


def test_rows_of_two_files_must_be_as_many(everything: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros((5, 4), np.float32))
    np.save(tmp_path / "face.npy", np.zeros((6, 2), np.float32))
    request = JobRequest(latents=str(tmp_path / "z.npy"), attributes=str(tmp_path / "face.npy"))
    with pytest.raises(UsageError, match="latents are 5, attributes 6"):
        request.resolve(find_generator(str(everything)))


def test_a_generator_without_takes_neither(tmp_path: Path) -> None:
    for wrong, reason in (({"attributes": "1"}, "takes none"), ({"settings": {"a": 1}}, "it has none")):
        with pytest.raises(UsageError, match=reason):
            JobRequest(count=10, **wrong).resolve(find_generator("article-28"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[inputs.z2]\nkind = "song"', "'song' is not one of latent, noise, attributes"),
        ('[inputs.z2]\nkind = "latent"\nconstant = 1', "takes constant or kind"),
        ('[inputs.label]\nkind = "noise"', "takes int32"),
        ('[inputs.truncation]\nkind = "latent"', "no batch dimension"),
        ('[inputs.z2]\nkind = "attributes"\n[inputs.face]\nkind = "attributes"', "only one input can be"),
        (
            "".join(f"[inputs.{name}]\nconstant = 1\n" for name in ("z", "z2", "grain", "face", "label", "truncation")),
            "left",
        ),
        ("signature = 3", "signature 3 is not a name"),
    ],
)
def test_a_wrong_sidecar_is_refused(everything: Path, text: str, reason: str) -> None:
    sidecar = everything / "generator.toml"
    right = sidecar.read_text()
    try:
        sidecar.write_text(text if text.startswith("signature") else 'signature = "generate"\n' + text + "\n")
        with pytest.raises(GeneratorError, match=reason):
            find_generator(str(everything))
    finally:
        sidecar.write_text(right)


def two_inputs(folder: Path, first: str, second: str, widths: tuple[int, int] = (4, 2)) -> Path:
    import keras

    inputs = [keras.Input((width,), name=name) for width, name in zip(widths, (first, second), strict=True)]
    joined = keras.layers.Concatenate()(inputs)
    save_keras(folder / "model.keras", keras.Model(inputs, keras.layers.Dense(5, activation="tanh")(joined)))
    return folder


def test_two_latents_of_a_keras_model(tmp_path: Path) -> None:
    folder = two_inputs(tmp_path / "two", "z", "w")
    with pytest.raises(GeneratorError, match=r'a second latent is \[inputs.w\], kind = "latent"'):
        find_generator(str(folder))
    (folder / "generator.toml").write_text('[inputs.w]\nkind = "latent"\n')
    import keras

    model = keras.models.load_model(folder / "model.keras")
    rows = latents(3, 0, 6, 6)
    samples = predict(folder, rows)
    assert np.abs(samples - model.predict([rows[:, :4], rows[:, 4:]], verbose=0)).max() <= CLOSE
    # The other way round: the main latent's part comes first.
    (folder / "generator.toml").write_text('[latent]\ninput = "w"\n[inputs.z]\nkind = "latent"\n')
    assert np.abs(predict(folder, rows) - model.predict([rows[:, 2:], rows[:, :2]], verbose=0)).max() <= CLOSE


def test_whole_numbers_are_the_label_whatever_the_other_is_called(tmp_path: Path) -> None:
    import keras

    inputs = [keras.Input((4,), name="conditioning"), keras.Input((1,), name="label", dtype="int32")]
    embedded = keras.layers.Flatten()(keras.layers.Embedding(3, 2)(inputs[1]))
    joined = keras.layers.Concatenate()([inputs[0], embedded])
    save_keras(tmp_path / "model.keras", keras.Model(inputs, keras.layers.Dense(5, activation="tanh")(joined)))
    found = find_generator(str(tmp_path)).interface
    assert (found.latent_input, found.label_input, found.classes) == ("conditioning", "label", ("0", "1", "2"))


@pytest.mark.parametrize("name", ["noise_variance", "z2", "latent_b", "sigma"])
def test_no_label_is_fed_to_what_takes_noise(tmp_path: Path, name: str) -> None:
    folder = two_inputs(tmp_path / "two", "image_noise", name, (8, 3))
    (folder / "generator.toml").write_text(f'[label]\ninput = "{name}"\n')
    if name == "z2":  # Which a digit follows.
        (folder / "generator.toml").write_text('[label]\ninput = "z2"\n')
    with pytest.raises(GeneratorError, match=rf"{name}.* it is not used for labels: .*\[inputs.{name}\]"):
        find_generator(str(folder))


def test_a_latent_that_may_end_in_a_label_is_told(tmp_path: Path) -> None:
    import keras

    z = keras.Input((110,))
    save_keras(tmp_path / "wide" / "model.keras", keras.Model(z, keras.layers.Dense(4, activation="tanh")(z)))
    wide = str(tmp_path / "wide")
    assert any("10 wider than 100" in note for note in find_generator(wide).structure.notes)
    done = noisemill("generate", wide, "out", "--count", 10, cwd=tmp_path)
    assert 'encoding = "concatenated"' in done.stderr
    for answer in ('[label]\nencoding = "concatenated"\nclasses = 10\n', "[latent]\nshape = [110]\n"):
        (tmp_path / "wide" / "generator.toml").write_text(answer)
        assert not find_generator(wide).structure.notes


def test_noise_is_a_stream_of_each_samples_own() -> None:
    first, whole = noise_rows(7, 0, 40, [50, 50])
    assert np.array_equal(whole[13:20], noise_rows(7, 13, 7, [50, 50])[1])
    assert not np.array_equal(whole, first)
    assert not np.array_equal(whole, noise_rows(8, 0, 40, [50, 50])[1])
    [far] = noise_rows(7, 2**40, 500, [100])
    assert abs(float(far.mean())) < 0.02
    assert abs(float(far.std()) - 1) < 0.02
