"""A store on local disk or a mounted file system.

Files are staged in a hidden folder inside the destination and flushed, so that putting them in place is a rename on one
file system.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.common.errors import StoreError, StoreUnavailableError
from pipeline.common.files import open_regular, open_unlinked
from pipeline.stores.flushing import flush, flush_files
from pipeline.stores.store import (
    LEASE,
    MAX_LEASE_BYTES,
    SWEEP_AGE_S,
    TEMPORARY,
    Access,
    Digest,
    Entry,
    StoredFile,
    as_bytes,
    check_name,
)

_IN_WORDS = {
    errno.EACCES: "permission denied: give this user the right to write there, or choose another destination",
    errno.EDQUOT: "the disk quota is used up: free space, or choose another destination",
    errno.EEXIST: "a file lies where a folder should be: remove it, or choose another destination",
    errno.EIO: "the disk reports a failure",
    errno.EISDIR: "a folder lies where a file should be",
    errno.ELOOP: "too many symbolic links",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter destination",
    errno.ENOENT: "the folder has gone, or cannot be made: put it back, or choose another destination",
    errno.ENOSPC: "the disk is full: free space, or choose another destination",
    errno.ENOTDIR: "a file lies where a folder should be: remove it, or choose another destination",
    errno.EPERM: "permission denied: give this user the right to write there, or choose another destination",
    errno.EROFS: "the file system is read-only: choose another destination",
    errno.ENOTSUP: "a pipe or a device lies where a file should be: remove it",
    errno.EXDEV: "a folder inside the destination lies on another file system: choose one file system",
}

#: Errors that may be temporary.
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


class LocalStore:
    """Files below one folder. `root` is an absolute path; it need not exist before the first write."""

    def __init__(self, root: str) -> None:
        self._root = Path(os.path.realpath(root))
        self.url = str(self._root)
        #: Whether the folder has been seen. If it disappears afterwards, it is not created again: a new folder would
        #: lack the earlier files, and if a disk was unmounted, it would be on another disk.
        self._seen = False

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The whole file, or its first bytes."""
        with self.open(name) as file, _translate_errors(f"{self.url}/{name}"):
            # `read(n)` would allocate n bytes first.
            if most_bytes is None or os.fstat(file.fileno()).st_size <= most_bytes:
                return file.read()
            return file.read(most_bytes)

    def open(self, name: str) -> BinaryIO:
        """The file for reading."""
        unlinked = open_unlinked(f"{self.url}/{check_name(name)}")
        if unlinked is not None:
            self._seen = True
            return unlinked
        path = self._inside(self._root / name)
        with _translate_errors(path):
            try:
                file = open_regular(path)
                self._seen = True
                return file
            except _ABSENT:
                absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        raise absent

    def write(self, name: str, data: bytes) -> None:
        """Writes a temporary file, flushes it, renames it."""
        check_name(name)
        temporary = self._root / _temporary_name()
        try:
            with _translate_errors(self._root / name):
                self._make_root()
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self.place({name: str(temporary)})
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """Whether a file of this name exists inside the store."""
        path = self._inside(self._root / check_name(name))
        with _translate_errors(path):
            return path.is_file()

    def list(self, prefix: str = "", *, divided_at: Sequence[str] = ()) -> Iterator[Entry]:
        """The files whose names begin with `prefix`, in one part. Symbolic links to folders are not followed."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_name(folder)
        name = f"{folder}/" if folder else ""
        entries = _walk(self._inside(self._root / folder), name)
        if prefix == name:
            return entries
        return (entry for entry in entries if entry.name.startswith(prefix))

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files; folders stay."""
        for name in names:
            path = self._root / check_name(name)
            self._inside(path.parent)
            with _translate_errors(path), suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    def prune(self) -> None:
        """Removes empty folders, the deepest first; does not follow links."""
        for folder, _, _ in os.walk(self._root, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()

    def draft(self) -> LocalDraft:
        """A new draft."""
        return LocalDraft(self)

    def check_writable(self) -> None:
        """Creates the folder, then a file in it."""
        probe = self._root / _temporary_name()
        with _translate_errors(self._root):
            self._make_root()
            probe.touch(exist_ok=False)
            probe.unlink(missing_ok=True)  # The last step of a job sweeps temporary files.

    def check_access(self) -> Access:
        """Creates the folder, then writes, reads, lists and deletes a file in it. Its clock is this machine's."""
        self.check_writable()
        probe = self._root / _temporary_name()
        with _translate_errors(self._root):
            try:
                probe.write_bytes(b"probe")
                probe.read_bytes()
                with os.scandir(self._root) as entries:
                    next(entries, None)
            finally:
                probe.unlink(missing_ok=True)
        return Access(clock=None, exclusive=True)

    def sweep(self, older_than_s: float = SWEEP_AGE_S) -> None:
        """Removes old staging folders and temporary files, except folders locked by a draft in use."""
        with _translate_errors(self._root):
            for path in self._root.glob(f"{TEMPORARY}*"):
                if path.name == LEASE:
                    continue
                # An age of 0 needs no clock: this machine's may be behind the disk's.
                if older_than_s <= 0 or time.time() - _last_change(path) > older_than_s:
                    _remove_abandoned(path)

    def read_lease(self) -> bytes | None:
        """The lease file."""
        with _translate_errors(self._root):
            try:
                with open_regular(self._root / LEASE) as file:
                    return file.read(MAX_LEASE_BYTES)
            except _ABSENT:
                return None

    def lease_age_s(self) -> float | None:
        """By the clock of the file system, which may be another machine's: it is read from a new file."""
        probe = self._root / _temporary_name()
        with _translate_errors(self._root):
            try:
                written = os.stat(self._root / LEASE, follow_symlinks=False).st_mtime
            except _ABSENT:
                return None
            try:
                probe.touch(exist_ok=False)
                return max(0.0, probe.stat().st_mtime - written)
            finally:
                probe.unlink(missing_ok=True)

    def write_lease(self, data: bytes, *, before: bytes | None) -> bool:
        """Puts a new lease in place by a hard link, which only one maker can do; replaces an old one under a lock."""
        temporary = self._root / _temporary_name()
        with _translate_errors(self._root):
            try:
                self._make_root()
                temporary.write_bytes(data)
                with self._lease_lock():
                    if self.read_lease() != before:
                        return False
                    if before is None:
                        return _put_new(temporary, self._root / LEASE)
                    temporary.rename(self._root / LEASE)
                    return True
            finally:
                temporary.unlink(missing_ok=True)

    def delete_lease(self, before: bytes) -> None:
        """Unlinks it under a lock."""
        with _translate_errors(self._root), suppress(*_ABSENT), self._lease_lock():
            if self.read_lease() == before:
                os.unlink(self._root / LEASE)

    @contextmanager
    def _lease_lock(self) -> Iterator[None]:
        """Locks the folder itself. On a file system without locks, two makers may replace a lease at the same time."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def stage(self) -> Path:
        """A new hidden folder inside the destination, for a draft."""
        with _translate_errors(self._root):
            self._make_root()
            folder = self._root / _temporary_name()
            folder.mkdir()
            return folder

    def place(self, staged: dict[str, str]) -> None:
        """Renames flushed files to their names, then flushes the folders. Raises OSError.

        Files staged in one folder have the same target folder.
        """
        groups: dict[str, list[str]] = {}
        for name in staged:
            groups.setdefault(name.rpartition("/")[0], []).append(name)
        placed = [self._place_folder(folder, {name: staged[name] for name in groups[folder]}) for folder in groups]
        touched = {parent for folder in placed for parent in (folder, *folder.parents)}
        for folder_path in touched:
            if folder_path.is_relative_to(self._root):
                flush(folder_path)

    def _place_folder(self, folder: str, staged: dict[str, str]) -> Path:
        """Puts files into one folder, in one step if there are several and the folder does not exist."""
        if folder and len(staged) > 1:
            target = self._make_folder(folder.rpartition("/")[0]) / folder.rpartition("/")[2]
            with suppress(OSError):  # The target may exist, as a folder, link or file: then one by one.
                os.rename(os.path.dirname(next(iter(staged.values()))), target)
                return target
        target = self._make_folder(folder)
        for name, path in staged.items():
            os.rename(path, f"{target}/{name.rpartition('/')[2]}")
        return target

    def _make_root(self) -> None:
        """Creates the folder. Raises OSError, with ENOENT if it has disappeared since it was seen."""
        self._inside(self._root)  # A link put there since would redirect what is written.
        if not self._root.is_dir() and not self._seen:
            self._root.mkdir(parents=True, exist_ok=True)
            flush(self._root.parent)
        os.stat(self._root)
        self._seen = True

    def _make_folder(self, name: str) -> Path:
        folder = self._inside(self._root / name)
        os.stat(self._root)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _inside(self, path: Path) -> Path:
        """The real path. Raises StoreError if a symbolic link leads out of the destination.

        This protects against existing links, not against folders that are replaced at the same time.
        """
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self._root):
            raise StoreError(f"{path} leads out of the destination {self._root}: remove the symbolic link")
        return real


class LocalDraft:
    """Files staged in a hidden folder, which stays locked while the draft is in use.

    Files with the same target folder are staged in one folder.
    """

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._folder: Path | None = None
        self._lock: int | None = None
        #: Name -> staged file; and target folder -> staged folder.
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        #: Files that are written.
        self._stored: dict[str, StoredFile] = {}
        self._open: LocalSink | None = None
        self._placing = False

    def sink(self, name: str) -> LocalSink:
        """A stream into a staged file."""
        path = self._stage(name)
        self._open = LocalSink(path, name, target=Path(self._store.url) / name)
        return self._open

    def add(self, name: str, data: bytes) -> None:
        """Writes a staged file."""
        path = self._stage(name)
        try:
            _write_new(path, data)
        except OSError as error:
            raise _store_error(error, f"{self._store.url}/{name}") from error
        # A shard may have thousands of them: `Digest`, which takes a file in pieces, would take twice as long.
        self._stored[name] = StoredFile(name, len(data), hashlib.sha256(data).hexdigest())

    def commit(self) -> list[StoredFile]:
        """Flushes all files, then renames each into its place, then flushes the folders."""
        self._finish_open()
        stored = [self._stored[name] for name in self._files]
        with _translate_errors(Path(self._store.url)):
            if self._lock is not None:
                flush_files(list(self._files.values()), self._lock)
            self._placing = True
            self._store.place(self._files)
        self._unstage()
        self._forget()
        return stored

    def discard(self, *, keep_placed: bool = False) -> None:
        """Removes the staging folder, and files that a failed commit had put in place, as far as the disk allows."""
        with suppress(StoreError):
            self._finish_open()
        placed = [name for name, path in self._files.items() if self._placing and not os.path.exists(path)]
        self._unstage()
        self._forget()
        if not keep_placed:
            with suppress(StoreError):
                self._store.delete(placed)

    def _stage(self, name: str) -> str:
        if check_name(name) in self._files:
            raise ValueError(f"the draft has {name!r} already")
        self._finish_open()
        folder, _, last = name.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._make_folder(folder)
        self._files[name] = f"{self._folders[folder]}/{last}"
        return self._files[name]

    def _make_folder(self, name: str) -> str:
        """The staged folder for the target folder `name`. Its name is a number, so it needs no parents."""
        staging = self._folder or self._begin()
        folder = staging / f"{len(self._folders)}"
        with _translate_errors(Path(self._store.url) / name):
            folder.mkdir()
        return str(folder)

    def _begin(self) -> Path:
        self._folder = self._store.stage()
        with _translate_errors(Path(self._store.url)):
            self._lock = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
            # Without locks, `sweep` goes by the age.
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._folder

    def _finish_open(self) -> None:
        sink, self._open = self._open, None
        if sink is not None:
            self._stored[sink.name] = sink.close()

    def _unstage(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._folder = self._lock = None

    def _forget(self) -> None:
        self._files, self._folders, self._stored, self._placing = {}, {}, {}, False


class LocalSink:
    """A stream into one staged file; errors name the target file."""

    def __init__(self, path: str, name: str, target: Path) -> None:
        self.name = name
        self._target = target
        self._digest = Digest()
        with _translate_errors(target):
            # Unbuffered: data comes in whole batches, and a buffer would copy them.
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - `close` closes it

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Appends `data`."""
        view = as_bytes(data)
        with _translate_errors(self._target):
            _write_all(self._file.fileno(), view)
        self._digest.update(view)
        return len(view)

    def close(self) -> StoredFile:
        """Closes the file; some file systems report failed writes only then."""
        with _translate_errors(self._target):
            self._file.close()
        return self._digest.stored(self.name)


_LOCK = "lock"

#: Errors of opening a name that is not a file: absent, a folder, or below a file.
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def _temporary_name() -> str:
    return f"{TEMPORARY}{uuid.uuid4().hex}"


@contextmanager
def _translate_errors(path: Path | str) -> Iterator[None]:
    """Turns an OSError into a StoreError about `path`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _store_error(error, str(path)) from error


def _store_error(error: OSError, path: str) -> StoreError:
    words = _IN_WORDS.get(error.errno or 0, error.strerror or str(error))
    kind = StoreUnavailableError if error.errno in _PASSING else StoreError
    return kind(f"{path}: {words}")


def _write_new(path: str, data: bytes) -> None:
    """Writes a new file. The calls take a tenth of the overhead of `Path.write_bytes`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(descriptor, memoryview(data))
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _put_new(file: Path, place: Path) -> bool:
    """Puts a file at a free place. Returns False if a file is there."""
    try:
        os.link(file, place)
    except FileExistsError:
        return False
    except OSError:  # A file system without hard links.
        try:
            with place.open("xb") as new:
                new.write(file.read_bytes())
        except FileExistsError:
            return False
    return True


def _walk(folder: Path, name: str) -> Iterator[Entry]:
    """All files below `folder`, whose name in the store is `name`, in the order of their whole names."""
    with _translate_errors(folder):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            # Relative to the folder, so that its path is not resolved again for each file.
            with os.scandir(descriptor) as found:
                # With a trailing slash, a folder sorts where its files' names do.
                entries = sorted(filter(None, [_entry(each, name) for each in found]))
        finally:
            os.close(descriptor)
    for entry in entries:
        if entry.name.endswith("/"):
            yield from _walk(folder / entry.name[len(name) : -1], entry.name)
        else:
            yield entry


def _entry(found: os.DirEntry[str], folder: str) -> Entry | None:
    """A folder, with a trailing slash, or a file; None for anything else, temporary files, and files gone since."""
    name = folder + found.name
    if name.startswith(TEMPORARY):
        return None
    if found.is_dir(follow_symlinks=False):
        return Entry(f"{name}/", 0)
    try:
        status = found.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # ELOOP: a link to itself.
            return None
        raise
    return Entry(name, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _last_change(path: Path) -> float:
    """Time of the latest change of a temporary file or of anything in a staging folder, in seconds; inf for now."""
    try:
        return max(each.stat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:  # Its owner puts files in place, or removes it, at this moment.
        return math.inf


def _remove_abandoned(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif not _is_locked(path / _LOCK):
        shutil.rmtree(path, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
