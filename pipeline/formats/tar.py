"""One tar file per shard for WebDataset: the files of a sample are consecutive and share a stem."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.format import BatchChecker, Labels, check_image, check_listed, labels_of, malformed, row_range
from pipeline.formats.image import decode_image, encode_pngs
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard, sample_stem, shard_name
from pipeline.stores.store import Draft, Store

_MODE = 0o644

_BLOCK_BYTES = tarfile.BLOCKSIZE

#: Positions in a header of what differs between files of one size: the name, and the checksum.
_NAME_BYTES, _CHECKSUM_AT = 100, 148

#: GNU tar's record; the file is padded to whole records.
_RECORD_BYTES = tarfile.RECORDSIZE


class TarFormat:
    """`<index>.png`, then `<index>.cls` with the label in decimal if there are classes; ustar.

    Owner, group and time of every file are 0, so that the same samples make the same bytes.
    """

    name = "tar"
    dtypes: tuple[str, ...] = ("uint8",)
    layouts: tuple[str, ...] = ("flat",)
    libraries: tuple[str, ...] = ()
    per_sample = False

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """Pixels."""
        return "uint8"

    def check(self, sample: SampleType) -> None:
        """Accepts images of 1, 3 or 4 channels."""
        check_listed(self, sample)
        check_image(self.name, sample)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> TarWriter:
        """Streams the images into one file."""
        return TarWriter(draft, shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The tar file."""
        return [_tar_name(shard)]

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """The whole file."""
        samples = np.empty((shard.count, *sample.shape), dtype=np.uint8)
        found: list[int] = []
        with malformed(store, _tar_name(shard)):
            for row, members in enumerate(_samples(store, shard, sample, range(shard.count))):
                samples[row] = decode_image(members[0], sample.shape)
                found += [_label_of(member) for member in members[1:]]
            return samples, None if sample.class_names is None else labels_of(found, shard)

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """Skips the files before these samples, and reads none after them."""
        wanted = row_range(shard, rows)
        samples = np.empty((len(wanted), *sample.shape), dtype=np.uint8)
        with malformed(store, _tar_name(shard)):
            for row, members in enumerate(_samples(store, shard, sample, wanted)):
                samples[row] = decode_image(members[0], sample.shape)
        return samples


class TarWriter:
    """Streams one shard, batch by batch."""

    def __init__(self, draft: Draft, shard: Shard, sample: SampleType) -> None:
        self._sink = draft.sink(_tar_name(shard))
        self._intake = BatchChecker(shard, sample)
        self._size_bytes = 0
        #: Pieces of the file from the last batch, perhaps still being encoded.
        self._encoding: Iterable[bytes] = ()

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Appends images and labels."""
        first = self._intake.take(samples, labels)
        # The batch before is written while this one is encoded.
        encoding, self._encoding = self._encoding, _members(first, encode_pngs(samples), labels)
        self._append(encoding)

    def close(self) -> None:
        """Ends the file like tar: two empty blocks, then zeros up to a whole record."""
        self._intake.finish()
        self._append(self._encoding)
        end = self._size_bytes + 2 * _BLOCK_BYTES
        self._sink.write(bytes(2 * _BLOCK_BYTES + -end % _RECORD_BYTES))

    def _append(self, pieces: Iterable[bytes]) -> None:
        self._size_bytes += self._sink.write(b"".join(pieces))


def _members(first: int, images: Iterable[bytes], labels: Labels | None) -> Iterator[bytes]:
    """The files of samples from `first` on."""
    for row, image in enumerate(images):
        stem = sample_stem(first + row)
        yield from _member_of(f"{stem}.png", image)
        if labels is not None:
            yield from _member_of(f"{stem}.cls", b"%d" % labels[row])


def _member_of(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, data and padding of a file. `tarfile` would take ten times as long for the header."""
    between, behind, checksum = _nameless(len(data))
    stem = name.encode()
    header = b"%b%b%06o\0 %b" % (stem.ljust(_NAME_BYTES, b"\0"), between, checksum + sum(stem), behind)
    return header, data, bytes(-len(data) % _BLOCK_BYTES)


@lru_cache(4096)
def _nameless(size: int) -> tuple[bytes, bytes, int]:
    """The header of a file of this size without name and checksum: the part between, the part after, the byte sum."""
    member = tarfile.TarInfo("")
    member.size, member.mode = size, _MODE
    header = member.tobuf(tarfile.USTAR_FORMAT)
    checksum = int(header[_CHECKSUM_AT : _CHECKSUM_AT + 6], 8)
    return header[_NAME_BYTES:_CHECKSUM_AT], header[_CHECKSUM_AT + 8 :], checksum


def _tar_name(shard: Shard) -> str:
    return shard_name(shard.index, ".tar")


def _samples(store: Store, shard: Shard, sample: SampleType, rows: range) -> Iterator[list[bytes]]:
    """The files of each of these samples: the image, then the label if there are classes. Raises ValueError."""
    suffixes = [".png"] if sample.class_names is None else [".png", ".cls"]
    try:
        with store.open(_tar_name(shard)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for _ in range(rows.start * len(suffixes)):
                tar.next()
            for row in rows:
                stem = sample_stem(shard.first + row)
                yield [_member(tar, stem + suffix) for suffix in suffixes]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"it is not a whole tar file ({error})") from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The next file, which must have this name."""
    member = tar.next()
    if member is None or member.name != name:
        raise ValueError(f"{name} is not where it should be")
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return file.read()


def _label_of(data: bytes) -> int:
    if not data.isdigit():
        raise ValueError(f"{data[:20]!r} is not a label")
    return int(data)
