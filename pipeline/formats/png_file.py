"""PNG files of a whole batch at a time: small ones stored, larger ones compressed.

Files of one shape differ in their pixels and in checksums alone, so numpy lays out a batch of stored ones at once, and
filters a batch of those that zlib compresses after. The layout is that of PNG (third edition, sections 5, 9 and
11), with the pixels in a zlib stream (RFC 1950, RFC 1951).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

#: Larger files are compressed. These take one block of most file systems either way, and compressing them would cost
#: more than all else that is done to a sample (docs/decisions/0050-how-images-are-written.md).
MOST_STORED_BYTES = 4096

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Grey, RGB and RGBA by number of channels.
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
#: Filters, by which each line begins: none, and the difference to the mean of the pixels to the left and above.
_NONE, _AVERAGE = 0, 3
#: A window of 32 KiB and the least effort, then the last block of the stream, stored.
_ZLIB_HEAD = b"\x78\x01\x01"
_CHECKSUM_BYTES = 4
#: zlib's effort, where it looks for runs of one byte alone.
_LEVEL = 1


class StoredPng:
    """Writes images of one shape (height, width, channels) with 1, 3 or 4 channels, their pixels as they are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._height, width, channels = shape
        self._line_bytes = width * channels
        size = self._height * (1 + self._line_bytes)
        # A block holds less than 64 KiB; what is larger is to be compressed anyway, and only its size is asked for.
        block = struct.pack("<HH", size & 0xFFFF, ~size & 0xFFFF)
        stream_bytes = len(_ZLIB_HEAD) + len(block) + size + _CHECKSUM_BYTES
        before = _begin(shape) + struct.pack(">I", stream_bytes)
        self._head = before + b"IDAT" + _ZLIB_HEAD + block
        self._checked_from = len(before)
        self._pixels_from = len(self._head)
        self._pixels_to = self._pixels_from + size
        self._checked_to = self._pixels_to + _CHECKSUM_BYTES
        #: Size of each file.
        self.size_bytes = self._checked_to + _CHECKSUM_BYTES + len(_END)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The files of images (n, height, width, channels), of less than 64 KiB each."""
        count = len(images)
        lines = np.full((count, self._height, 1 + self._line_bytes), _NONE, np.uint8)
        lines[:, :, 1:] = images.reshape(count, self._height, self._line_bytes)
        files = np.empty((count, self.size_bytes), np.uint8)
        files[:, : self._pixels_from] = np.frombuffer(self._head, np.uint8)
        files[:, self._pixels_from : self._pixels_to] = lines.reshape(count, self._pixels_to - self._pixels_from)
        files[:, -len(_END) :] = np.frombuffer(_END, np.uint8)
        rows = [row.data for row in files]
        pixels = [zlib.adler32(row[self._pixels_from : self._pixels_to]) for row in rows]
        files[:, self._pixels_to : self._checked_to] = _big_endian(pixels)
        chunk = [zlib.crc32(row[self._checked_from : self._checked_to]) for row in rows]
        files[:, self._checked_to : self._checked_to + _CHECKSUM_BYTES] = _big_endian(chunk)
        return [row.tobytes() for row in rows]


class CompressedPng:
    """Writes images of one shape (height, width, channels) with 1, 3 or 4 channels, filtered and compressed."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._height, width, self._channels = shape
        self._line_bytes = width * self._channels
        self._head = _begin(shape)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The files of images (n, height, width, channels). Leaves the interpreter to others for most of the time."""
        return [self._head + _chunk(b"IDAT", _compressed(lines)) + _END for lines in self._filtered(images)]

    def _filtered(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lines of images, (n, height, 1 + line_bytes)."""
        pixels = images.reshape(len(images), self._height, self._line_bytes)
        left, above = np.zeros_like(pixels), np.zeros_like(pixels)
        left[:, :, self._channels :] = pixels[:, :, : -self._channels]
        above[:, 1:] = pixels[:, :-1]
        # Half of the sum of two bytes, rounded down, in no more than a byte.
        mean = (left & above) + ((left ^ above) >> 1)
        lines = np.full((len(images), self._height, 1 + self._line_bytes), _AVERAGE, np.uint8)
        np.subtract(pixels, mean, out=lines[:, :, 1:])
        return lines


def _compressed(lines: NDArray[np.uint8]) -> bytes:
    # What is left of natural images after the filter repeats itself in runs of zeros at most: to look for other
    # repetitions takes longer and finds nothing.
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(lines.data) + stream.flush()


def _begin(shape: tuple[int, ...]) -> bytes:
    """All that comes before the pixels of an image (height, width, channels)."""
    height, width, channels = shape
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


_END = _chunk(b"IEND", b"")


def _big_endian(checksums: list[int]) -> NDArray[np.uint8]:
    """Checksums as bytes, (n, 4)."""
    return np.array(checksums, ">u4").view(np.uint8).reshape(len(checksums), _CHECKSUM_BYTES)
