"""A machine on which no semaphores can be made; their failure is imitated, since /dev/shm is the machine's."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from pipeline.common.errors import NoisemillError
from workers.worker.main import _check_semaphores


def test_semaphores_can_be_made() -> None:
    _check_semaphores()


def test_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    with pytest.raises(NoisemillError, match=r"/dev/shm \(Read-only file system\): mount a writable tmpfs there"):
        _check_semaphores()
