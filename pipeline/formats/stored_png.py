"""PNGs whose pixels are not compressed, a batch at a time.

Such files of one shape differ in their pixels and in two checksums alone, so numpy lays out a whole batch of
them at once. The layout is that of PNG (third edition, sections 5 and 11), with the pixels in one stored block
of a zlib stream (RFC 1950, RFC 1951 section 3.2.4).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

#: Larger files are compressed. These take one block of most file systems either way, and compressing them would cost
#: more than all else that is done to a sample (docs/decisions/0050-small-images-are-stored.md).
MOST_STORED_BYTES = 4096

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Grey, RGB and RGBA by number of channels.
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
#: A window of 32 KiB and the least effort, then the last block of the stream, stored.
_ZLIB_HEAD = b"\x78\x01\x01"
_CHECKSUM_BYTES = 4


class StoredPng:
    """Writes images of one shape (height, width, channels) with 1, 3 or 4 channels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._height, self._width, channels = shape
        self._line_bytes = self._width * channels
        #: Each line begins with its filter: 0, none.
        size = self._height * (1 + self._line_bytes)
        header = struct.pack(">IIBBBBB", self._width, self._height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
        # A block holds less than 64 KiB; what is larger is to be compressed anyway, and only its size is asked for.
        block = struct.pack("<HH", size & 0xFFFF, ~size & 0xFFFF)
        stream_bytes = len(_ZLIB_HEAD) + len(block) + size + _CHECKSUM_BYTES
        before = _SIGNATURE + _chunk(b"IHDR", header) + struct.pack(">I", stream_bytes)
        self._head = before + b"IDAT" + _ZLIB_HEAD + block
        self._tail = _chunk(b"IEND", b"")
        self._checked_from = len(before)
        self._pixels_from = len(self._head)
        self._pixels_to = self._pixels_from + size
        self._checked_to = self._pixels_to + _CHECKSUM_BYTES
        #: Size of each file.
        self.size_bytes = self._checked_to + _CHECKSUM_BYTES + len(self._tail)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The files of images (n, height, width, channels), of less than 64 KiB each."""
        count = len(images)
        lines = np.zeros((count, self._height, 1 + self._line_bytes), np.uint8)
        lines[:, :, 1:] = images.reshape(count, self._height, self._line_bytes)
        files = np.empty((count, self.size_bytes), np.uint8)
        files[:, : self._pixels_from] = np.frombuffer(self._head, np.uint8)
        files[:, self._pixels_from : self._pixels_to] = lines.reshape(count, self._pixels_to - self._pixels_from)
        files[:, -len(self._tail) :] = np.frombuffer(self._tail, np.uint8)
        rows = [row.data for row in files]
        pixels = [zlib.adler32(row[self._pixels_from : self._pixels_to]) for row in rows]
        files[:, self._pixels_to : self._checked_to] = _big_endian(pixels)
        chunk = [zlib.crc32(row[self._checked_from : self._checked_to]) for row in rows]
        files[:, self._checked_to : self._checked_to + _CHECKSUM_BYTES] = _big_endian(chunk)
        return [row.tobytes() for row in rows]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _big_endian(checksums: list[int]) -> NDArray[np.uint8]:
    """Checksums as bytes, (n, 4)."""
    return np.array(checksums, ">u4").view(np.uint8).reshape(len(checksums), _CHECKSUM_BYTES)
