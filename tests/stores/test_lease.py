"""Leases of destinations: who comes second waits, or is told who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.common.errors import DestinationBusyError
from pipeline.stores import Store, open_store
from pipeline.stores.lease import Lease, this_process


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def lease(store: Store, holder: str, ttl_s: float = 60.0, process: str = "") -> Lease:
    return Lease(store, what=f"job {holder}", ttl_s=ttl_s, holder=holder, process=process)


def grow_old(store: Store, seconds: float) -> None:
    path = Path(store.url) / ".noisemill-maker"
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def test_one_holds_it_and_the_second_is_told_who(store: Store) -> None:
    lease(store, "a").take()
    with pytest.raises(DestinationBusyError) as caught:
        lease(store, "b").take_now()
    said = str(caught.value)
    assert f"{store.url} is being made by job a (process {os.getpid()} on " in said
    assert "--take-over" in said
    lease(store, "a").take_now()


def test_it_goes_back(store: Store) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    first.take()
    second.give_back()
    with pytest.raises(DestinationBusyError):
        second.take_now()
    first.give_back()
    second.take_now()
    with pytest.raises(DestinationBusyError):
        first.check()
    assert first.lost


def test_what_ran_out_is_anybodys(store: Store) -> None:
    lease(store, "a", ttl_s=60).take()
    grow_old(store, 59)
    with pytest.raises(DestinationBusyError):
        lease(store, "b").take_now()
    grow_old(store, 2)
    lease(store, "b").take_now()


def test_a_holder_that_is_renewed_while_one_looks_is_alive(store: Store) -> None:
    first = lease(store, "a", ttl_s=0.6)
    with first.held():
        grow_old(store, 0.3)
        with pytest.raises(DestinationBusyError):
            lease(store, "b").take()


def test_one_waits_patiently_for_one_that_is_alive(store: Store) -> None:
    first, told = lease(store, "a", ttl_s=0.6), []
    inside, over = threading.Event(), threading.Event()

    def work() -> None:
        with first.held():
            inside.set()
            over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()

    def notice(message: str) -> None:
        told.append(message)
        over.set()

    lease(store, "b").take(patiently=True, notice=notice)
    thread.join()
    [message] = told
    assert message.startswith(f"{store.url} is being made by job a (process {os.getpid()} on ")
    assert message.endswith("): waiting for its end")
    assert json.loads(store.read_lease() or b"")["id"] == "b"


def test_one_that_died_is_waited_for_until_it_runs_out(store: Store) -> None:
    lease(store, "a", ttl_s=1.0).take()
    began = time.monotonic()
    lease(store, "b").take()
    assert time.monotonic() - began > 0.9


def test_taking_over_waits_for_nobody(store: Store) -> None:
    first = lease(store, "a")
    with first.kept():
        first.take()
        lease(store, "b").take(take_over=True)
        first.renew()
        assert first.lost
        with pytest.raises(DestinationBusyError):
            first.check()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc")
def test_a_process_that_has_died_holds_nothing(store: Store) -> None:
    program = (
        "import sys; from pipeline.stores import open_store; from pipeline.stores.lease import Lease\n"
        "Lease(open_store(sys.argv[1]), what='removal', ttl_s=60).take(); print('taken', flush=True); input()"
    )
    command = [sys.executable, "-c", program, store.url]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    with pytest.raises(DestinationBusyError):
        lease(store, "b").take_now()
    holder.kill()
    holder.communicate()
    lease(store, "b").take_now()


def test_a_process_of_another_machine_is_not_looked_up(store: Store) -> None:
    boot, namespace, _, started = this_process().split()
    for process in (f"other {namespace} 999999999 {started}", f"{boot} pid:[1] 999999999 {started}", "x", ""):
        held = lease(store, "a", process=process if len(process.split()) == 4 else "")
        held.take()
        with pytest.raises(DestinationBusyError):
            lease(store, "b").take_now()
        held.give_back()


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b"\xff", b'{"id": 1}', b"[" * 4000, b'{"ttl_s": 1e999}'])
def test_what_is_no_lease_runs_out_too(store: Store, text: bytes) -> None:
    assert store.write_lease(text, before=None)
    with pytest.raises(DestinationBusyError, match="an unknown maker"):
        lease(store, "b").take_now()
    grow_old(store, 61)
    lease(store, "b").take_now()


def test_a_lease_that_would_never_run_out_does(store: Store) -> None:
    lease(store, "a", ttl_s=1e9).take()
    grow_old(store, 3601)
    lease(store, "b").take_now()


def test_a_link_in_its_place_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("keep")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".noisemill-maker").symlink_to(tmp_path / "secret")
    with contextlib.suppress(DestinationBusyError, OSError):
        lease(store, "a").take(take_over=True)
    assert (tmp_path / "secret").read_text() == "keep"
