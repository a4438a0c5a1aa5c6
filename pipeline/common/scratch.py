"""Temporary folders that are deleted when their owner ends or, if it was killed, when the next one starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "owner"

#: Longest path of the temporary folder, bytes. The path of a Unix socket below it may have 103, on Linux 107.
_LONGEST_BYTES = 65


@contextlib.contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A folder `noisemill-KIND-...` in the system's temporary folder. Removes those of dead owners.

    A live owner holds a lock, which the kernel releases when the owner ends in any way.
    """
    prefix = f"noisemill-{kind}-"
    sweep(prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_temporary()))
    # Locked before it gets its name, so that `sweep` never finds it unlocked.
    lock = os.open(folder / f"{_LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with contextlib.suppress(OSError):  # Without locks, `sweep` leaves it alone too.
            fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(prefix: str) -> None:
    """Removes the folders with this prefix whose owners have died. Folders of other users or without an owner stay."""
    for folder in _temporary().glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _temporary() -> Path:
    """The system's temporary folder, or /tmp if its path is too long for a socket."""
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= _LONGEST_BYTES else Path("/tmp")  # noqa: S108
