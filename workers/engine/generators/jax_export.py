"""Generators exported by JAX: the bytes of `jax.export.export(...)(...).serialize()`, run by TensorFlow's XLA.

The file is a FlatBuffer with a StableHLO module, its inputs and its outputs (`jax/_src/export/serialization.py`). The
module is run by the operation that jax2tf uses in SavedModels too, so JAX itself is not needed.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatbuffers import encode, packer
from flatbuffers.number_types import Int8Flags, Int16Flags, Uint16Flags, Uint32Flags
from flatbuffers.table import Table

from pipeline.common.errors import GeneratorError
from pipeline.common.files import read_regular
from pipeline.generators.structure import Port, Structure
from workers.engine.generators.network import Network, first_line, fixed_batch, in_batches_of, input_port, port_of

if TYPE_CHECKING:
    import tensorflow as tf

#: Fields of the table `Exported` of JAX's schema, by their place in it.
_IN_TREE, _IN_AVALS, _OUT_TREE, _OUT_AVALS, _DEVICES_SHORT, _PLATFORMS = 2, 3, 4, 5, 6, 9
_MODULE, _CALLING_CONVENTION, _KEPT, _DEVICES, _UNIQUE_AVALS, _IN_INDICES, _OUT_INDICES = 13, 14, 15, 18, 19, 22, 23
#: Of `PyTreeDef`, and its kind of a leaf; of `AbstractValue`.
_KIND, _CHILDREN, _NAMES, _LEAF = 0, 1, 2, 0
_SHAPE, _DTYPE = 1, 2
#: JAX's numbers of the types that TensorFlow can feed.
_DTYPES = {
    0: "bool", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "uint8", 6: "uint16", 7: "uint32", 8: "uint64",
    9: "float16", 10: "float32", 11: "float64", 14: "bfloat16",
}  # fmt: skip
#: A generator has a handful of inputs; a nest whose parts are shared may be larger than the file.
_MOST_NODES = 10_000


def load_jax_export(path: Path) -> Network:
    """The network of a file that JAX exported. Raises GeneratorError."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.
    from tensorflow.compiler.tf2xla.python import xla

    exported = _read(path)
    told = {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in exported.inputs.items()}
    made = {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in exported.outputs.items()}
    batch = fixed_batch(told, made)
    structure = Structure(
        inputs=tuple(_input(path, name, spec, batch) for name, spec in told.items()),
        outputs=tuple(port_of(path, name, spec, batch=batch) for name, spec in made.items()),
    )

    def call(tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fed = [tensors[name] for name in told]
        answers = xla.call_module(
            [fed[index] for index in exported.kept],
            version=exported.calling_convention,
            module=exported.module,
            Tout=[spec.dtype for spec in made.values()],
            Sout=[spec.shape for spec in made.values()],
            platforms=[name.upper() for name in exported.platforms],
            # StableHLO is the same on all platforms; a module that calls a function of one of them fails below.
            disabled_checks=[xla.call_module_disable_check_platform()],
        )
        return dict(zip(made, answers, strict=True))

    _try(path, exported, told, batch, call)
    return Network(structure=structure, call=in_batches_of(batch, structure, call))


def _input(path: Path, name: str, spec: Any, batch: int | None) -> Port:
    try:
        return input_port(path, name, spec, batch)
    except GeneratorError as error:
        raise GeneratorError(
            f"{error}; export a function that contains the weights: jax.jit(lambda z: apply(params, z))"
        ) from None


def _try(path: Path, exported: _Exported, told: Mapping[str, Any], batch: int | None, call: Any) -> None:
    """Runs the module once: only that shows whether TensorFlow knows its operations. Raises GeneratorError."""
    import tensorflow as tf

    def zeros(spec: Any) -> Any:
        shape = [size or 1 for size in spec.shape]
        return tf.zeros([batch or 2, *shape[1:]] if spec.shape.rank and spec.shape[0] in (None, batch) else shape,
                        spec.dtype)  # fmt: skip

    try:
        tf.function(call, jit_compile=True, autograph=False)({name: zeros(spec) for name, spec in told.items()})
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise GeneratorError(f"generator {path} cannot be run: {_reason(exported, error)}") from error


def _reason(exported: _Exported, error: Exception) -> str:
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    text = str(error)
    if called := re.search(r"(?:custom call to|FFI handler registered for) (\S+)", text):
        return f"it calls {called[1]}, which is not in the file; use only operations of XLA itself"
    if "dynamic shapes" in text:
        return "one of its operations needs a fixed batch: export it for (64, ...) instead of an open one"
    ours = stablehlo.get_current_version()
    if "failed to deserialize" in text or "not allow unknown operations" in text or "version" in text:
        return (
            f"it is in {exported.module_version}, newer than this TensorFlow's {ours}; docs/generators.md, JAX, "
            "shows how to export it in that version"
        )
    return first_line(error)


# -- the file ------------------------------------------------------------------------------------------


class _Exported:
    """What a file says. Raises what `_read` catches where it is malformed, GeneratorError where it cannot be run."""

    def __init__(self, path: Path, data: bytes) -> None:
        table = _Table(data, encode.Get(packer.uoffset, data, 0))
        self.module = table.content(_MODULE)
        if not self.module.startswith(b"ML\xefR"):
            raise ValueError("it holds no StableHLO module")
        #: Its producer, such as "StableHLO_v1.13.7".
        self.module_version = self.module[5:60].partition(b"\0")[0].decode("utf-8", "replace")
        if (devices := table.number(_DEVICES, Uint32Flags) or table.number(_DEVICES_SHORT, Int16Flags)) != 1:
            raise GeneratorError(f"generator {path} was exported for {devices} devices: export it for one")
        self.calling_convention = table.number(_CALLING_CONVENTION, Uint16Flags)
        self.platforms = table.texts(_PLATFORMS)
        #: Places of the inputs that the module takes; others are not used.
        self.kept = table.numbers(_KEPT, Uint16Flags)
        self.inputs = _ports(path, "in", table, _IN_TREE, _IN_AVALS, _IN_INDICES)
        self.outputs = _ports(path, "out", table, _OUT_TREE, _OUT_AVALS, _OUT_INDICES)
        if max(self.kept, default=0) >= len(self.inputs):
            raise ValueError("its module takes an input that it does not have")


def _read(path: Path) -> _Exported:
    try:
        return _Exported(path, read_regular(path))
    except (ValueError, TypeError, IndexError, struct.error, OSError) as error:
        raise GeneratorError(f"generator {path} is no whole file of jax.export: {first_line(error)}") from None


def _ports(
    path: Path, word: str, table: _Table, tree: int, avals: int, indices: int
) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Shapes (with the batch) and types by name: a keyword or a dictionary's key, else in_0, in_1, ... or out_0, ..."""
    unique = table.tables(_UNIQUE_AVALS)
    found = [unique[index] for index in table.numbers(indices, Uint32Flags)] or table.tables(avals)
    told = [".".join(keys) for keys in _leaves(table.table(tree))]
    count = Counter(told)
    names = [name if name and count[name] == 1 else f"{word}_{place}" for place, name in enumerate(told)]
    ports = {}
    for name, aval in zip(names, found, strict=True):
        dtype = _DTYPES.get(aval.number(_DTYPE, Int8Flags))
        if dtype is None:
            raise GeneratorError(
                f"generator {path}: {name!r} has a type that cannot be fed; a random key belongs inside the function"
            )
        ports[name] = (tuple(int(size) if size.isdigit() else None for size in aval.texts(_SHAPE)), dtype)
    return ports


def _leaves(tree: _Table) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value of a nest of tuples, lists and dictionaries, in order."""
    waiting: list[tuple[_Table, tuple[str, ...]]] = [(tree, ())]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        node, path = waiting.pop()
        if node.number(_KIND, Int8Flags) == _LEAF:
            yield path
        names = node.texts(_NAMES)
        children = [(child, (*path, *names[place : place + 1])) for place, child in enumerate(node.tables(_CHILDREN))]
        waiting += reversed(children)
    raise ValueError(f"its inputs or outputs are a nest of more than {_MOST_NODES:,} parts")


class _Table:
    """A table of a FlatBuffer: its fields by their place in the schema, empty or 0 where they are left out."""

    def __init__(self, data: bytes, position: int) -> None:
        self._table = Table(data, position)

    def number(self, field: int, form: Any) -> int:
        """A whole number of one of FlatBuffers' types."""
        place = self._table.Offset(4 + 2 * field)
        return int(self._table.Get(form, self._table.Pos + place)) if place else 0

    def numbers(self, field: int, form: Any) -> list[int]:
        """A vector of whole numbers."""
        return [int(self._table.Get(form, place)) for place in self._places(field, form.bytewidth)]

    def content(self, field: int) -> bytes:
        """A vector of bytes."""
        places = self._places(field, 1)
        return bytes(self._table.Bytes[places.start : places.stop])

    def texts(self, field: int) -> list[str]:
        """A vector of strings."""
        return [self._table.String(place).decode("utf-8", "replace") for place in self._places(field, 4)]

    def table(self, field: int) -> _Table:
        """Another table."""
        return _Table(self._table.Bytes, self._table.Indirect(self._table.Pos + self._table.Offset(4 + 2 * field)))

    def tables(self, field: int) -> list[_Table]:
        """A vector of tables."""
        return [_Table(self._table.Bytes, self._table.Indirect(place)) for place in self._places(field, 4)]

    def _places(self, field: int, size: int) -> range:
        """Where the elements of a vector lie, each of this many bytes."""
        place = self._table.Offset(4 + 2 * field)
        if not place:
            return range(0)
        first = self._table.Vector(place)
        return range(first, first + size * self._table.VectorLen(place), size)
