"""What generators and judges have in common: a model that was found, and its identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.generators.structure import Structure
from pipeline.generators.trusted_code import Code


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model and its identity."""

    #: Its reference: the name of a built-in one, an absolute path or an s3:// URL.
    reference: str
    #: "keras", "tfjs", "saved_model" and so on (`pipeline.generators.kinds.KINDS`).
    kind: str
    #: The model: a file, or the folder of a SavedModel.
    model: Path
    #: Short name.
    name: str
    #: One line of description.
    summary: str
    #: Hash of the model's content, independent of its location.
    content: str
    #: "sha256:..." over the model's content and what its sidecar declares: a generator's interface, a judge's scores.
    digest: str
    #: Bytes of all its files.
    size_bytes: int
    structure: Structure
    #: Code of its author that must be run to load it.
    code: Code = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
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
            "code": {str(file.path): file.sha256 for file in self.code},
        }
