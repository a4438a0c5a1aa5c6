"""What a model file says of itself, as JSON: `python -m workers.inspection PATH`.

Run as a process of its own by `pipeline.generators`, which never imports TensorFlow.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pipeline.errors import GeneratorError, NoisemillError
from workers.devices import pin_device
from workers.tensorflow_start import start_tensorflow


def inspect(path: str) -> dict[str, Any]:
    """Tables as in `generator.toml`: latent, label and output. Raises GeneratorError."""
    pin_device("cpu")
    start_tensorflow()
    from workers.generators.keras_model import read_keras  # After the device is pinned.

    model = read_keras(path)
    latents, labels = _tell_apart(path, model.inputs)
    if len(model.outputs) != 1:
        raise GeneratorError(f"generator {path} has {len(model.outputs)} outputs: one is needed")
    tables: dict[str, Any] = {
        "latent": {"input": latents.name, "shape": [int(size) for size in latents.shape[1:]]},
        "label": {},
        "output": {"shape": _known_shape(path, model.outputs[0].shape[1:])},
    }
    value_range = _range_of_last_activation(model)
    if value_range:
        tables["output"]["range"] = value_range
    if labels is not None:
        width = labels.shape[-1] if len(labels.shape) > 1 else 1
        tables["label"] = {"input": labels.name, "encoding": "one_hot" if width > 1 else "integer"}
        if width > 1:
            tables["label"]["classes"] = int(width)
    return tables


def _tell_apart(path: str, inputs: list[Any]) -> tuple[Any, Any]:
    """The latent's input and the label's: of two, the label is whole numbers, or is named so."""
    if len(inputs) == 1:
        return inputs[0], None
    if len(inputs) == 2:
        for latents, labels in (inputs, inputs[::-1]):
            whole = "int" in str(labels.dtype) and "int" not in str(latents.dtype)
            if whole or any(word in labels.name.lower() for word in ("label", "class", "cond")):
                return latents, labels
    names = ", ".join(tensor.name for tensor in inputs)
    raise GeneratorError(f"generator {path} has the inputs {names}: say in generator.toml which is latent and label")


def _known_shape(path: str, shape: Any) -> list[int]:
    if any(size is None for size in shape):
        raise GeneratorError(f"generator {path} makes samples of the open shape {tuple(shape)}: it must be fixed")
    return [int(size) for size in shape]


def _range_of_last_activation(model: Any) -> list[float] | None:
    """The range that the last layer's activation cannot leave: tanh or sigmoid."""
    activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", "")
    return {"tanh": [-1.0, 1.0], "sigmoid": [0.0, 1.0]}.get(activation)


def main() -> None:
    """Exit code 0 with the tables on stdout; 1 and one line where the model cannot be understood."""
    try:
        print(json.dumps(inspect(sys.argv[1])))
    except NoisemillError as error:
        print(f"noisemill: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
