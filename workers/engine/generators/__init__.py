"""Loads generators of every kind behind one protocol.

network      what every kind is once it is loaded: named inputs, named outputs
wiring       from latents and labels to a network's inputs, from its outputs to samples
judge        from samples to the ranks that a judge gives them
keras_files, checkpoint, saved_model, tfjs, untrained, interpreted, jax_export      the loaders
trusted_code Keras models with their author's own layers, by code that the user trusts
build        a Keras model from another's description of it
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.common.errors import GeneratorError
from pipeline.common.limits import usable_memory
from pipeline.generators import Generator, Judge
from pipeline.generators.trusted_code import Code
from workers.engine.generators.checkpoint import load_checkpoint
from workers.engine.generators.interpreted import load_onnx, load_tflite
from workers.engine.generators.jax_export import load_jax_export
from workers.engine.generators.judge import Rank, wire_judge
from workers.engine.generators.keras_files import load_hdf5, load_keras
from workers.engine.generators.keras_model import lower_precision
from workers.engine.generators.network import Network
from workers.engine.generators.saved_model import load_saved_model
from workers.engine.generators.tfjs import load_tfjs
from workers.engine.generators.trusted_code import load_with_code
from workers.engine.generators.untrained import load_untrained
from workers.engine.generators.wiring import Forward, wire

__all__ = ["Forward", "Rank", "load_generator", "load_judge", "load_network"]

_LOADERS: dict[str, Callable[[Path], Network]] = {
    "keras": load_keras,
    "hdf5": load_hdf5,
    "checkpoint": load_checkpoint,
    "tfjs": load_tfjs,
    "saved_model": load_saved_model,
    "untrained": load_untrained,
    "onnx": load_onnx,
    "tflite": load_tflite,
    "jaxexport": load_jax_export,
}


def load_generator(generator: Generator, policy: str = "float32") -> Forward:
    """The forward pass of a generator, in inference mode, by a policy of Keras': "mixed_float16" computes in 16 bits.

    Raises GeneratorError if it cannot be loaded or does not match its interface.
    """
    _check_memory(generator)
    network = load_network(generator.kind, generator.model, generator.interface.signature, generator.code)
    if policy != "float32":
        lower_precision(network, policy)
    return wire(network, generator)


def load_judge(judge: Judge, generator: Generator) -> Rank:
    """What ranks the samples of a generator, in float32. Raises GeneratorError if it cannot be loaded."""
    return wire_judge(load_network(judge.kind, judge.model, code=judge.code), judge, generator)


def load_network(kind: str, model: Path, signature: str | None = None, code: Code = ()) -> Network:
    """The model at a path, as it is; of a SavedModel the function of a signature. Raises GeneratorError.

    `code` is run first: that of a Keras model's own layers.
    """
    if code and kind in ("keras", "hdf5"):
        return load_with_code(model, code)
    if signature is not None:
        return load_saved_model(model, signature)
    return _LOADERS[kind](model)


def _check_memory(generator: Generator) -> None:
    """Raises GeneratorError if the weights do not fit into memory: the kernel would kill this process."""
    needed = max(4 * (generator.structure.parameters or 0), generator.size_bytes)
    memory = usable_memory()
    if needed > memory:
        raise GeneratorError(
            f"generator {generator.reference} has {needed / 1e9:.1f} GB of weights, "
            f"and this process may use {memory / 1e9:.1f} GB of memory: it is too large"
        )
