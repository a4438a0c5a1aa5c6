"""The lease of a destination, which makes sure that it has one maker at a time.

The lease is a small object at the destination itself, since two makers may not know of each other: two `generate`, two
Redis. It is renewed while its holder works, deleted when the work ends, and expires by the store's own clock. If the
holder was a process of the same machine, its death is noticed at once.

On disk, and in S3 servers with conditional writes, exactly one of two makers gets it. If an S3 server ignores
conditions (`doctor` reports it), a second check a moment later tells them apart, which is the best possible there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.common.errors import DestinationBusyError, StoreError, shown
from pipeline.common.formatting import duration
from pipeline.stores.store import Store

log = logging.getLogger("noisemill")

#: Poll interval of a lease that another maker holds, seconds.
_POLL_S = 0.5
#: Attempts to take a lease that others take or give back at the same moment.
_TRIES = 5
_LONGEST_TTL_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a lease."""

    #: Holders with the same id are the same maker, such as all workers of one Redis.
    id: str
    #: Description of its work for messages: "job fashion-3f9a2c1b7d".
    what: str
    #: Time until the lease expires without renewal, seconds.
    ttl_s: float
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    #: The process that the maker ends with (`this_process`); empty: none.
    process: str = ""

    def to_json(self) -> bytes:
        """The content of the lease file."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def __str__(self) -> str:
        """For messages."""
        return f"{self.what} (process {self.pid} on {self.host})"


def _read_holder(text: bytes) -> Holder:
    """The holder; an unknown one, which expires as others do, if the text is not valid."""
    try:
        record = json.loads(text)
        return Holder(
            id=str(record["id"]),
            what=_plain(record["what"]),
            ttl_s=min(_LONGEST_TTL_S, max(0.0, float(record["ttl_s"]))),
            host=_plain(record["host"]),
            pid=int(record["pid"]),
            process=str(record["process"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return Holder(id="", what="an unknown maker", ttl_s=60.0, host="unknown", pid=0)


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) <= 100 else shown(text)


def this_process() -> str:
    """An id of this process, unique on this machine since it was booted; empty if it cannot be determined."""
    return _process(os.getpid())


def _process(pid: int) -> str:
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The fields after the command's name, which may contain anything: first the state, as the 20th the start time.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if status[0] in "ZX":
            return ""
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {status[19]}"
    except (OSError, IndexError):
        return ""


def _has_ended(process: str) -> bool:
    """Whether a process of this machine, with an id of `this_process`, is gone. False if that is not known."""
    here, parts = this_process().split(), process.split()
    if len(here) != 4 or len(parts) != 4 or here[:2] != parts[:2] or not parts[2].isdigit():
        return False
    return _process(int(parts[2])) != process


class Lease:
    """One maker's lease of one destination. May be used by several threads."""

    def __init__(self, store: Store, *, what: str, ttl_s: float, holder: str | None = None, process: str = "") -> None:
        """`holder` is an id that makers may share; without it, the lease is not shared, and ends with this process."""
        self._store = store
        if holder is None:
            holder, process = uuid.uuid4().hex, this_process()
        pid = int(process.split()[2]) if process else os.getpid()
        self._holder = Holder(id=holder, what=what, ttl_s=ttl_s, pid=pid, process=process)
        self._text = self._holder.to_json()
        self._remote, self._checked_at = store.url.startswith("s3://"), float("-inf")
        #: Whether another maker has taken it from us.
        self.lost = False

    def take(
        self,
        *,
        patiently: bool = False,
        take_over: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """Takes the lease, or renews it.

        Waits for a holder that may have died until the lease expires; for a live one only if `patiently`.
        `take_over` does not wait. `notice` is called once with what it waits for. Raises DestinationBusyError.
        """
        notified, last = False, None
        while (held := self._try(take_over=take_over)) is not None:
            # A lease that is renewed or changes its holder has a live holder.
            alive = last is not None and (held[0] != last[0] or held[1] < last[1])
            if alive and not patiently:
                raise self._busy(*held)
            if notice is not None and not notified:
                notice(f"{self._store.url} is being made by {held[0]}: waiting for its end")
                notified = True
            last = held
            time.sleep(_POLL_S)

    def take_now(self) -> None:
        """Takes the lease, or renews it. Raises DestinationBusyError at once if another holds it."""
        if (held := self._try()) is not None:
            raise self._busy(*held)

    def check(self) -> None:
        """Checks that it is still ours, and takes it again if it is free. Raises DestinationBusyError.

        If a check needs a request over the network, its result is reused for a fifteenth of the lease's time: no other
        maker may take the lease before it expires.
        """
        if self._remote and time.monotonic() - self._checked_at < self._holder.ttl_s / 15:
            return
        text = self._store.read_lease()
        if text is None or _read_holder(text).id != self._holder.id:
            try:
                self.take_now()
            except DestinationBusyError:
                self.lost = True
                raise
        self._checked_at = time.monotonic()

    def renew(self) -> None:
        """Renews it if it is ours; otherwise only sets `lost`."""
        text = self._store.read_lease()
        if text is None:
            return
        self.lost = _read_holder(text).id != self._holder.id
        if not self.lost:
            self._store.write_lease(self._text, before=text)

    def give_back(self) -> None:
        """Gives it up, if it is ours. If the store fails, it stays until it expires."""
        with contextlib.suppress(StoreError):
            text = self._store.read_lease()
            if text is not None and _read_holder(text).id == self._holder.id:
                self._store.delete_lease(text)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews it in a thread of its own for the duration of the block."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self._holder.ttl_s / 3):
                try:
                    self.renew()
                except StoreError as error:
                    # The work itself fails then, with its own message.
                    log.debug("the lease of %s could not be renewed: %s", self._store.url, error)

        thread = threading.Thread(target=keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def held(
        self, *, patiently: bool = False, take_over: bool = False, notice: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Takes it, as `take` does, renews it during the block, and gives it back."""
        self.take(patiently=patiently, take_over=take_over, notice=notice)
        try:
            with self.kept():
                yield
        finally:
            self.give_back()

    def _try(self, *, take_over: bool = False) -> tuple[Holder, float] | None:
        """Takes or renews it; if another holds it, returns the holder and the seconds since its renewal."""
        holder = self._holder
        for _ in range(_TRIES):
            text = self._store.read_lease()
            if text is not None:
                holder = _read_holder(text)
                if holder.id != self._holder.id and not take_over and not _has_ended(holder.process):
                    age_s = self._store.lease_age_s()
                    if age_s is not None and age_s <= holder.ttl_s:
                        return holder, age_s
            if self._store.write_lease(self._text, before=text):
                return None
        return holder, 0.0

    def _busy(self, holder: Holder, age_s: float) -> DestinationBusyError:
        return DestinationBusyError(
            f"{self._store.url} is being made by {holder}, last active {duration(age_s)} ago:\n"
            "wait for its end or stop it there; if you know that it is gone, --take-over does not wait"
        )
