"""What a worker's parent process and its child both know. It imports little: the parent starts the child soon."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

#: Folder of the metrics of the children, by a name of the library's. The parent itself must not have it.
METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: File in the worker's run folder with a byte for every refused message, written by the parent. The child, which
#: announces the worker, reads its size.
REFUSED = "refused"


def new_worker_id() -> str:
    """A new worker id, made by the parent process and kept for its children (`WORKER_ID_VARIABLE`).

    Host name and process id alone are not unique: in containers both are often the same, and two such workers would
    take each other's leases.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def messages_refused(run_folder: Path) -> int:
    """The number of messages that the worker with this run folder has refused since it started."""
    path = run_folder / REFUSED
    return path.stat().st_size if path.exists() else 0
