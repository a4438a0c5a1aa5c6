"""`.keras` files: what is inferred, what the sidecar adds, and bad ones."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import GeneratorError, NoisemillError
from pipeline.datasets.dataset import Dataset
from pipeline.generators import find_generator
from tests.end_to_end.fleet import TINY
from tests.generators.suite import CLOSE, CPU, Example, GeneratorSuite, noisemill, predict, save_keras
from workers.engine.calibration import CalibratedEngines

RNG = np.random.default_rng(3)


def save(folder: Path, inputs: Any, outputs: Any, sidecar: str = "") -> Path:
    import keras

    model = keras.Model(inputs, outputs)
    save_keras(folder / "model.keras", model)
    if sidecar:
        (folder / "generator.toml").write_text(sidecar)
    return folder


def dense(units: int, width: int, activation: str = "tanh") -> tuple[Any, Any]:
    """A layer and its weights, drawn here."""
    import keras

    kernel = RNG.standard_normal((width, units), dtype=np.float32)
    layer = keras.layers.Dense(units, activation=activation, use_bias=False)
    layer.build((None, width))
    layer.set_weights([kernel])
    return layer, kernel


class TestOneHotConcatenated(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory):
        import keras

        layer, kernel = dense(16, 5 + 3)
        z = keras.Input((8,), name="z")
        folder = save(
            tmp_path_factory.mktemp("concatenated"),
            z,
            keras.layers.Reshape((4, 4, 1))(layer(z)),
            '[label]\nencoding = "concatenated"\nclasses = ["a", "b", "c"]\n',
        )
        latents = RNG.standard_normal((5, 5), dtype=np.float32)
        labels = np.array([0, 1, 2, 1, 0], np.int32)
        fed = np.concatenate([latents, np.eye(3, dtype=np.float32)[labels]], axis=1)
        return Example(
            folder=folder,
            kind="keras",
            latents=latents,
            labels=labels,
            samples=np.tanh(fed @ kernel).reshape(5, 4, 4, 1),
            interface={
                "latent_shape": (5,),
                "label_input": None,
                "label_encoding": "concatenated",
                "classes": ("a", "b", "c"),
                "sample_shape": (4, 4, 1),
                "value_range": (-1.0, 1.0),
            },
        )


class TestOneHotInput(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory):
        import keras

        layer, kernel = dense(3 * 6 * 6, 4 + 2, "sigmoid")
        z, kind = keras.Input((2, 2), name="z"), keras.Input((2,), name="class_onehot")
        joined = keras.layers.Concatenate()([keras.layers.Flatten()(z), kind])
        image = keras.layers.Reshape((3, 6, 6))(layer(joined))
        folder = save(tmp_path_factory.mktemp("one-hot"), [kind, z], image)
        latents = RNG.standard_normal((6, 2, 2), dtype=np.float32)
        labels = np.array([0, 1, 0, 1, 1, 0], np.int32)
        fed = np.concatenate([latents.reshape(6, 4), np.eye(2, dtype=np.float32)[labels]], axis=1)
        samples = (1 / (1 + np.exp(-fed @ kernel))).reshape(6, 3, 6, 6).transpose(0, 2, 3, 1)
        return Example(
            folder=folder,
            kind="keras",
            latents=latents,
            labels=labels,
            samples=samples,
            interface={
                "latent_input": "z",
                "latent_shape": (2, 2),
                "label_input": "class_onehot",
                "label_encoding": "one_hot",
                "classes": ("0", "1"),
                "channels_first": True,
                "sample_shape": (6, 6, 3),
                "value_range": (0.0, 1.0),
            },
        )


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Latent of 3 to 12 values, in a file of Keras 3."""
    import keras

    layer, _ = dense(12, 3)
    z = keras.Input((3,), name="z")
    return save(tmp_path_factory.mktemp("flat"), z, keras.layers.Rescaling(127.5, 127.5)(layer(z)))


