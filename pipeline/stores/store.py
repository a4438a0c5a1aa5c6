"""The protocols of a store, implemented by local disk and S3.

Names are relative POSIX paths such as `shards/00000007.npy`. A file is either whole or absent. Files of an attempt that
is not committed are not named by any receipt, so readers do not see them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, Protocol

#: Prefix of a store's own temporary names: never listed, swept when they are old.
TEMPORARY = ".noisemill-"

#: Name of the lease.
LEASE = f"{TEMPORARY}maker"
#: Longest valid lease, bytes.
MAX_LEASE_BYTES = 4096

_ODD_PARTS = frozenset(("", ".", ".."))

#: Age at which `Store.sweep` regards a temporary file as abandoned, seconds.
SWEEP_AGE_S = 3600.0


class StoredFile(NamedTuple):
    """A file that a draft put in place; a tuple, as a shard may have thousands."""

    #: Name in the store.
    name: str
    #: Length in bytes.
    size_bytes: int
    #: SHA-256 of its bytes, in hexadecimal.
    sha256: str


class Entry(NamedTuple):
    """A file that a listing found; a tuple, as listings are long."""

    #: Name in the store.
    name: str
    #: Length in bytes.
    size_bytes: int
    #: In S3, what changes with the content: its MD5, unless the server encrypts with its own keys. Empty on disk.
    etag: str = ""


class Access(NamedTuple):
    """The result of a check of a store."""

    #: Unix time by the server's clock; None if it has none of its own.
    clock: float | None
    #: Whether exactly one of several makers gets a lease.
    exclusive: bool


class Sink(Protocol):
    """One file of a draft, streamed. Used by one thread; fits as `fileobj` of tarfile's "w|" mode."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Appends `data` and returns its length in bytes. Raises StoreError, perhaps for an earlier write."""
        ...


class Draft(Protocol):
    """The files of one attempt at a shard on their way into a store.

    Used by one thread at a time, not necessarily the one that created it. Every draft ends with `commit`, with
    `discard`, or with both if `commit` failed.
    """

    def sink(self, name: str) -> Sink:
        """A stream into the file `name`, of any size, in bounded memory.

        One sink is open at a time: opening the next, `add` and `commit` finish it.
        Raises ValueError if the draft has the name already, StoreError if the store fails.
        """
        ...

    def add(self, name: str, data: bytes) -> None:
        """Adds a whole small file. Raises as `sink` does; a failure may be raised later, by `commit` at the latest."""
        ...

    def commit(self) -> list[StoredFile]:
        """Puts all files in place, replacing those of earlier attempts; returns them in the order added.

        Each file appears whole. When this returns they are durable. Raises StoreError.
        """
        ...

    def discard(self, *, keep_placed: bool = False) -> None:
        """Removes the files of this attempt; does nothing after a successful commit.

        May be called repeatedly. Raises nothing if the store fails: the rest is left to `sweep`.
        `keep_placed` keeps files with their final names, for an attempt whose lease went to another worker, which may
        have put files with the same names in place since.
        """
        ...


class Store(Protocol):
    """A folder of files, on disk or elsewhere. May be used by several threads; each process opens its own.

    Methods that take a name raise ValueError if it is absolute, or has an empty part, "." or "..".
    All raise StoreError if the store fails.
    """

    #: Where it is: "/data/x" or "s3://bucket/prefix".
    url: str

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The whole file, or its first `most_bytes`.

        Raises FileNotFoundError (not a StoreError) if it is absent.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """The file for reading in pieces; seekable. Raises FileNotFoundError if it is absent."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes or replaces a file in one step: readers see the old one or the new one. Durable."""
        ...

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        ...

    def list(self, prefix: str = "", *, divided_at: Sequence[str] = ()) -> Iterator[Entry]:
        """All files whose names begin with `prefix`, at any depth, sorted by name; temporary ones excluded.

        A plain string prefix, as in S3: end it with a slash to list a folder. A long listing may be divided at names,
        in order, so that S3 lists the parts side by side; the result is the same.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files; absent ones are not an error."""
        ...

    def prune(self) -> None:
        """Removes empty folders, including that of the destination. S3 has no folders."""
        ...

    def draft(self) -> Draft:
        """A new draft. It does not access the store before its first file."""
        ...

    def check_writable(self) -> None:
        """Checks that files can be written here; creates the folder of a local store.

        Raises StoreError with the cause and what to do.
        """
        ...

    def check_access(self) -> Access:
        """Writes a probe, reads, lists and deletes it; returns what that showed of the store.

        Raises StoreError as `check_writable` does.
        """
        ...

    def read_lease(self) -> bytes | None:
        """The lease of the destination (`pipeline.stores.lease`); None if there is none."""
        ...

    def lease_age_s(self) -> float | None:
        """Seconds since the lease was last written, by the store's own clock; None if there is none."""
        ...

    def write_lease(self, data: bytes, *, before: bytes | None) -> bool:
        """Writes the lease if it is still `before` (None: if there is none); returns whether it did.

        Of several callers at the same time exactly one gets True; nearly always, if a server ignores conditions.
        """
        ...

    def delete_lease(self, before: bytes) -> None:
        """Deletes the lease, if it is still `before`."""
        ...

    def sweep(self, older_than_s: float = SWEEP_AGE_S) -> None:
        """Removes files that crashed attempts left behind and that have not changed for `older_than_s` seconds."""
        ...


def check_name(name: str) -> str:
    """Returns `name`. Raises ValueError unless it is a relative POSIX path inside the store."""
    parts = name.split("/")
    if "\0" in name or not _ODD_PARTS.isdisjoint(parts):
        raise ValueError(f"{name!r} is not a relative path without empty parts, '.' or '..'")
    if parts[0].startswith(TEMPORARY):
        raise ValueError(f"{name!r}: names that begin with {TEMPORARY!r} are kept for temporary files")
    return name


class Digest:
    """Size and hash of a file, computed while it is written."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes."""
        self._sha256.update(data)
        self.size_bytes += len(data)

    def stored(self, name: str) -> StoredFile:
        """The file `name`, with what has been written so far."""
        return StoredFile(name=name, size_bytes=self.size_bytes, sha256=self._sha256.hexdigest())


def as_bytes(data: bytes | bytearray | memoryview) -> memoryview:
    """`data` as a flat view of unsigned bytes, without copying. Raises TypeError unless C-contiguous."""
    view = memoryview(data)
    # An empty view of several dimensions cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")
