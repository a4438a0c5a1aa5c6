"""TensorFlow.js layers models, made by real TensorFlow.js (tests/compat/tfjs)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from pipeline.generators.architecture import NotUnderstoodError, read_architecture
from pipeline.generators.inspection import structure_of
from tests.generators.suite import CLOSE, Example, GeneratorSuite, predict

FIXTURES = Path(__file__).parent / "tfjs"


def read_example(folder: Path, **interface: Any) -> Example:
    """A model with what TensorFlow.js itself predicted."""
    expected = json.loads((folder / "expected.json").read_text())
    arrays = {
        name: np.array(one["values"], one["dtype"]).reshape(one["shape"]) for name, one in expected["inputs"].items()
    }
    outputs = [np.array(one["values"]).reshape(one["shape"]) for one in expected["outputs"].values()]
    labels = arrays.pop("label", None)
    return Example(
        folder=folder,
        kind="tfjs",
        latents=next(iter(arrays.values())),
        labels=None if labels is None else labels.reshape(-1).astype(np.int32),
        samples=outputs[0],
        interface=interface,
    )


class TestSequential(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls) -> Example:
        return read_example(
            FIXTURES / "sequential", latent_shape=(6,), sample_shape=(8, 4, 1), value_range=(-1.0, 1.0), classes=None
        )


class TestConditional(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls) -> Example:
        return read_example(
            FIXTURES / "conditional",
            latent_input="latent",
            latent_shape=(5,),
            label_input="label",
            label_encoding="integer",
            classes=("a", "b", "c"),
            sample_shape=(6, 6, 3),
            value_range=(0.0, 1.0),
        )


class TestNested(GeneratorSuite):
    """A model in a model, a layer used twice, a latent of two dimensions, one of two outputs."""

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls) -> Example:
        return read_example(
            FIXTURES / "nested", latent_shape=(2, 4), output="wave", sample_shape=(4, 2), value_range=(-1.0, 1.0)
        )


@pytest.mark.parametrize("engine", ["tf", "xla"])
def test_what_keras_3_computes_otherwise(engine):
    example = read_example(FIXTURES / "bilinear")
    assert np.abs(predict(example.folder, example.latents, engine=engine) - example.samples).max() <= CLOSE


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
def test_quantised_weights(dtype):
    example = read_example(FIXTURES / dtype)
    assert np.abs(predict(example.folder, example.latents) - example.samples).max() <= CLOSE


def test_the_other_output(tmp_path):
    shutil.copytree(FIXTURES / "nested", tmp_path / "model")
    (tmp_path / "model" / "generator.toml").write_text('[output]\nname = "mask"\n')
    expected = json.loads((FIXTURES / "nested" / "expected.json").read_text())
    wanted = np.array(expected["outputs"]["mask"]["values"]).reshape(-1, 1)
    made = predict(tmp_path / "model", read_example(FIXTURES / "nested").latents)
    assert np.abs(made - wanted).max() <= CLOSE


def _change(tmp_path: Path, change: Any) -> str:
    """A copy of a model with its JSON changed; answers why it is refused."""
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "sequential", folder)
    data = json.loads((folder / "model.json").read_text())
    change(data)
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(GeneratorError) as refused:
        find_generator(str(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def _layer(data: dict[str, Any], number: int) -> Any:
    return data["modelTopology"]["config"]["layers"][number]


def _weights(data: dict[str, Any]) -> Any:
    return data["weightsManifest"][0]


BAD = {
    "unknown layer": (lambda data: _layer(data, 2).update(class_name="LSTM"), "of the kind LSTM|kind 'LSTM'"),
    "unknown activation": (lambda data: _layer(data, 7)["config"].update(activation="wavy"), "activation 'wavy'"),
    "unknown setting": (lambda data: _layer(data, 0)["config"].update(magic=3), "setting magic"),
    "graph model": (lambda data: data.update(format="graph-model"), "its graph is malformed"),
    "other model": (lambda data: data.update(format="tfdf"), "tfdf: only layers models and graph models"),
    "no topology": (lambda data: data.pop("modelTopology"), "no modelTopology"),
    "no manifest": (lambda data: data.pop("weightsManifest"), "weights are missing"),
    "path upwards": (lambda data: _weights(data).update(paths=["../../etc/passwd"]), "would leave"),
    "absolute path": (lambda data: _weights(data).update(paths=["/etc/passwd"]), "would leave"),
    "URL": (lambda data: _weights(data).update(paths=["http://host/x.bin"]), "would leave"),
    "file missing": (lambda data: _weights(data)["paths"].append("absent.bin"), "absent.bin are missing"),
    "shape": (lambda data: _weights(data)["weights"][0].update(shape=[6, 17]), "the manifest tells"),
    "shape of the same size": (lambda data: _weights(data)["weights"][0].update(shape=[16, 6]), "the layer takes"),
    "weight missing": (lambda data: _weights(data)["weights"][0].update(name="x/y"), "missing from the manifest"),
    "strange type": (lambda data: _weights(data)["weights"][0].update(dtype="complex64"), "not supported"),
    "huge layer": (lambda data: _layer(data, 0)["config"].update(units=10**12), "does not fit|takes"),
    "malformed": (lambda data: data["modelTopology"].update(config=7), "malformed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_models_are_refused(tmp_path, case):
    import re

    change, reason = BAD[case]
    assert re.search(reason, _change(tmp_path, change))


def test_truncated_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "sequential", folder)
    last = sorted(folder.glob("*.bin"))[-1]
    last.write_bytes(last.read_bytes()[:-4])
    with pytest.raises(GeneratorError, match="bytes, the manifest tells"):
        find_generator(str(folder))


def test_connections_that_lead_nowhere():
    topology = json.loads((FIXTURES / "nested" / "model.json").read_text())["modelTopology"]
    topology["config"]["layers"][1]["inbound_nodes"] = [[["absent", 0, 0, {}]]]
    with pytest.raises(NotUnderstoodError, match="connected to nothing"):
        structure_of(read_architecture(topology))