@pytest.fixture
def with_sidecar(flat, tmp_path):
    def write(text: str) -> Any:
        (tmp_path / "model.keras").write_bytes((flat / "model.keras").read_bytes())
        (tmp_path / "generator.toml").write_text(text)
        return find_generator(str(tmp_path))

    return write


def test_without_sidecar(flat):
    interface = find_generator(str(flat)).interface
    assert (interface.sample_shape, interface.value_range, interface.classes) == ((12,), (0.0, 255.0), None)


def test_flat_output_gets_a_shape(with_sidecar):
    assert with_sidecar("[output]\nshape = [2, 6, 1]\nrange = [0, 1]").interface.sample_shape == (2, 6, 1)
    made = predict(with_sidecar("[output]\nshape = [2, 6, 1]").model.parent, np.ones((1, 3), np.float32))
    assert made.shape == (1, 2, 6, 1)


def test_interface_is_part_of_the_digest(with_sidecar):
    texts = ["", "[output]\nrange = [0, 1]", "[output]\nshape = [12, 1]", 'summary = "x"']
    digests = [with_sidecar(text).digest for text in texts]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[output]\nshape = [5]", "declares the shape"),
        ("[output]\nrange = [1, 0]", "not a pair of numbers"),
        ("[output]\nrange = 7", "not a pair of numbers"),
        ('[output]\nname = "absent"', "the model has dense"),
        ('[output]\nchannels = "middle"', "neither 'first' nor 'last'"),
        ('[latent]\ninput = "w"', "the model has z"),
        ("[latent]\nshape = [4]", "declares the shape"),
        ("[label]\nclasses = 3", "only be concatenated"),
        ('[label]\nclasses = 3\nencoding = "concatenated"', "no room for 3 classes"),
        ('[label]\nencoding = "concatenated"', "classes are missing"),
        ('[label]\ninput = "y"\nclasses = 2', "the model has z"),
        ("[latnet]\nshape = [3]", "unknown latnet"),
        ("[output]\nrnage = [0, 1]", "unknown output.rnage"),
        ("output = 3", "write [output]"),
        ("[output]\nshape = [0]", "not a list of sizes"),
        ("[latent]\ninput = 3", "not a name"),
        ("[label]\nclasses = 0", "neither a number"),
        ("[output", "cannot be read"),
    ],
)
def test_sidecar_is_checked_against_the_model(with_sidecar, text, reason):
    with pytest.raises(GeneratorError) as refused:
        with_sidecar(text)
    assert reason.replace("dense", "") in str(refused.value) or reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_open_output_shape(tmp_path):
    import keras

    z = keras.Input((None, 3), name="z")
    save(tmp_path, z, keras.layers.Dense(2)(z))
    with pytest.raises(GeneratorError, match=r"open shape \(\?, 2\)"):
        find_generator(str(tmp_path))
    (tmp_path / "generator.toml").write_text("[latent]\nshape = [4, 3]\n[output]\nshape = [4, 2]\n")
    assert find_generator(str(tmp_path)).interface.sample_shape == (4, 2)


def test_dropout_that_was_left_active_is_told(tmp_path):
    import keras

    z = keras.Input((3,), name="z")
    save(tmp_path, z, keras.layers.Dropout(0.5)(z, training=True))
    assert "dropout" in find_generator(str(tmp_path)).structure.notes[0]
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(predict(tmp_path, ones), ones)


# -- bad files ---------------------------------------------------------------------------------------


