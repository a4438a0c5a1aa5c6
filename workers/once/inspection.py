"""Inspects a model with TensorFlow and prints JSON: `python -m workers.once.inspection KIND PATH [SIGNATURE]`.

`pipeline.generators`, which never imports TensorFlow, runs it as a separate process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from pipeline.common.processes import exit_on_error
from pipeline.common.rights import drop_rights
from pipeline.generators.structure import Structure
from workers.engine.devices import pin_device
from workers.engine.tensorflow_start import start_tensorflow


def inspect(kind: str, path: str, signature: str | None = None) -> Structure:
    """Inputs, outputs and size of a model. Raises GeneratorError."""
    pin_device("cpu")
    start_tensorflow()
    from workers.engine.generators import load_network  # After the device is pinned.

    return load_network(kind, Path(path), signature).structure


def main() -> None:
    """Exit code 0 with the structure on stdout; 1 and one line if the model cannot be used."""
    with exit_on_error():
        # The model is not trusted. TensorFlow needs a folder for its own temporary files.
        drop_rights(writable=[Path(tempfile.gettempdir())])
        print(json.dumps(inspect(*sys.argv[1:]).as_json()))


if __name__ == "__main__":
    main()
