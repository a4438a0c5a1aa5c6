"""Encodes a batch of PNG files at a time: small ones stored, larger ones compressed.

Files of one shape differ only in pixels and checksums, so numpy assembles a batch of stored files at once, and filters
a batch of files before zlib compresses them. The format is that of PNG (third edition, sections 5, 9 and 11), with the
pixels in a zlib stream (RFC 1950, RFC 1951).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

#: Larger files are compressed. Smaller ones take one block of most file systems in any case, and compressing them would
#: cost more than all other work on a sample (docs/decisions/0050-how-images-are-written.md).
MOST_STORED_BYTES = 4096

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Grey, RGB and RGBA by number of channels.
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
#: Filter types: none, and the difference from the mean of the pixels to the left and above.
_NONE, _AVERAGE = 0, 3
#: A zlib header (32 KiB window, lowest level), then the header of a last, stored block.
_ZLIB_HEAD = b"\x78\x01\x01"
_CHECKSUM_BYTES = 4
#: zlib's level, with the strategy that looks only for runs of one byte.
_LEVEL = 1


class StoredPng:
    """Encodes images of one shape (height, width, channels) with 1, 3 or 4 channels, uncompressed."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._height, width, channels = shape
        self._line_bytes = width * channels
        size = self._height * (1 + self._line_bytes)
        # A block has less than 64 KiB. Larger images are compressed anyway, and only `size_bytes` is used.
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
        """The files of images (n, height, width, channels) with less than 64 KiB each."""
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
    """Encodes images of one shape (height, width, channels) with 1, 3 or 4 channels, filtered and compressed."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._height, width, self._channels = shape
        self._line_bytes = width * self._channels
        self._head = _begin(shape)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The files of images (n, height, width, channels). Releases the interpreter's lock for most of the time."""
        return [self._head + _chunk(b"IDAT", _compressed(lines)) + _END for lines in self._filtered(images)]

    def _filtered(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lines of images, (n, height, 1 + line_bytes)."""
        pixels = images.reshape(len(images), self._height, self._line_bytes)
        left, above = np.zeros_like(pixels), np.zeros_like(pixels)
        left[:, :, self._channels :] = pixels[:, :, : -self._channels]
        above[:, 1:] = pixels[:, :-1]
        # The mean of two bytes, rounded down, without overflow.
        mean = (left & above) + ((left ^ above) >> 1)
        lines = np.full((len(images), self._height, 1 + self._line_bytes), _AVERAGE, np.uint8)
        np.subtract(pixels, mean, out=lines[:, :, 1:])
        return lines


def _compressed(lines: NDArray[np.uint8]) -> bytes:
    # Filtered natural images repeat only in runs of zeros: searching for other repetitions takes longer and finds none.
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(lines.data) + stream.flush()


def _begin(shape: tuple[int, ...]) -> bytes:
    """Everything before the pixels of an image (height, width, channels)."""
    height, width, channels = shape
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


_END = _chunk(b"IEND", b"")


def _big_endian(checksums: list[int]) -> NDArray[np.uint8]:
    """Checksums as bytes, (n, 4)."""
    return np.array(checksums, ">u4").view(np.uint8).reshape(len(checksums), _CHECKSUM_BYTES)
