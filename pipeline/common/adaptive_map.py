"""Applies a function to many items, by threads only if that helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Elapsed time by processor time above which a call mostly waits.
_WAITING = 2


def adaptive_map(function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int) -> Iterator[_Result]:
    """The results in the order of the items. Raises what the function raises.

    The first item is processed in the calling thread. If that was mostly waiting, for S3 or a network disk, so many
    threads process the others at a time. If it was mostly work, the calling thread goes on: threads would take turns
    with the interpreter's lock.
    """
    if not items:
        return
    start, worked = time.perf_counter(), time.thread_time()
    first = function(items[0])
    elapsed, worked = time.perf_counter() - start, time.thread_time() - worked
    yield first
    if elapsed > _WAITING * worked:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, items[1:])
    else:
        yield from map(function, items[1:])
