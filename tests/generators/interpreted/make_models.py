"""Makes the models of this folder: `pip install tensorflow onnx`, then `python make_models.py`. Expected by numpy."""

import numpy as np
import onnx  # type: ignore[import-not-found]
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(4)
WEIGHT = (RNG.standard_normal((6, 16)) * 0.5).astype(np.float32)
TABLE = (RNG.standard_normal((3, 16)) * 0.5).astype(np.float32)


def write_onnx(name: str, batch: str | int, conditional: bool) -> None:
    """tanh(z @ WEIGHT + TABLE[label]) as 1x4x4, channels first, as PyTorch exports it."""
    latent = helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 6])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [batch])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 4, 4])
    nodes = [helper.make_node("MatMul", ["z", "weight"], ["x"])]
    if conditional:
        nodes += [helper.make_node("Gather", ["table", "label"], ["e"]), helper.make_node("Add", ["x", "e"], ["y"])]
    nodes += [
        helper.make_node("Tanh", ["y" if conditional else "x"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["image"]),
    ]
    shape = np.array([-1, 1, 4, 4], np.int64)
    arrays = {"weight": WEIGHT, "shape": shape} | ({"table": TABLE} if conditional else {})
    graph = helper.make_graph(
        nodes,
        "generator",
        [latent, label] if conditional else [latent],
        [image],
        [numpy_helper.from_array(array, key) for key, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, name)


def write_judge(name: str) -> None:
    """softmax(image @ weight) of images 1x8x8, channels first, to probabilities of four classes."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    shares = helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["batch", 4])
    weight = np.random.default_rng(5).standard_normal((64, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["shares"]),
        ],
        "judge",
        [image],
        [shares],
        [numpy_helper.from_array(np.array([-1, 64], np.int64), "shape"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, name)


def write_tflite(name: str) -> None:
    """tanh(z @ WEIGHT) as 4x4x1."""

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="z")])
    def generator(z: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.tanh(z @ WEIGHT), (-1, 4, 4, 1))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([generator.get_concrete_function()])
    with open(name, "wb") as file:
        file.write(converter.convert())


def main() -> None:
    write_onnx("conditional.onnx", "batch", conditional=True)
    write_onnx("batch_of_one.onnx", 1, conditional=False)
    write_judge("judge.onnx")
    write_tflite("plain.tflite")
    latents = RNG.standard_normal((5, 6)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    plain = np.tanh(latents @ WEIGHT).reshape(-1, 4, 4, 1)
    conditional = np.tanh(latents @ WEIGHT + TABLE[labels]).reshape(-1, 4, 4, 1)
    np.savez("expected.npz", latents=latents, labels=labels, plain=plain, conditional=conditional)


if __name__ == "__main__":
    main()
