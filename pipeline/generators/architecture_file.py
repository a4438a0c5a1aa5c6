"""The architecture of a model in a separate JSON file, written by `model.to_json()`, beside a file of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.common.files import read_regular
from pipeline.generators.archive import MOST_CONFIG_BYTES

#: Names of files that may contain the architecture, besides `NAME.json`.
_NAMES = ("generator.json", "model.json", "architecture.json", "config.json")


def architecture_beside(weights: Path) -> Path:
    """The file with the architecture for these weights. Raises GeneratorError if there is none."""
    found = find_architecture(weights)
    if found is None:
        stem = _stem(weights)
        raise GeneratorError(
            f"generator {weights} holds weights alone: put the model's architecture beside it as {stem}.json "
            f"(model.to_json() where it was made), or save it whole (model.save('{stem}.keras'))"
        )
    return found


def find_architecture(weights: Path) -> Path | None:
    """The same, or None. It has the weights' name or a usual one, or is the only architecture beside them."""
    for name in (f"{_stem(weights)}.json", f"{weights.stem}.json", *_NAMES):
        if is_architecture(weights.parent / name):
            return weights.parent / name
    others = [each for each in sorted(weights.parent.glob("*.json")) if is_architecture(each)]
    return others[0] if len(others) == 1 else None


def _stem(weights: Path) -> str:
    return weights.name.removesuffix(weights.suffix).removesuffix(".weights")


def is_architecture(path: Path) -> bool:
    """Whether a file is the description of a Keras model without weights."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_CONFIG_BYTES:
            return False
        data = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("class_name"), str) and "config" in data


def parse_description(path: Path, text: str) -> dict[str, Any]:
    """The description of a model: class name, configuration, perhaps Keras' version. Raises GeneratorError."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GeneratorError(f"generator {path}: its description is not valid JSON: {error}") from None
    if not isinstance(description, dict):
        raise GeneratorError(f"generator {path} describes no model")
    return description


def major_version(version: str, otherwise: str) -> int:
    """The first number of a version of Keras, at most 3; of `otherwise` if the version is empty."""
    number = (version or otherwise).partition(".")[0]
    return min(3, int(number)) if number.isdigit() and number != "0" else 1
