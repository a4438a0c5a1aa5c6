"""Opens files named by others safely, and reads headers of .npy files."""

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

#: Errors of numpy for a file that is not .npy: its header is Python source, which may not even parse.
NPY_ERRORS = (ValueError, SyntaxError, TokenError, OverflowError)

_PARSING = threading.Lock()


def first_line(error: Exception) -> str:
    """The text of an error as one printable line of limited length."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return one_line_of(text)[:200]


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """The file for reading in binary. Raises OSError, also for a folder, a pipe or a device, which may never end."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENOTSUP, "it is a pipe or a device, not a file", os.fspath(path))
    return file


def open_unlinked(path: str) -> BufferedReader | None:
    """The file at a path without symbolic links; None if it is not a file, or if that cannot be determined.

    It checks the opened file, which takes a sixth of the time of resolving the path first, and leaves no time to insert
    a link in between.
    """
    try:
        file = FileIO(path, opener=_open_no_link_at_once)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and os.readlink(f"/proc/self/fd/{file.fileno()}") == path:
            return BufferedReader(file)
    except OSError:  # There may be no /proc.
        pass
    file.close()
    return None


def read_regular(path: Path) -> bytes:
    """The whole file; raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Opens without blocking: opening a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _open_no_link_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, Fortran order, and dtype of an .npy file, version 1.0; `file` is left at the first value.

    Raises one of NPY_ERRORS. May be called by several threads.
    """
    from numpy.lib import format as npy_format  # This module is also used without numpy.

    try:
        version = npy_format.read_magic(file)
    except ValueError:
        if file.tell() == 0:
            raise ValueError("it is empty") from None
        raise
    if version != (1, 0):
        raise ValueError(f"its version is {version}, not (1, 0)")
    # numpy parses it with Python's parser, which in 3.11.7 sometimes raises SystemError in two threads at once.
    with _PARSING:
        return npy_format.read_array_header_1_0(file)
