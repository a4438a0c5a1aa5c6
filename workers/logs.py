"""How workers log: one line an event, to stderr."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """noisemill's own lines from `level` on, others' from WARNING on."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("noisemill").setLevel(level.upper())
