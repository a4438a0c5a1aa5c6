"""Drops rights that a process does not need before it inspects untrusted files.

Linux only, as far as the kernel supports it: no new privileges; by Landlock (Linux 5.13) no changes to files outside
the given folders; from Linux 6.7 on, no TCP connections.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
# Rights of linux/landlock.h.
_WRITE_FILE, _TRUNCATE, _REFER = 1 << 1, 1 << 14, 1 << 13
#: Removing and creating folders, files, links, pipes, sockets and devices.
_CHANGE_FOLDERS = sum(1 << bit for bit in range(4, 13))
_TCP = 1 << 0 | 1 << 1


def drop_rights(*, writable: Iterable[Path] = (), network: bool = False) -> None:
    """From now on this process and its children cannot change files outside the folders `writable`.

    Without `network` they cannot open TCP connections. Files that are open already stay usable. Call it before other
    threads start: it does not apply to them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _restrict(libc, [folder for folder in writable if folder.is_dir()], network=network)


def _restrict(libc: ctypes.CDLL, folders: list[Path], *, network: bool) -> None:
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    if version < 1:
        return
    files = _WRITE_FILE | _CHANGE_FOLDERS | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    tcp = _TCP if version >= 4 and not network else 0
    handled = struct.pack("QQ", files, tcp) if version >= 4 else struct.pack("Q", files)
    ruleset = libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:
        return
    try:
        for path in [*folders, Path(os.devnull)]:
            allowed = files if path.is_dir() else files & (_WRITE_FILE | _TRUNCATE)
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed, descriptor)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
            os.close(descriptor)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
