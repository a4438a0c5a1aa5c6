"""Temporary folders that go with their owner: at its end, or, where it was killed, when the next of its kind begins."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "owner"

#: Longest path of the temporary folder, in bytes: that of a unix socket below it may have 103, on Linux 107.
_LONGEST_BYTES = 65


@contextlib.contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A folder `noisemill-KIND-...` among the system's temporary ones, and those gone whose owners are dead.

    The kernel holds the lock that tells of a living owner, and drops it however the owner ends.
    """
    prefix = f"noisemill-{kind}-"
    sweep(prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_temporary()))
    # Locked before it has its name: who sweeps never finds a lock that nobody holds yet.
    lock = os.open(folder / f"{_LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with contextlib.suppress(OSError):  # Without locks, who sweeps leaves it alone too.
            fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(prefix: str) -> None:
    """Removes the folders of this prefix whose owners have died. What others own, or what has no owner, stays."""
    for folder in _temporary().glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _temporary() -> Path:
    """The system's temporary folder, or /tmp where its path is too long for a socket."""
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= _LONGEST_BYTES else Path("/tmp")  # noqa: S108
