"""Headers of .npy files are parsed by one thread at a time: Python's own parser is not safe for more in 3.11.7."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipeline.common.files import read_npy_header


def test_one_thread_at_a_time_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, busy = np.lib.format.read_array_header_1_0, threading.Lock()

    def watched(file: Any) -> Any:
        assert busy.acquire(blocking=False)
        time.sleep(0.002)
        busy.release()
        return parse(file)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    file = io.BytesIO()
    np.save(file, np.zeros((3, 2), np.float32))
    with ThreadPoolExecutor(8) as threads:
        headers = list(threads.map(lambda _: read_npy_header(io.BytesIO(file.getvalue())), range(40)))
    assert headers == [((3, 2), False, np.dtype(np.float32))] * 40


BAD = [(b"", "it is empty"), (b"\x93NUM", "EOF"), (b"\x93NUMPY\x02\x00", "version")]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_what_is_no_header(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_npy_header(io.BytesIO(data))
