"""The kinds of models on disk: how each is recognized, hashed and read.

To add a kind, write a class here with a line in `KINDS`, and a loader in `workers/engine/generators`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pipeline.common.errors import GeneratorError
from pipeline.common.files import open_regular
from pipeline.generators.architecture import NotUnderstoodError, read_architecture
from pipeline.generators.architecture_file import architecture_beside, find_architecture, is_architecture
from pipeline.generators.archive import read_config
from pipeline.generators.hdf5 import holds_weights_alone, keras_of, read_hdf5_model
from pipeline.generators.inspection import structure_of
from pipeline.generators.keras_notes import notes_of
from pipeline.generators.structure import Structure
from pipeline.generators.tfjs import read_json, read_layers_model, read_topology
from pipeline.generators.tfjs_graph import read_graph_model


class Kind(Protocol):
    """One kind of model on disk."""

    #: Short name, also that of its loader.
    name: str

    def find(self, path: Path) -> Path | None:
        """The model at a path: the path itself, or a file in it. None if there is none of this kind."""
        ...

    def files(self, model: Path) -> list[Path]:
        """All files of the model, in an order that does not depend on the machine."""
        ...

    def structure(self, model: Path) -> Structure | None:
        """The structure of the model; None if only TensorFlow can read it. Raises GeneratorError."""
        ...


def _file(path: Path, name: str, suffix: str) -> Path | None:
    if os.path.isdir(path):
        return path / name if os.path.isfile(path / name) else None
    return path if os.path.isfile(path) and path.name.endswith(suffix) else None


#: Suffixes by which a single file in a folder is recognized as a model.
_ALONE = (".keras", ".h5", ".hdf5", ".onnx", ".tflite", ".jaxexport", ".index")


class KerasFile:
    """Keras 3's own format: a zip with configuration and weights."""

    name = "keras"

    def find(self, path: Path) -> Path | None:
        """A `.keras` file, or `model.keras` in a folder."""
        return _file(path, "model.keras", ".keras")

    def files(self, model: Path) -> list[Path]:
        """The one file."""
        return [model]

    def structure(self, model: Path) -> Structure | None:
        """From the configuration, if all its layers are in the table."""
        config = read_config(model)
        try:
            structure = structure_of(read_architecture(config))
        except NotUnderstoodError:
            return None
        return replace(structure, notes=notes_of(config, keras_of(model)))


class Hdf5File:
    """A `.h5` file of Keras 1, 2 or 3: a whole model, or weights with the architecture beside them."""

    name = "hdf5"

    def find(self, path: Path) -> Path | None:
        """A `.h5` or `.hdf5` file, or `model.h5` in a folder."""
        return next(filter(None, (_file(path, f"model{suffix}", suffix) for suffix in (".h5", ".hdf5"))), None)

    def files(self, model: Path) -> list[Path]:
        """The file, and the architecture if it is a separate file."""
        beside = find_architecture(model) if holds_weights_alone(model) else None
        return [model] if beside is None else [model, beside]

    def structure(self, model: Path) -> Structure | None:
        """From the description of the layers, which must all be in the table."""
        return read_hdf5_model(model).structure


class Checkpoint:
    """A checkpoint of TensorFlow 2: `NAME.index` and `NAME.data-*`, with the architecture beside them."""

    name = "checkpoint"

    def find(self, path: Path) -> Path | None:
        """`NAME.index`, given by NAME or one of its files, or by a folder whose latest checkpoint it is."""
        if os.path.isdir(path):
            latest = _latest(path / "checkpoint")
            return path / f"{latest}.index" if latest and os.path.isfile(path / f"{latest}.index") else None
        name = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name)
        index = path.parent / f"{name}.index"
        return index if name and os.path.isfile(index) else None

    def files(self, model: Path) -> list[Path]:
        """The index, the values, and the architecture. Raises GeneratorError if one is missing."""
        values = sorted(model.parent.glob(f"{glob.escape(model.stem)}.data-*-of-*"))
        if not values:
            raise GeneratorError(f"generator {model}: the values {model.stem}.data-... are missing beside it")
        return [model, *values, architecture_beside(model)]

    def structure(self, model: Path) -> Structure | None:
        """Only TensorFlow reads checkpoints."""
        return None


class TensorFlowJs:
    """A TensorFlow.js layers model or graph model: `model.json` and files of weights."""

    name = "tfjs"

    def find(self, path: Path) -> Path | None:
        """A JSON file (but not an untrained generator), or `model.json` in a folder (but not of weights beside it)."""
        found = _file(path, "model.json", ".json")
        if found is None or found.name == _UNTRAINED or (found != path and is_architecture(found)):
            return None
        return found

    def files(self, model: Path) -> list[Path]:
        """The JSON file, then the weights in the manifest's order."""
        data = read_json(model)
        read = read_graph_model(model, data) if data.get("format") == "graph-model" else read_layers_model(model)
        return [model, *read.files]

    def structure(self, model: Path) -> Structure | None:
        """From the topology, whose layers must all be in the table."""
        data = read_json(model)
        if data.get("format") == "graph-model":
            return read_graph_model(model, data).structure
        return read_layers_model(model).structure


