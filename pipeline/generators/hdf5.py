"""Models in HDF5: whole ones that Keras 1, 2 and 3 save as `.h5`, and the weights inside a `.keras` file.

No code of Keras, and none in the file, is run. The file contains the JSON of the layers, which is read by the table of
layers (`pipeline.generators.layers`), and arrays, which are found by the order in which Keras wrote them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.common.errors import GeneratorError
from pipeline.common.files import first_line, open_regular
from pipeline.generators.architecture import Architecture, Layer, NotUnderstoodError, read_architecture
from pipeline.generators.architecture_file import architecture_beside, major_version, parse_description
from pipeline.generators.archive import DAMAGE, METADATA, WAYS_OUT, read_config
from pipeline.generators.inspection import survey
from pipeline.generators.keras_1 import modernised
from pipeline.generators.layers import Weights
from pipeline.generators.structure import Structure

if TYPE_CHECKING:
    import h5py
    import numpy as np
    from numpy.typing import NDArray

#: Groups with the arrays of layers in a `.keras` file: in Keras 3, and in Keras 2.12 to 2.15.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
#: Weights that are not trained: Keras writes those of a nested model after all others.
_NOT_TRAINED = ("moving_mean", "moving_variance")


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model that is rebuilt from the table of layers."""

    path: Path
    architecture: Architecture
    structure: Structure
    #: Major version of the Keras that wrote it: 1, 2 or 3. Some layers compute differently before 3.
    keras: int
    #: Name in the HDF5 file of each weight of each layer.
    places: dict[tuple[str, str], str]
    #: The JSON file with the architecture, if it is not in the file itself.
    beside: Path | None = None


def read_hdf5_model(path: Path) -> StoredModel:
    """The model in a `.h5` file, or the weights in one with the architecture beside it.

    Raises GeneratorError with what to do.
    """
    with _opened(path, None) as file:
        text = _text(file.attrs.get("model_config"))
        beside = None
        if text is None:
            beside = architecture_beside(path)
            text = beside.read_text(encoding="utf-8")
        description = parse_description(path, text)
        description = description.get("model_config", description)
        version = _text(file.attrs.get("keras_version")) or str(description.get("keras_version", ""))
        keras = major_version(version, "3" if "layers" in file or "_layer_checkpoint_dependencies" in file else "1")
        return _understood(path, description, keras, file, beside)


def holds_weights_alone(path: Path) -> bool:
    """Whether a `.h5` file contains no architecture. Raises GeneratorError if it is not an HDF5 file."""
    with _opened(path, None) as file:
        return "model_config" not in file.attrs


def read_keras_archive(path: Path) -> StoredModel:
    """The model in a `.keras` file. Raises NotUnderstoodError if a layer is not in the table of layers."""
    description = read_config(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5") if "model.weights.h5" in archive.namelist() else b""
    if not weights:
        raise NotUnderstoodError("its weights are no HDF5 file")
    architecture = read_architecture(description)
    with _opened(path, weights) as file:
        structure, found = survey(architecture)
        places = dict(_by_class(path, architecture, found.weights, file))
        return StoredModel(
            path=path, architecture=architecture, structure=structure, keras=keras_of(path), places=places
        )


def keras_of(path: Path) -> int:
    """Major version of the Keras that wrote a `.keras` file. Raises GeneratorError."""
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(METADATA)) if METADATA in archive.namelist() else {}
    except (*DAMAGE, ValueError, RecursionError) as error:
        raise GeneratorError(f"generator {path} is no whole .keras file: {error}") from None
    version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
    return major_version(str(version), "3")


def read_values(model: StoredModel) -> dict[tuple[str, str], NDArray[np.float32]]:
    """All weights, by layer and weight. Raises GeneratorError."""
    import numpy as np

    data = None
    if zipfile.is_zipfile(model.path):
        with zipfile.ZipFile(model.path) as archive:
            data = archive.read("model.weights.h5")
    with _opened(model.path, data) as file:
        return {place: np.asarray(file[name][()], np.float32) for place, name in model.places.items()}


@contextmanager
def _opened(path: Path, data: bytes | None) -> Iterator[h5py.File]:
    """Opens the HDF5 file, or the one in `data`. Its errors become GeneratorError."""
    import h5py  # Takes a tenth of a second: only for such files.

    def whole(source: BinaryIO) -> Iterator[h5py.File]:
        with h5py.File(source, "r") as file:
            _check_inside(path, file)
            yield file

    try:
        if data is not None:
            yield from whole(io.BytesIO(data))
        else:
            with open_regular(path) as source:
                yield from whole(source)
    except GeneratorError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, RecursionError) as error:
        raise GeneratorError(f"generator {path} is no whole HDF5 file: {_why(path, error)}") from error


def _why(path: Path, error: Exception) -> str:
    if not zipfile.is_zipfile(path):
        with open_regular(path) as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                return "it is a pointer of Git LFS, not the file itself: fetch that with 'git lfs pull'"
    return first_line(error)


def _check_inside(path: Path, file: h5py.File) -> None:
    """Refuses links to other files and arrays stored in other files. Raises GeneratorError."""
    import h5py

    waiting = [file["/"]]
    seen = 0
    while waiting:
        group = waiting.pop()
        for name in group:
            seen += 1
            if seen > 100_000:
                raise GeneratorError(f"generator {path} holds more than 100,000 arrays and groups: that is no model")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise GeneratorError(f"generator {path} is refused: {name[:80]!r} in it is a link, not an array")
            each = group[name]
            if isinstance(each, h5py.Group):
                waiting.append(each)
            elif isinstance(each, h5py.Dataset) and (each.external or each.is_virtual):
                raise GeneratorError(f"generator {path} is refused: the values of {name[:80]!r} lie in another file")


