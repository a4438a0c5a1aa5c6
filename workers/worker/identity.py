"""What a worker's parent process and its child both know. It imports little: the parent starts the child soon."""

from __future__ import annotations

import os
import secrets
import socket

#: File in the worker's run folder with the reason, in one line, why the child cannot work.
FATAL = "fatal"


def new_worker_id() -> str:
    """A new worker id, made by the parent process and kept for its children (`WORKER_ID_VARIABLE`).

    Host name and process id alone are not unique: in containers both are often the same, and two such workers would
    take each other's leases.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
