"""A destination has one maker at a time: the lease that says who.

It is a small object at the destination itself, since two makers may know nothing of each other: two `generate`, two
Redis. It is renewed while its holder works, goes when the work ends, and runs out by the store's own clock. On one
machine a holder that has died is known at once by its process.

A store on disk, and one in S3 that knows conditional writes, lets exactly one of two take it. Where S3 ignores the
conditions (`doctor` says so), both are told apart by a second look a moment later: the best that can be had there.
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
from pipeline.common.words import duration
from pipeline.stores.store import Store

log = logging.getLogger("noisemill")

#: Pause between two looks at a lease that another holds, seconds.
_LOOK_S = 0.5
#: Tries to take a lease that others take or give back at the same moment.
_TRIES = 5
_LONGEST_TTL_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease."""

    #: Whoever has the same id is the same maker: all workers of one Redis.
    id: str
    #: What it does, for people: "job fashion-3f9a2c1b7d".
    what: str
    #: How long the lease holds without renewal, seconds.
    ttl_s: float
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    #: The process with which the maker ends (`this_process`); empty where it does not end with one.
    process: str = ""

    def to_json(self) -> bytes:
        """As it lies at the destination."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def __str__(self) -> str:
        """For messages."""
        return f"{self.what} (process {self.pid} on {self.host})"


def _read_holder(text: bytes) -> Holder:
    """The holder; one that nobody knows, and that runs out as others do, where the text is none of ours."""
    try:
        told = json.loads(text)
        return Holder(
            id=str(told["id"]),
            what=_plain(told["what"]),
            ttl_s=min(_LONGEST_TTL_S, max(0.0, float(told["ttl_s"]))),
            host=_plain(told["host"]),
            pid=int(told["pid"]),
            process=str(told["process"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return Holder(id="", what="an unknown maker", ttl_s=60.0, host="unknown", pid=0)


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) <= 100 else shown(text)


def this_process() -> str:
    """What tells this process from all others of this machine since it started; empty where that cannot be known."""
    return _process(os.getpid())


def _process(pid: int) -> str:
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # What follows the command's name, which may hold anything: the state, and in the 20th place the start.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if status[0] in "ZX":
            return ""
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {status[19]}"
    except (OSError, IndexError):
        return ""


def _has_ended(process: str) -> bool:
    """Whether a process of this machine, as `this_process` named it, is gone. False where that cannot be known."""
    here, parts = this_process().split(), process.split()
    if len(here) != 4 or len(parts) != 4 or here[:2] != parts[:2] or not parts[2].isdigit():
        return False
    return _process(int(parts[2])) != process


class Lease:
    """One maker's lease of one destination. May be used by several threads."""

    def __init__(self, store: Store, *, what: str, ttl_s: float, holder: str | None = None, process: str = "") -> None:
        """`holder` is the id that several share; without it nobody shares this lease, and it ends with this process."""
        self._store = store
        if holder is None:
            holder, process = uuid.uuid4().hex, this_process()
        pid = int(process.split()[2]) if process else os.getpid()
        self._holder = Holder(id=holder, what=what, ttl_s=ttl_s, pid=pid, process=process)
        self._text = self._holder.to_json()
        self._remote, self._checked_at = store.url.startswith("s3://"), float("-inf")
        #: Whether it was seen to be another's after it had been ours.
        self.lost = False

    def take(
        self,
        *,
        patiently: bool = False,
        take_over: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """Takes the lease, or renews it.

        Waits for a holder that may have died until the lease runs out; for one that is alive only where `patiently`.
        `take_over` waits for nobody. `notice` is told once what is waited for. Raises DestinationBusyError.
        """
        told, last = False, None
        while (held := self._try(take_over=take_over)) is not None:
            # One that grows no older, or changes hands, has somebody who sees to it.
            alive = last is not None and (held[0] != last[0] or held[1] < last[1])
            if alive and not patiently:
                raise self._busy(*held)
            if notice is not None and not told:
                notice(f"{self._store.url} is being made by {held[0]}: waiting for its end")
                told = True
            last = held
            time.sleep(_LOOK_S)

    def take_now(self) -> None:
        """Takes the lease, or renews it. Raises DestinationBusyError at once where another holds it."""
        if (held := self._try()) is not None:
            raise self._busy(*held)

    def check(self) -> None:
        """Makes sure that it is still ours, and takes it again where nobody has it. Raises DestinationBusyError.

        Where asking takes a request over the network, an answer counts for a fifteenth of the time that it holds:
        before it ran out nobody else may take it.
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
        """Renews it where it is ours; where it is not, does nothing but note that."""
        text = self._store.read_lease()
        if text is None:
            return
        self.lost = _read_holder(text).id != self._holder.id
        if not self.lost:
            self._store.write_lease(self._text, before=text)

    def give_back(self) -> None:
        """Lets others have it. Does nothing where it is not ours; a store that fails keeps it until it runs out."""
        with contextlib.suppress(StoreError):
            text = self._store.read_lease()
            if text is not None and _read_holder(text).id == self._holder.id:
                self._store.delete_lease(text)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews it in a thread of its own for as long as the block lasts."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self._holder.ttl_s / 3):
                try:
                    self.renew()
                except StoreError as error:
                    # What is made meanwhile fails by itself, and says so.
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
        """Takes it, as `take` does, keeps it through the block, and gives it back."""
        self.take(patiently=patiently, take_over=take_over, notice=notice)
        try:
            with self.kept():
                yield
        finally:
            self.give_back()

    def _try(self, *, take_over: bool = False) -> tuple[Holder, float] | None:
        """Takes or renews it; where another holds it, answers who, and how long ago it was renewed."""
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
            f"{self._store.url} is being made by {holder}, heard of {duration(age_s)} ago:\n"
            "wait for its end or end it there; where you know that it is gone, --take-over does not wait"
        )
