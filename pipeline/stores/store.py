"""What a store is: the protocols that local disk and S3 both fulfil.

Names are relative POSIX paths such as `shards/00000007.npy`. A file is either there whole or not
there; what an attempt has not committed, no reader sees through a receipt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

#: Names that begin so are a store's own temporary ones: never listed, swept when they are old.
TEMPORARY = ".noisemill-"

#: Name of the lease.
LEASE = f"{TEMPORARY}maker"
#: A lease that is longer is none of ours, bytes.
MAX_LEASE_BYTES = 4096

_ODD_PARTS = frozenset(("", ".", ".."))

#: Age at which `Store.sweep` takes an abandoned temporary for abandoned.
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


class Access(NamedTuple):
    """What a check of a store told."""

    #: Unix time by the server's clock; None where it has none of its own.
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

    Used by one thread at a time, not necessarily the one that made it. Every draft ends in
    `commit`, in `discard`, or in both where `commit` failed.
    """

    def sink(self, name: str) -> Sink:
        """A stream into the file `name`, of any size, in bounded memory.

        One sink is open at a time: opening the next, `add` and `commit` finish it.
        Raises ValueError if the draft has the name already, StoreError if the store fails.
        """
        ...

    def add(self, name: str, data: bytes) -> None:
        """Takes a whole small file. Raises as `sink` does; a failure may surface later, at `commit` the latest."""
        ...

    def commit(self) -> list[StoredFile]:
        """Puts all files in place, replacing those of earlier attempts; returns them in the order added.

        Each file appears whole. When this returns they are durable. Raises StoreError.
        """
        ...

    def discard(self, *, keep_placed: bool = False) -> None:
        """Removes all that this attempt left behind; does nothing after a commit that succeeded.

        May be called again and again. Raises nothing where the store fails: the rest is left to `sweep`.
        `keep_placed` keeps files that lie under their final names already: for an attempt whose lease
        went to another, which may have put the same names in place since, so that deleting them
        would be deleting the other's.
        """
        ...


class Store(Protocol):
    """A folder of files, on disk or elsewhere. May be used by several threads; each process opens its own.

    Methods that take a name raise ValueError where it is absolute, or has an empty part, "." or "..".
    All raise StoreError where the store fails.
    """

    #: Where it is: "/data/x" or "s3://bucket/prefix".
    url: str

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The whole file, or so many bytes of its begin.

        Raises FileNotFoundError (which is no StoreError) if it is absent.
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

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All files whose names begin with `prefix`, at any depth, sorted by name; temporary ones excluded.

        A plain string prefix, as in S3: end it with a slash to list a folder.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files; those that are absent already are no error."""
        ...

    def prune(self) -> None:
        """Removes folders in which nothing lies, the destination's own among them. S3 has no folders."""
        ...

    def draft(self) -> Draft:
        """A new draft. Touches nothing until its first file."""
        ...

    def check_writable(self) -> None:
        """Makes sure that files can be written here; creates the folder of a local store.

        Raises StoreError saying what is wrong, with which value, and what to do.
        """
        ...

    def check_access(self) -> Access:
        """Writes a probe, reads, lists and deletes it; answers what that told of the store.

        Raises StoreError as `check_writable` does.
        """
        ...

    def read_lease(self) -> bytes | None:
        """The lease of the destination (`pipeline.stores.lease`); None where there is none."""
        ...

    def lease_age_s(self) -> float | None:
        """Seconds since the lease was last written, by the store's own clock; None where there is none."""
        ...

    def write_lease(self, data: bytes, *, before: bytes | None) -> bool:
        """Writes the lease, if it is still `before` (None: if there is none); answers whether it did.

        Of several that try at the same time one gets True; where a server ignores conditions, nearly always.
        """
        ...

    def delete_lease(self, before: bytes) -> None:
        """Deletes the lease, if it is still `before`."""
        ...

    def sweep(self, older_than_s: float = SWEEP_AGE_S) -> None:
        """Removes what crashed attempts left behind and nothing has touched for `older_than_s` seconds."""
        ...


def check_name(name: str) -> str:
    """Returns `name`. Raises ValueError unless it is a relative POSIX path that stays where it is."""
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
        """What has been written so far, as the file `name`."""
        return StoredFile(name=name, size_bytes=self.size_bytes, sha256=self._sha256.hexdigest())


def as_bytes(data: bytes | bytearray | memoryview) -> memoryview:
    """`data` as a flat view of unsigned bytes, without copying. Raises TypeError unless C-contiguous."""
    view = memoryview(data)
    # An empty view of several dimensions cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")