def _understood(path: Path, description: Any, keras: int, file: h5py.File, beside: Path | None = None) -> StoredModel:
    try:
        architecture = read_architecture(modernised(description) if keras == 1 else description)
        structure, found = survey(architecture)
    except NotUnderstoodError as error:
        raise GeneratorError(f"generator {path}: {error}; if its author wrote layers, {WAYS_OUT}") from None
    if any(container in file for container in _CONTAINERS):
        places = dict(_by_class(path, architecture, found.weights, file))
    else:
        root = file.get("model_weights", file)
        places = dict(_by_name(path, architecture, found.weights, root))
    return StoredModel(
        path=path, architecture=architecture, structure=structure, keras=keras, places=places, beside=beside
    )


# -- which array is which weight -----------------------------------------------------------------------


def _by_name(
    path: Path, architecture: Architecture, wanted: dict[str, Weights], root: h5py.Group
) -> Iterator[tuple[tuple[str, str], str]]:
    """Weights in a group for each layer, by the layer's name, with a list of arrays; a nested model has one group."""
    for layer in architecture.layers:
        own = _wanted(layer, wanted)
        if not own:
            continue
        if layer.name not in root:
            raise GeneratorError(f"generator {path}: the weights of layer {layer.name!r} are missing")
        group = root[layer.name]
        names = [f"{group.name}/{name}" for name in _list(group, "weight_names")]
        yield from _matched(path, layer, own, {name: tuple(group.file[name].shape) for name in names})


def _wanted(layer: Layer, weights: dict[str, Weights]) -> dict[tuple[str, str], tuple[int, ...]]:
    """The weights of a layer, or of all layers of a nested model, in order."""
    layers = [layer] if layer.inner is None else [each for each in layer.inner.all_layers() if each.inner is None]
    return {(each.name, name): shape for each in layers for name, shape in weights.get(each.name, {}).items()}


def _matched(
    path: Path, layer: Layer, wanted: dict[tuple[str, str], tuple[int, ...]], stored: dict[str, tuple[int, ...]]
) -> Iterator[tuple[tuple[str, str], str]]:
    """Matches arrays by name if possible, else by order."""
    by_name = {_end(name): name for name in stored}
    orders = [list(wanted), sorted(wanted, key=lambda key: key[1] in _NOT_TRAINED)]
    choices = [[by_name.get(key, "") for key in wanted]]
    choices += [[dict(zip(order, stored, strict=False)).get(key, "") for key in wanted] for order in orders]
    for choice in choices:
        if len(stored) == len(wanted) and [stored.get(name) for name in choice] == list(wanted.values()):
            yield from zip(wanted, choice, strict=True)
            return
    raise GeneratorError(
        f"generator {path}: layer {layer.name!r} takes weights of {_shapes(wanted.values())}, "
        f"the file holds {_shapes(stored.values())}"
    )


def _by_class(
    path: Path, architecture: Architecture, wanted: dict[str, Weights], group: h5py.Group
) -> Iterator[tuple[tuple[str, str], str]]:
    """Weights in a group for each layer, by its class and a number, in the order of layers; arrays by number."""
    container = next((group[name] for name in _CONTAINERS if name in group), None)
    counts: dict[str, int] = {}
    for layer in architecture.layers:
        name = _snake_case(layer.kind)
        number = counts[name] = counts.get(name, -1) + 1
        own = f"{name}_{number}" if number else name
        inside = container[own] if container is not None and own in container else None
        if layer.inner is not None:
            if inside is None:
                raise GeneratorError(f"generator {path}: the weights of the model {layer.name!r} are missing")
            yield from _by_class(path, layer.inner, wanted, inside)
        elif weights := _wanted(layer, wanted):
            arrays = inside["vars"] if inside is not None and "vars" in inside else None
            names = sorted(arrays or (), key=lambda each: int(each) if each.isdigit() else 0)
            stored = {} if arrays is None else {f"{arrays.name}/{each}": tuple(arrays[each].shape) for each in names}
            yield from _matched(path, layer, weights, stored)


def _snake_case(name: str) -> str:
    """The name of a group for a class, as Keras derives it: conv2d_transpose, leaky_re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _end(name: str) -> tuple[str, str]:
    """Layer and weight at the end of an array's name: ("dense_1", "kernel") of "/model_weights/a/dense_1/kernel:0"."""
    layer, _, weight = name.removesuffix(":0").rpartition("/")
    return layer.rpartition("/")[2], weight


# -- what surrounds the arrays -------------------------------------------------------------------------


def _list(group: h5py.Group, name: str) -> list[str]:
    """A list of names in attributes; long lists are split: weight_names0, weight_names1."""
    if name in group.attrs:
        return [str(_text(each)) for each in group.attrs[name]]
    pieces = (f"{name}{number}" for number in range(100_000))
    found: list[str] = []
    for piece in pieces:
        if piece not in group.attrs:
            return found
        found += [str(_text(each)) for each in group.attrs[piece]]
    return found


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None if value is None else str(value)


def _shapes(shapes: Any) -> str:
    texts = [str(shape) for shape in shapes]
    return ", ".join(texts[:6]) + (" and more" if len(texts) > 6 else "") if texts else "none"
