"""Flushes files to disk: one by one, or a whole file system at once."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import stat
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

#: Files flushed at the same time: the file system commits them together (docs/decisions/0010-stores.md).
_FLUSHERS = 32
#: From this number of files on, flushing the whole file system is cheaper than flushing each file.
_MANY = 64
#: File systems for which `syncfs` is known to cover what `fsync` of each file would.
_FLUSHED_WHOLE = ("ext3", "ext4", "xfs", "btrfs", "tmpfs")
#: From this Linux version on, `syncfs` reports writes that failed since its descriptor was opened.
_REPORTS_ERRORS = (5, 8)


#: Errors of a file system that does not support flushing, as opposed to a failed flush.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)


def flush(path: Path | str) -> None:
    """Waits until a file or folder has reached the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some mounted file systems cannot flush folders.
        if error.errno != errno.EINVAL and not (
            error.errno in _UNSUPPORTED and stat.S_ISDIR(os.fstat(descriptor).st_mode)
        ):
            raise
    finally:
        os.close(descriptor)


def flush_files(paths: Sequence[str], opened_before: int) -> None:
    """Waits until all files have reached the disk. Raises OSError.

    `opened_before` is a descriptor on their file system that was opened before they were written: `syncfs` reports
    writes that have failed since then.
    """
    if len(paths) >= _MANY and _whole_flush_is_sound(opened_before):
        try:
            _flush_whole(opened_before)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
    with ThreadPoolExecutor(min(_FLUSHERS, max(1, len(paths)))) as flushers:
        for _ in flushers.map(flush, paths):
            pass


def _flush_whole(descriptor: int) -> None:
    if _libc().syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _whole_flush_is_sound(descriptor: int) -> bool:
    if sys.platform != "linux" or not hasattr(_libc(), "syncfs"):
        return False
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if version is None or (int(version[1]), int(version[2])) < _REPORTS_ERRORS:
        return False
    return _file_system(os.fstat(descriptor).st_dev) in _FLUSHED_WHOLE


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _file_system(device: int) -> str:
    """The type of the mounted file system with this device number; "" if none is listed (proc(5), mountinfo)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
