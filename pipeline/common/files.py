"""Files that others named: opened only where they are files; and headers of .npy files."""

from __future__ import annotations

import errno
import os
import stat
import threading
from io import BufferedReader, FileIO
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

from pipeline.common.text import one_line_of

#: What numpy raises for a file that is no .npy: its header is Python, which may not even parse.
NPY_ERRORS = (ValueError, SyntaxError, TokenError, OverflowError)

_PARSING = threading.Lock()


def first_line(error: Exception) -> str:
    """What an error says, in one printable line of bearable length."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return one_line_of(text)[:200]


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """The file for reading in binary. Raises OSError, also for a folder, a pipe or a device: some never end."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENOTSUP, "it is a pipe or a device, not a file", os.fspath(path))
    return file


def open_unlinked(path: str) -> BufferedReader | None:
    """The file at a path that names no symbolic link; None where it is not one, or where one cannot tell.

    Looks at what was opened, which takes a sixth of the time of resolving the path before, and leaves nobody the
    time to put a link there.
    """
    try:
        file = FileIO(path, opener=_open_no_link_at_once)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and os.readlink(f"/proc/self/fd/{file.fileno()}") == path:
            return BufferedReader(file)
    except OSError:  # There is not everywhere a /proc.
        pass
    file.close()
    return None


def read_regular(path: Path) -> bytes:
    """The whole file; raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Opening a pipe would wait for somebody to write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _open_no_link_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, whether in Fortran's order, and dtype of an .npy file, version 1.0; `file` is left at the first value.

    Raises one of NPY_ERRORS. May be called by several threads.
    """
    from numpy.lib import format as npy_format  # This module is wanted where numpy is not.

    try:
        version = npy_format.read_magic(file)
    except ValueError:
        if file.tell() == 0:
            raise ValueError("it is empty") from None
        raise
    if version != (1, 0):
        raise ValueError(f"its version is {version}, not (1, 0)")
    # numpy has Python parse it, which in Python 3.11.7 fails with a SystemError now and then where two threads do so.
    with _PARSING:
        return npy_format.read_array_header_1_0(file)