class SavedModel:
    """TensorFlow's SavedModel: a folder with `saved_model.pb`."""

    name = "saved_model"

    def find(self, path: Path) -> Path | None:
        """The folder."""
        folder = path.parent if path.name == _SAVED_MODEL else path
        return folder if os.path.isfile(folder / _SAVED_MODEL) else None

    def files(self, model: Path) -> list[Path]:
        """Graph, variables and assets; not the fingerprint and other files."""
        below = [file for name in ("variables", "assets") for file in sorted((model / name).rglob("*"))]
        return [model / _SAVED_MODEL, *(file for file in below if file.is_file())]

    def structure(self, model: Path) -> Structure | None:
        """Only TensorFlow reads it."""
        return None


class InterpretedFile:
    """A file that its library alone reads: ONNX, TensorFlow Lite, what JAX exported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find(self, path: Path) -> Path | None:
        """A file with this suffix, such as `.onnx`, or `model` with it in a folder."""
        return _file(path, f"model.{self.name}", f".{self.name}")

    def files(self, model: Path) -> list[Path]:
        """The file, and the data file that PyTorch writes beside a large one."""
        beside = (model.with_name(f"{model.name}{end}") for end in (".data", "_data"))
        return [model, *(file for file in beside if file.is_file())]

    def structure(self, model: Path) -> Structure | None:
        """Only its library reads it."""
        return None


class Untrained:
    """A topology written by TensorFlow.js, and the seed of its weights."""

    name = "untrained"

    def find(self, path: Path) -> Path | None:
        """`untrained.json`, or the folder that contains it."""
        return _file(path, _UNTRAINED, _UNTRAINED)

    def files(self, model: Path) -> list[Path]:
        """The one file."""
        return [model]

    def structure(self, model: Path) -> Structure | None:
        """From the topology."""
        try:
            return structure_of(read_topology(model, read_json(model)))
        except NotUnderstoodError as error:
            raise GeneratorError(f"generator {model}: {error}") from None


def _latest(state: Path) -> str | None:
    """The name of the latest checkpoint in the file `checkpoint`, which may contain its former folder."""
    try:
        with open_regular(state) as file:
            match = re.match(rb'model_checkpoint_path: "(?:.*[/\\\\])?([^"/\\\\]+)"\n', file.read(4096))
    except OSError:
        return None
    return match[1].decode("utf-8", "replace") if match else None


_SAVED_MODEL = "saved_model.pb"
_UNTRAINED = "untrained.json"

KINDS: tuple[Kind, ...] = (
    KerasFile(),
    Hdf5File(),
    Checkpoint(),
    TensorFlowJs(),
    SavedModel(),
    Untrained(),
    InterpretedFile("onnx"),
    InterpretedFile("tflite"),
    InterpretedFile("jaxexport"),
)


#: Kinds that cannot be computed in a lower precision, in words.
COMPUTE_AS_SAVED = {
    "saved_model": "SavedModel",
    "onnx": "model in ONNX",
    "tflite": "TensorFlow Lite model",
    "jaxexport": "function exported by JAX",
}


def find_model(path: Path) -> tuple[Kind, Path] | None:
    """The model at a path and its kind. Raises GeneratorError if a folder contains several."""
    found = [(kind, model) for kind in KINDS if (model := kind.find(path)) is not None]
    if not found and os.path.isdir(path):
        # A single file with such a suffix need not be renamed.
        files = [path / name for name in sorted(os.listdir(path)) if name.endswith(_ALONE)]
        found = [(kind, model) for file in files for kind in KINDS if (model := kind.find(file)) is not None]
    if len(found) > 1:
        names = ", ".join(str(model) for _, model in found)
        raise GeneratorError(f"generator {path} is several models: name one of {names}")
    return found[0] if found else None


def content_sha256(kind: Kind, model: Path) -> str:
    """Hash of a model's content, independent of its location and file names. Raises GeneratorError."""
    digest = hashlib.sha256(f"{kind.name}\n".encode())
    try:
        for file in kind.files(model):
            with open_regular(file) as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        raise GeneratorError(f"generator {model} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def size_bytes(kind: Kind, model: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in kind.files(model))


def names_of_kinds() -> str:
    """For messages."""
    return (
        "a .keras, .h5, .onnx, .tflite or .jaxexport file, a checkpoint, a TensorFlow.js model.json "
        "or a SavedModel folder"
    )