def rewrite(source: Path, target: Path, change: Any) -> Path:
    """A copy of a zip whose files went through `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        files = {name: old.read(name) for name in old.namelist()}
        change(files)
        for name, data in files.items():
            new.writestr(name, data)
    return target


def with_class(name: str) -> Any:
    def change(files: dict[str, bytes]) -> None:
        config = json.loads(files["config.json"])
        config["config"]["layers"][1].update(class_name=name, module="keras.layers", registered_name=None)
        files["config.json"] = json.dumps(config).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files.update({"../evil": b"x"}), "would leave its folder"),
        (lambda files: files.update({"/evil": b"x"}), "would leave its folder"),
        (lambda files: files.update({"a\\..\\..\\evil": b"x"}), "would leave its folder"),
        (lambda files: files.update({"bomb": bytes(80_000_000)}), "would unpack to"),
        (lambda files: files.pop("config.json"), "no config.json"),
        (lambda files: files.pop("model.weights.h5"), "no model.weights.h5"),
        (lambda files: files.update({"config.json": b"{"}), "not valid JSON"),
        (lambda files: files.update({"config.json": b"[]"}), "describes no model"),
        (with_class("Lambda"), "Lambda layer: Python code"),
    ],
    ids=["upwards", "absolute", "backslashes", "bomb", "no config", "no weights", "cut JSON", "no model", "lambda"],
)
def test_bad_zips_are_refused_without_tensorflow(flat, tmp_path, change, reason):
    path = rewrite(flat / "model.keras", tmp_path / "bad.keras", change)
    with pytest.raises(GeneratorError, match=reason) as refused:
        find_generator(str(path))
    assert "\n" not in str(refused.value)


def test_truncated(flat, tmp_path):
    data = (flat / "model.keras").read_bytes()
    path = tmp_path / "bad.keras"
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(GeneratorError, match="is no whole"):
            find_generator(str(path))


@pytest.mark.parametrize("damage", ["weights", "other weights"])
def test_damaged_weights_are_told_when_loading(flat, tmp_path, damage):
    import keras

    z = keras.Input((3,), name="z")
    other = save(tmp_path / "other", z, keras.layers.Dense(5)(keras.layers.Dense(4)(z)))
    with zipfile.ZipFile(other / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    changed = {"weights": b"\x89HDF\r\n\x1a\n" + bytes(100), "other weights": weights}[damage]
    rewrite(flat / "model.keras", tmp_path / "bad.keras", lambda files: files.update({"model.weights.h5": changed}))
    with pytest.raises(NoisemillError, match="cannot be loaded") as refused:
        predict(tmp_path / "bad.keras", np.ones((1, 3), np.float32))
    assert "\n" not in str(refused.value)


def test_unknown_layer_is_named(flat, tmp_path):
    """Only TensorFlow can tell, in a process of its own; the command line says it in a line."""
    path = rewrite(flat / "model.keras", tmp_path / "bad.keras", with_class("Wavelet"))
    done = noisemill("generators", "inspect", path, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("noisemill: ")
    assert "Wavelet" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_tensorflow_alone_understands(tmp_path):
    """A layer that is not in our table: TensorFlow tells, and the answer is kept."""
    import keras

    z = keras.Input((4, 2), name="z")
    save(tmp_path, z, keras.layers.GRU(3)(z))
    found = find_generator(str(tmp_path))
    assert (found.interface.latent_shape, found.interface.sample_shape) == ((4, 2), (3,))
    assert find_generator(str(tmp_path)) == found


def test_too_large_for_this_machine(flat, monkeypatch):
    import os

    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else real(name))
    from workers.engine import generators

    found = find_generator(str(flat))
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    with pytest.raises(GeneratorError, match="too large"):
        generators.load_generator(found)


def test_a_batch_too_large_for_this_machine(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is computed; where noisemill chooses, it takes a smaller one."""
    found = find_generator(str(flat))
    engines = CalibratedEngines(found, CPU, tmp_path)
    one = 4 * (found.interface.row_dim + int(np.prod(found.interface.sample_shape)))
    monkeypatch.setattr("workers.engine.engine_cache.usable_memory", lambda: 6 * 10 * one)
    with pytest.raises(GeneratorError, match=r"batches of 11 samples take .*: use --batch 10 or less"):
        engines.engine("tf", 11)
    assert engines.engine("tf", 10).batch == 10
    assert engines.quick_engine().batch == 8


