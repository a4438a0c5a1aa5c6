"""Reads the small JSON files beside the samples (job.json, receipts, manifest), which are untrusted input.

A byte-order mark and other line endings, which editors may add, are ignored. Duplicate keys are refused, since programs
differ in which of the two they use.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from typing import Any

from pipeline.common.errors import DatasetError, shown
from pipeline.common.files import first_line
from pipeline.stores.store import Store

#: Largest record that is read, so that a larger file cannot fill the memory.
MAX_BYTES = 64_000_000


def read_record(store: Store, name: str) -> bytes:
    """A record's bytes. Raises FileNotFoundError if it is absent, DatasetError if it is too large to be one."""
    text = store.read(name, most_bytes=MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DatasetError(f"{store.url}/{name} is larger than {MAX_BYTES // 10**6} MB: noisemill did not write that")
    return text


def parse_record(text: str | bytes, source: str) -> Any:
    """The parsed record. Raises DatasetError that names `source` if it is not JSON in UTF-8 or has duplicate keys."""
    try:
        if isinstance(text, bytes):
            text = text.removeprefix(codecs.BOM_UTF8).decode()
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source} is not valid JSON: {first_line(error)}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys and values. Raises ValueError for a duplicate key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twin, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{shown(twin)} is there twice")
    return found


#: Shared: creating it takes a tenth of the time of reading a receipt.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)
