"""Encodes and decodes the records of TFRecord files: `tf.train.Example` messages, with their lengths and checksums.

A message is a map from names of features to lists of bytes, floats or whole numbers (tensorflow/core/example/
example.proto and feature.proto). All its fields are length-delimited, so a field is a tag, a length and the bytes. A
record is the length as uint64, its masked CRC-32C, the message, and its masked CRC-32C, all little-endian
(tensorflow/core/lib/io/record_writer.h).

Not by protobuf, which does not fix the order of a map's entries, so that the bytes of files would depend on its
version, and which takes the values of an array one by one (docs/decisions/0115-tfrecord-and-parquet.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.spec.job_spec import SampleType

#: Wire type of length-delimited fields.
_DELIMITED = 2
#: Field numbers: of the only field of an example, of the map in it, and of a list's values; of an entry of the map.
_ONLY, _KEY, _VALUE = 1, 1, 2

#: Bytes around a message.
_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_BEFORE = _LENGTH.size + _CHECKSUM.size
FRAME_BYTES = _BEFORE + _CHECKSUM.size

#: Added to rotated checksums, so that the checksum of data with checksums in it is no special value.
_MASK = 0xA282EAD8


class Kind(IntEnum):
    """The kinds of lists, by the number of their field."""

    BYTES = 1
    FLOATS = 2
    INTEGERS = 3


#: Name, kind and encoded values of a feature.
Feature = tuple[str, Kind, bytes]


def encoded_integer(value: int) -> bytes:
    """Values of a list of one whole number, at least 0."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encoded_values(values: NDArray[Any]) -> tuple[Kind, bytes]:
    """A list of all values of an array, in order: whole numbers for uint8, else float32, which float16 fits into."""
    if values.dtype != np.uint8:
        return Kind.FLOATS, values.astype("<f4", copy=False).tobytes()
    # A value from 128 on is followed by its eighth bit.
    flat = values.reshape(-1)
    pairs = np.stack([flat, np.ones_like(flat)], axis=1)
    return Kind.INTEGERS, pairs[np.stack([np.ones_like(flat, bool), flat > 0x7F], axis=1)].tobytes()


def decoded_integer(values: bytes) -> int:
    """The one whole number of a list. Raises ValueError for another number of them."""
    value, end = _integer(values, 0)
    if end != len(values):
        raise ValueError("a feature has several values instead of one")
    return value


def decoded_values(kind: Kind, values: bytes, sample: SampleType) -> NDArray[Any]:
    """The sample that `encoded_values` encoded, in its dtype and shape. Raises ValueError if it is not one."""
    if kind != (Kind.INTEGERS if sample.dtype == "uint8" else Kind.FLOATS):
        raise ValueError(f"a feature holds {kind.name.lower()} instead of {sample.dtype}")
    if kind == Kind.FLOATS:
        floats: NDArray[Any] = np.frombuffer(values, "<f4").astype(sample.dtype)
        return floats.reshape(sample.shape)
    found: NDArray[Any] = np.frombuffer(values, np.uint8)
    second = np.concatenate([[False], found[:-1] > 0x7F])
    if (found[second] != 1).any():
        raise ValueError("a feature holds numbers beyond 255")
    whole: NDArray[Any] = found[~second]
    return whole.reshape(sample.shape)


def framed_example(features: list[Feature]) -> bytes:
    """A record of these features, which must be sorted by name."""
    parts = [b""]
    for name, kind, values in features:
        parts += [_before_values(name, kind, len(values)), values]
    parts[0] = _field_head(_ONLY, sum(map(len, parts)))
    example = b"".join(parts)
    length = _LENGTH.pack(len(example))
    return b"".join([length, _masked_checksum(length), example, _masked_checksum(example)])


def examples(records: bytes) -> Iterator[dict[str, tuple[Kind, bytes]]]:
    """Kinds and encoded values of the features of each record, by name. Raises ValueError."""
    at = 0
    while at < len(records):
        length = records[at : at + _LENGTH.size]
        if len(records) - at < FRAME_BYTES or records[at + len(length) : at + _BEFORE] != _masked_checksum(length):
            raise ValueError(f"there is no record at {at:,}")
        end = at + _BEFORE + _LENGTH.unpack(length)[0]
        example = records[at + _BEFORE : end]
        if records[end : end + _CHECKSUM.size] != _masked_checksum(example):
            raise ValueError(f"the checksum of the record at {at:,} is wrong")
        yield _features(example)
        at = end + _CHECKSUM.size


def _masked_checksum(data: bytes) -> bytes:
    checksum: int = google_crc32c.value(data)
    return _CHECKSUM.pack(((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF)


@lru_cache(4096)
def _before_values(name: str, kind: Kind, size: int) -> bytes:
    """All of a feature before its `size` bytes of values."""
    values = _field_head(_ONLY, size)
    values = _field_head(kind, len(values) + size) + values
    values = _field_head(_VALUE, len(values) + size) + values
    key = _field_head(_KEY, len(name.encode())) + name.encode()
    return _field_head(_ONLY, len(key) + len(values) + size) + key + values


def _field_head(number: int, size: int) -> bytes:
    return encoded_integer(number << 3 | _DELIMITED) + encoded_integer(size)


def _features(example: bytes) -> dict[str, tuple[Kind, bytes]]:
    found = {}
    for _, entry in _fields(_only_field(example, _ONLY)):
        parts = dict(_fields(entry))
        if parts.keys() != {_KEY, _VALUE}:
            raise ValueError("a feature lacks its name or its values")
        [(kind, values)] = _fields(parts[_VALUE])
        found[parts[_KEY].decode()] = Kind(kind), _only_field(values, _ONLY)
    return found


def _only_field(message: bytes, number: int) -> bytes:
    """The content of a message's one field. Raises ValueError if it has others."""
    [(found, content)] = _fields(message)
    if found != number:
        raise ValueError(f"a message has field {found} instead of {number}")
    return content


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field. Raises ValueError if one is not length-delimited, or cut."""
    at = 0
    while at < len(message):
        tag, at = _integer(message, at)
        size, at = _integer(message, at)
        if tag & 7 != _DELIMITED or at + size > len(message):
            raise ValueError("a message is not that of an example")
        yield tag >> 3, message[at : at + size]
        at += size


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """The whole number at a position, and the position after it."""
    value = shift = 0
    for end in range(at, min(at + 10, len(data))):
        value |= (data[end] & 0x7F) << shift
        if data[end] <= 0x7F:
            return value, end + 1
        shift += 7
    raise ValueError("a whole number is cut")
