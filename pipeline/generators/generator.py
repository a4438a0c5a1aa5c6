"""A generator that was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.generators.interface import Interface
from pipeline.generators.structure import Structure


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
            **asdict(self.interface),
            "latent_dim": self.interface.latent_dim,
        }
