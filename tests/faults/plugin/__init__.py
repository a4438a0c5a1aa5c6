"""Faults that are put into a worker's processes from outside: see `sitecustomize`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def faulty(**faults: Any) -> dict[str, Any]:
    """The environment of a worker with these faults."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "NOISEMILL_TEST_FAULTS": json.dumps(faults)}
