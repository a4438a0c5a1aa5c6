"""Packs of receipts in S3: copies of many receipts in one object, so that a scan needs a request for 1,024 of them.

The receipts remain the record. A scan lists them all the same, and takes a receipt from a pack only if the listing
shows the ETag of exactly these bytes; otherwise it reads the receipt itself. So a pack that is missing, old, damaged
or another's costs time, nothing else. ETags are the MD5 of an object, except where the server encrypts with keys of a
key management service: there packs are of no use.

A worker writes a pack when its commit completes PACK_SHARDS shards in a row; small jobs have none.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.common.errors import DatasetError
from pipeline.spec import plan as shards
from pipeline.stores.records import MAX_BYTES, parse_record, read_record
from pipeline.stores.store import Store

#: Threads that read receipts for a pack, or packs.
_READERS = 8
#: Receipts with more files than this are too long for packs.
_FEW_FILES = 16


def are_packed(store: Store, files: int = 1) -> bool:
    """Whether receipts at a destination, of shards with so many files, have packs: where each takes a request."""
    return store.url.startswith("s3://") and files <= _FEW_FILES


def write_pack(store: Store, number: int) -> bool:
    """Writes the pack of these shards, from their receipts; returns whether all were there."""
    indices = range(number * shards.PACK_SHARDS, (number + 1) * shards.PACK_SHARDS)

    def read(index: int) -> str | None:
        try:
            return read_record(store, shards.receipt_name(index)).decode()
        except (FileNotFoundError, DatasetError, ValueError):
            return None

    with ThreadPoolExecutor(_READERS) as readers:
        texts = [text for text in readers.map(read, indices) if text is not None]
    if len(texts) < len(indices):
        return False
    store.write(shards.pack_name(number), pack_of(texts))
    return True


def pack_of(texts: Sequence[str]) -> bytes:
    """The content of the pack of these receipts, in order."""
    return zlib.compress(json.dumps(texts).encode())


def packed_receipts(store: Store, numbers: Sequence[int], etags: Mapping[int, str]) -> Iterator[tuple[int, bytes]]:
    """Index and text of the receipts in these packs that are those of the listing, whose ETags are `etags`."""

    def read(number: int) -> bytes:
        try:
            return read_record(store, shards.pack_name(number))
        except (FileNotFoundError, DatasetError):
            return b""

    with ThreadPoolExecutor(_READERS) as readers:
        for number, content in zip(numbers, readers.map(read, numbers), strict=True):
            for index, text in enumerate(_unpacked(content), start=number * shards.PACK_SHARDS):
                if hashlib.md5(text, usedforsecurity=False).hexdigest() == etags.get(index, "").strip('"').lower():
                    yield index, text


def _unpacked(content: bytes) -> list[bytes]:
    """The receipts of a pack in order; none if it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        texts = parse_record(unpacker.decompress(content, MAX_BYTES), "a pack")
    except (zlib.error, DatasetError):
        return []
    if not isinstance(texts, list) or len(texts) != shards.PACK_SHARDS:
        return []
    return [text.encode(errors="replace") if isinstance(text, str) else b"" for text in texts]
