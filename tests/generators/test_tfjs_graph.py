"""TensorFlow.js graph models: made here as its converter makes them, from a frozen graph with fused operations."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from tests.generators.suite import CLOSE, Example, GeneratorSuite, predict

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers

LATENTS = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)


def network() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((6,), name="z"),
            layers.Dense(3 * 3 * 4, activation="relu"),
            layers.Reshape((3, 3, 4)),
            layers.UpSampling2D(2),
            layers.Conv2D(4, 3, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ]
    )


def write_graph_model(folder: Path, model: Any, *, signature: bool = True) -> dict[str, Any]:
    """Writes a model as the converter does: constants in a file of weights, biases and activations fused."""
    from google.protobuf import json_format
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda z: model(z, training=False)).get_concrete_function(
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="z")
    )
    frozen = convert_variables_to_constants_v2(function)
    graph = frozen.graph.as_graph_def()
    weights, data = [], b""
    for node in graph.node:
        if node.op == "Const":
            value = tf.make_ndarray(node.attr["value"].tensor)
            node.attr["value"].tensor.Clear()
            node.attr["value"].tensor.dtype = node.attr["dtype"].type
            weights.append({"name": node.name, "shape": list(value.shape), "dtype": value.dtype.name})
            data += value.tobytes()
    topology = json_format.MessageToDict(graph)
    fuse(topology["node"])
    told = {"dtype": "DT_FLOAT"}
    document = {
        "format": "graph-model",
        "modelTopology": topology,
        "weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": weights}],
    }
    if signature:
        shapes = [[-1, *model.input_shape[1:]], [-1, *model.output_shape[1:]]]
        dims = [{"dim": [{"size": str(size)} for size in shape]} for shape in shapes]
        document["signature"] = {
            "inputs": {"z": {"name": frozen.inputs[0].name, "tensorShape": dims[0], **told}},
            "outputs": {"image": {"name": frozen.outputs[0].name, "tensorShape": dims[1], **told}},
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "group1-shard1of1.bin").write_bytes(data)
    (folder / "model.json").write_text(json.dumps(document))
    return document


def fuse(nodes: list[dict[str, Any]]) -> None:
    """Puts BiasAdd, and an activation after it, into the operation before, as the converter's optimiser does."""
    by_name = {node["name"]: node for node in nodes}
    consumers = {name: [each for each in nodes if name in each.get("input", ())] for name in by_name}
    for node in list(nodes):
        fused = {"Conv2D": "_FusedConv2D", "MatMul": "_FusedMatMul"}.get(node["op"])
        if fused is None:
            continue
        chain = [node]
        while len(chain) < 3 and [each["op"] for each in consumers[chain[-1]["name"]]] in (
            [["BiasAdd"]] if len(chain) == 1 else [["Relu"], ["LeakyRelu"], ["Tanh"]]
        ):
            chain.append(consumers[chain[-1]["name"]][0])
        if len(chain) == 1:
            continue
        bias = chain[1]["input"][1]
        steps = [base64.b64encode(each["op"].encode()).decode() for each in chain[1:]]
        last = chain[-1]
        last["attr"] = {
            **{name: value for name, value in node["attr"].items() if name != "TArgs"},
            "num_args": {"i": "1"},
            "fused_ops": {"list": {"s": steps}},
            "leakyrelu_alpha": last["attr"].get("alpha", {"f": 0.2}),
        }
        last["op"], last["input"] = fused, [*node["input"], bias]
        for each in chain[:-1]:
            nodes.remove(each)


class TestGraphModel(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("graph") / "model"
        model = network()
        write_graph_model(folder, model)
        return Example(
            folder=folder,
            kind="tfjs",
            own_graph=True,
            latents=LATENTS,
            labels=None,
            samples=np.asarray(model(LATENTS)),
            interface={"latent_input": "z", "sample_shape": (6, 6, 1), "value_range": (-1.0, 1.0), "output": "image"},
        )


def test_operations_are_fused(tmp_path: Path) -> None:
    document = write_graph_model(tmp_path, network())
    assert {"_FusedConv2D", "_FusedMatMul"} <= {node["op"] for node in document["modelTopology"]["node"]}


def test_without_a_signature_its_ends_are_taken(tmp_path: Path) -> None:
    model = network()
    write_graph_model(tmp_path, model, signature=False)
    samples = predict(tmp_path, LATENTS)
    assert np.abs(samples - np.asarray(model(LATENTS))).max() <= CLOSE


@pytest.mark.parametrize(("operation", "message"), [
    ("ReadFile", "ReadFile reaches out of the model"),
    ("PyFunc", "PyFunc reaches out of the model"),
    ("Wobble", "operations that TensorFlow does not: Wobble"),
])  # fmt: skip
def test_operations_that_cannot_be(tmp_path: Path, operation: str, message: str) -> None:
    document = write_graph_model(tmp_path, network(), signature=False)
    document["modelTopology"]["node"].append({"name": "bad", "op": operation, "input": [], "attr": {}})
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(GeneratorError, match=message):
        find_generator(str(tmp_path))


def test_what_was_fused_and_is_not_known(tmp_path: Path) -> None:
    document = write_graph_model(tmp_path, network())
    fused = next(node for node in document["modelTopology"]["node"] if node["op"] == "_FusedConv2D")
    fused["attr"]["fused_ops"]["list"]["s"] = [base64.b64encode(b"Prelu").decode()]
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(GeneratorError, match="_FusedConv2D fused with Prelu is not supported"):
        predict(tmp_path, LATENTS)


@pytest.mark.parametrize("topology", [{}, {"node": 3}, {"node": [{}]}, {"node": [{"name": "x"}]}, []])
def test_a_graph_that_is_none(tmp_path: Path, topology: Any) -> None:
    document = write_graph_model(tmp_path, network(), signature=False)
    document["modelTopology"] = topology
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(GeneratorError, match="its graph is malformed"):
        find_generator(str(tmp_path))
