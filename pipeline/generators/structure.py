"""The structure of a model: inputs, outputs, size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or an output."""

    name: str
    #: Without the batch; None for an open size.
    shape: Shape
    dtype: str = "float32"
    #: Range of the values, if the last layers bound them; for outputs only.
    value_range: tuple[float, float] | None = None
    #: Whether its layer has channels first; for outputs only.
    channels_first: bool = False
    #: Whether its first dimension is the batch, which `shape` leaves out; for inputs only.
    batched: bool = True
    #: The number of entries of the embedding that it feeds, if any; for inputs only.
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The structure of a model."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    #: Number of parameters; None if unknown.
    parameters: int | None = None
    #: Multiplications and additions per sample in dense and convolution layers; None if unknown.
    flop: int | None = None
    #: Notes for the user, one line each.
    notes: tuple[str, ...] = ()
    #: SHA-256 of the code files needed to load the model, in the order in which they are run.
    code: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `structure_from_json`."""
        return asdict(self)


def structure_from_json(data: dict[str, Any]) -> Structure:
    """The structure from the JSON of `as_json`."""
    return Structure(
        inputs=tuple(_port(port) for port in data["inputs"]),
        outputs=tuple(_port(port) for port in data["outputs"]),
        parameters=data["parameters"],
        flop=data["flop"],
        notes=tuple(data["notes"]),
        code=tuple(data.get("code", ())),
    )


def _port(data: dict[str, Any]) -> Port:
    ends = data["value_range"]
    return Port(**{**data, "shape": tuple(data["shape"]), "value_range": (ends[0], ends[1]) if ends else None})
