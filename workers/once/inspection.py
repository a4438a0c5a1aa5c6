"""Inspects a model with TensorFlow and prints its structure as JSON: `python -m workers.once.inspection JSON`.

The argument is {"kind": ..., "model": path, "signature": name or null, "offers": [[[path, sha256], ...], ...]}.
`pipeline.generators` starts it and never imports TensorFlow itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.common.errors import GeneratorError
from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.generators.structure import Structure
from pipeline.generators.trusted_code import Code, CodeFile
from workers.engine.devices import pin_device
from workers.engine.tensorflow_start import start_tensorflow


def inspect(kind: str, model: Path, signature: str | None, offers: Sequence[Code]) -> Structure:
    """Inputs, outputs and size of a model; code is run only where it does not load without. Raises GeneratorError."""
    pin_device("cpu")
    start_tensorflow()
    from workers.engine.generators import load_network  # After the device is pinned.

    for code in [(), *offers]:
        try:
            structure = load_network(kind, model, signature, code).structure
            return replace(structure, code=tuple(file.sha256 for file in code))
        except GeneratorError as error:
            last = error
    raise last


def main() -> None:
    """Exit code 0 with the structure on stdout; 1 and one line if the model cannot be used."""
    with exit_on_error():
        # The model is not trusted. TensorFlow needs a folder for its own temporary files.
        drop_rights(writable=[Path(tempfile.gettempdir())])
        asked = json.loads(sys.argv[1])
        offers = [tuple(CodeFile(Path(path), sha256) for path, sha256 in offer) for offer in asked["offers"]]
        print(json.dumps(inspect(asked["kind"], Path(asked["model"]), asked["signature"], offers).as_json()))


if __name__ == "__main__":
    main()
