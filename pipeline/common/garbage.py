"""Python's search for garbage, which costs much where many objects are made and all of them are kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_objects() -> Iterator[None]:
    """Pauses the search for garbage while many objects are made that will be kept, such as those of 100,000 receipts.

    Otherwise the search would visit them again and again. May be nested. Of several threads, the first to leave ends
    the pause for all.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
