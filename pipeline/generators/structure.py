"""What a model shows of itself: inputs, outputs, size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or an output."""

    name: str
    #: Without the batch; None where a size is open.
    shape: Shape
    dtype: str = "float32"
    #: What the values cannot leave, where the last layers tell; of outputs only.
    value_range: tuple[float, float] | None = None
    #: Whether the layer that makes it works with channels first; of outputs only.
    channels_first: bool = False
    #: Whether its first dimension is the batch, which `shape` leaves out; of inputs only.
    batched: bool = True
    #: How many whole numbers it tells apart, where it goes into an embedding; of inputs only.
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A model as it shows itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    #: Numbers in the model's weights; None where unknown.
    parameters: int | None = None
    #: Multiplications and additions per sample in dense and convolution layers; None where unknown.
    flop: int | None = None
    #: What a user should know, one line each.
    notes: tuple[str, ...] = ()
    #: SHA-256 of the files whose code it takes to load the model, in the order in which they are run.
    code: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `structure_from_json`."""
        return asdict(self)


def structure_from_json(data: dict[str, Any]) -> Structure:
    """What `as_json` wrote, after a way through JSON."""
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