def test_dictionaries_for_inputs_and_outputs(tmp_path: Path) -> None:
    """An output is named by its key, not by its layer; a dictionary of inputs is fed as one."""
    import keras

    first, second = keras.Input((3,), name="z"), keras.Input((2,), name="label")
    image = keras.layers.Dense(4, name="last")(keras.layers.Concatenate()([first, second]))
    model = keras.Model({"z": first, "label": second}, {"image": image, "other": keras.layers.Dense(1)(image)})
    save_keras(tmp_path / "model.keras", model)
    (tmp_path / "generator.toml").write_text('[output]\nname = "image"\n')
    found = find_generator(str(tmp_path)).interface
    assert (found.output, found.sample_shape, found.classes) == ("image", (4,), ("0", "1"))
    latents = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    labels = np.array([0, 1, 1, 0], np.int32)
    wanted = model({"z": latents, "label": np.eye(2, dtype=np.float32)[labels]})["image"]
    assert np.abs(predict(tmp_path, latents, labels) - np.asarray(wanted)).max() <= CLOSE


def test_bytes_have_a_range(tmp_path: Path) -> None:
    import keras

    z = keras.Input((3,))
    values = keras.ops.cast(keras.layers.Dense(4, activation="sigmoid")(z) * 255, "uint8")
    save_keras(tmp_path / "model.keras", keras.Model(z, values))
    assert find_generator(str(tmp_path)).interface.value_range == (0.0, 255.0)


def test_a_model_alone_in_a_folder_may_have_any_name(tmp_path: Path) -> None:
    shutil.copy(TINY, tmp_path / "mine.keras")
    shutil.copy(Path(TINY).with_suffix(".toml"), tmp_path / "mine.toml")
    assert find_generator(str(tmp_path)).model == tmp_path / "mine.keras"
    shutil.copy(TINY, tmp_path / "other.keras")
    with pytest.raises(GeneratorError, match=r"is several models: name one of .*mine.keras, .*other.keras"):
        find_generator(str(tmp_path))
    # What is called as it should be comes first.
    shutil.copy(TINY, tmp_path / "model.keras")
    shutil.copy(Path(TINY).with_suffix(".toml"), tmp_path / "model.toml")
    assert find_generator(str(tmp_path)).model == tmp_path / "model.keras"


def test_matrices_are_grey_images(tmp_path: Path) -> None:
    import keras

    z = keras.Input((6,))
    flat = keras.layers.Dense(9 * 12, activation="sigmoid")(z)
    save_keras(tmp_path / "grey" / "model.keras", keras.Model(z, keras.layers.Reshape((9, 12))(flat)))
    grey = str(tmp_path / "grey")
    noisemill("generate", grey, "plain", "--count", 20, "--dtype", "uint8", cwd=tmp_path)
    plain = Dataset(str(tmp_path / "plain")).samples(0, 20)
    assert plain.shape == (20, 9, 12)
    for form in ("png", "tar"):
        noisemill("generate", grey, form, "--count", 20, "--format", form, cwd=tmp_path)
        assert np.array_equal(Dataset(str(tmp_path / form)).samples(0, 20), plain)
    with Image.open(tmp_path / "png" / "shards" / "00000000" / "000000000003.png") as image:
        assert (image.mode, image.size) == ("L", (12, 9))
        assert np.array_equal(np.asarray(image), plain[3])
    noisemill("verify", "png", "--recompute", 5, cwd=tmp_path)
    noisemill("sample", grey, "--output", "one.png", cwd=tmp_path)
    assert (tmp_path / "png" / "preview.png").exists()


def test_a_range_that_nobody_tells_is_measured_and_offered(tmp_path: Path) -> None:
    import keras

    z = keras.Input((6,))
    values = keras.layers.Softmax()(keras.layers.Dense(12)(z))
    shifted = keras.layers.Reshape((3, 4, 1))(keras.layers.Dense(12, kernel_initializer="identity")(values))
    save_keras(tmp_path / "open.keras", keras.Model(z, shifted))
    done = noisemill("generate", "open.keras", "out", "--count", 5, "--format", "png", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "write it into generator.toml, [output] range;\nof 64 samples the values lie from 0." in done.stderr
    assert "so perhaps range = [0, 1]" in done.stderr
    assert not (tmp_path / "out").exists()
