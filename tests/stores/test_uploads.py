"""Uploads in the background: bounded, and no failure is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.common.errors import StoreError
from pipeline.stores.uploads import Uploads

KIB = 1024


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    uploads = Uploads(threads=2, limit_bytes=100 * KIB)
    yield uploads
    uploads.stop()


@pytest.mark.parametrize("error", [StoreError("the disk is full"), KeyError("a mistake of ours")])
def test_a_failure_is_raised_by_whatever_comes_next(uploads: Uploads, error: Exception) -> None:
    def fail() -> None:
        raise error

    uploads.submit(1, fail)
    with pytest.raises(type(error), match=r"the disk is full|a mistake of ours"):
        uploads.finish()
    with pytest.raises(type(error)):
        uploads.submit(1, lambda: None)


def test_submitting_waits_for_room(uploads: Uploads) -> None:
    gate, done = threading.Event(), []
    uploads.submit(60 * KIB, lambda: done.append(gate.wait(10)))
    third = threading.Thread(target=lambda: uploads.submit(60 * KIB, lambda: done.append(True)))
    third.start()
    third.join(0.1)
    assert third.is_alive()
    gate.set()
    third.join(10)
    uploads.finish()
    assert done == [True, True]


def test_one_larger_than_the_limit_goes_alone(uploads: Uploads) -> None:
    done: list[int] = []
    for index in range(3):
        uploads.submit(1000 * KIB, lambda index=index: done.append(index))  # type: ignore[misc]
    uploads.finish()
    assert done == [0, 1, 2]


def test_stopping_drops_what_has_not_begun() -> None:
    uploads = Uploads(threads=1, limit_bytes=100 * KIB)
    begun, gate, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        done.append(gate.wait(10))

    uploads.submit(1, first)
    uploads.submit(1, lambda: done.append(False))
    begun.wait(10)
    stopping = threading.Thread(target=uploads.stop)
    stopping.start()
    stopping.join(0.1)
    gate.set()
    stopping.join(10)
    assert done == [True]
