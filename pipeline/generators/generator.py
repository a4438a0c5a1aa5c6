"""A generator that was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import UsageError, shown
from pipeline.generators.interface import Constant, Interface, constant_of
from pipeline.generators.structure import Structure
from pipeline.generators.trusted_code import Code


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A generator that was found, with its identity."""

    #: How to ask for it: the name of a built-in one, an absolute path or an s3:// URL.
    reference: str
    #: "keras", "tfjs", "saved_model" or "untrained".
    kind: str
    #: The model: a file, or the folder of a SavedModel.
    model: Path
    #: Short name.
    name: str
    #: One line for people.
    summary: str
    #: Hash of the model's content, wherever it lies.
    content: str
    #: "sha256:..." over the model's content and its interface.
    digest: str
    #: Bytes of all its files.
    size_bytes: int
    structure: Structure
    interface: Interface
    #: What has to be run to load it, where its author's own code is needed.
    code: Code = ()

    def settings(self, told: Mapping[str, float | Sequence[float]]) -> tuple[Constant, ...]:
        """What inputs are fed in place of the generator's own constants, by name. Raises UsageError.

        In order, and without what is the generator's own: the same settings are the same tuple.
        """
        own, ports = dict(self.interface.constants), {port.name: port for port in self.structure.inputs}
        found = []
        for name, value in sorted(told.items()):
            if name not in own:
                names = f"it has {', '.join(own)}" if own else "it has none"
                raise UsageError(f"the generator has no setting {shown(name)}: {names}")
            try:
                numbers = constant_of(ports[name], value if isinstance(value, Sequence) else [value])
            except (TypeError, ValueError) as error:
                raise UsageError(f"setting {shown(name)}: {error}") from None
            if not all(map(math.isfinite, numbers)):
                raise UsageError(f"setting {shown(name)} is not finite")
            if set(numbers) != set(own[name]) or (len(set(numbers)) > 1 and numbers != own[name]):
                found.append((name, numbers))
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for a worker's announcement."""
        return {
            "name": self.name,
            "reference": self.reference,
            "kind": self.kind,
            "digest": self.digest,
            "summary": self.summary,
            "model": str(self.model),
            "size_bytes": self.size_bytes,
            "parameters": self.structure.parameters,
            "flop": self.structure.flop,
            "notes": list(self.structure.notes),
            "code": {str(file.path): file.sha256 for file in self.code},
            **asdict(self.interface),
            "latent_dim": self.interface.latent_dim,
        }
