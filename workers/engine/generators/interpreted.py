"""Generators that another library interprets on the CPU: ONNX by onnxruntime, TensorFlow Lite by its interpreter."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.structure import Port, Structure
from workers.engine.generators.network import Network, first_line, in_batches_of

if TYPE_CHECKING:
    import tensorflow as tf

#: ONNX type of an input or output -> dtype.
_ONNX_TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int32)": "int32",
    "tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip

#: Maps arrays of the inputs, in order, to those of the outputs; the first dimension is the batch.
_Run = Callable[[list[NDArray[Any]]], list[NDArray[Any]]]


def load_onnx(path: Path) -> Network:
    """The network of an ONNX file. Raises GeneratorError."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise GeneratorError(
            f"generator {path} is an ONNX file, which takes onnxruntime: pip install 'noisemill[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors are raised as exceptions.
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime may raise any error.
        raise GeneratorError(f"generator {path} cannot be loaded: {first_line(error)}") from error
    told, made = session.get_inputs(), session.get_outputs()
    names = [each.name for each in told]

    def run(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        answers: list[NDArray[Any]] = session.run(None, dict(zip(names, arrays, strict=True)))
        return answers

    inputs = tuple(_port(path, each.name, each.shape, _ONNX_TYPES.get(each.type)) for each in told)
    # Images have channels first, as in PyTorch.
    outputs = tuple(
        replace(port, channels_first=len(port.shape) == 3 and port.shape[0] in (1, 3, 4))
        for port in (_port(path, each.name, each.shape, _ONNX_TYPES.get(each.type)) for each in made)
    )
    sizes = {each.shape[0] for each in told if type(each.shape[0]) is int}
    return _network(inputs, outputs, run, session, _one_batch(path, sizes))


def load_tflite(path: Path) -> Network:
    """The network of a TensorFlow Lite file. Raises GeneratorError."""
    import tensorflow as tf

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A notice that it will move to another package.
            interpreter = tf.lite.Interpreter(str(path))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise GeneratorError(f"generator {path} cannot be loaded: {first_line(error)}") from error
    told, made = interpreter.get_input_details(), interpreter.get_output_details()
    lock = threading.Lock()  # The interpreter holds its tensors: one batch at a time.

    def run(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        with lock:
            for each, array in zip(told, arrays, strict=True):
                interpreter.resize_tensor_input(each["index"], array.shape)
            interpreter.allocate_tensors()
            for each, array in zip(told, arrays, strict=True):
                interpreter.set_tensor(each["index"], array)
            interpreter.invoke()
            return [interpreter.get_tensor(each["index"]).copy() for each in made]

    inputs = tuple(_tflite_port(path, each) for each in told)
    outputs = tuple(_tflite_port(path, each) for each in made)
    # The batch size may be a constant inside the network, so it cannot be resized.
    sizes = {int(each["shape_signature"][0]) for each in told if each["shape_signature"][0] != -1}
    return _network(inputs, outputs, run, interpreter, _one_batch(path, sizes))


def _one_batch(path: Path, sizes: set[int]) -> int | None:
    """The fixed batch of a network, from the sizes of its inputs; None if it is open."""
    if len(sizes) > 1:
        told = ", ".join(map(str, sorted(sizes)))
        raise GeneratorError(f"generator {path}: its inputs have different fixed batches, {told}")
    return sizes.pop() if sizes else None


def _network(inputs: tuple[Port, ...], outputs: tuple[Port, ...], run: _Run, owner: Any, batch: int | None) -> Network:
    """A network that is computed outside TensorFlow, in batches of this size if it is not None."""
    structure = Structure(inputs=inputs, outputs=outputs)

    def call(tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        def compute(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
            return [np.ascontiguousarray(each) for each in run([np.asarray(array) for array in arrays])]

        fed = [tensors[port.name] for port in inputs]
        answers = tf.numpy_function(compute, fed, [tf.as_dtype(port.dtype) for port in outputs])
        for port, answer in zip(outputs, answers, strict=True):
            answer.set_shape((fed[0].shape[0], *port.shape))
        return {port.name: answer for port, answer in zip(outputs, answers, strict=True)}

    return Network(structure=structure, call=in_batches_of(batch, structure, call), owner=owner)


def _tflite_port(path: Path, told: Mapping[str, Any]) -> Port:
    signature = [int(size) for size in told["shape_signature"]]
    # The converter prefixes tensor names with the signature's name.
    name = str(told["name"]).rpartition("serving_default_")[2].removesuffix(":0")
    return _port(path, name, [None if size < 0 else size for size in signature], np.dtype(told["dtype"]).name)


def _port(path: Path, name: str, shape: list[Any], dtype: str | None) -> Port:
    if dtype is None or not shape:
        raise GeneratorError(f"generator {path}: {name!r} is neither numbers nor has it a dimension for the batch")
    return Port(name=name, shape=tuple(size if type(size) is int else None for size in shape[1:]), dtype=dtype)
