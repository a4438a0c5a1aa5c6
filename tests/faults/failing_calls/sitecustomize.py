"""Makes one function of `os` fail in every Python process that has this folder on PYTHONPATH, while a file exists.

For what no real disk can be made to do on demand: NOISEMILL_TEST_FAULT is "function:ERRNO", NOISEMILL_TEST_TRIGGER
the file.
"""

import errno
import os
from collections.abc import Callable
from typing import Any

_TRIGGER = os.environ["NOISEMILL_TEST_TRIGGER"]


def _failing(function: Callable[..., Any], code: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if os.path.exists(_TRIGGER):
            raise OSError(code, os.strerror(code))
        return function(*arguments, **options)

    return call


_name, _code = os.environ["NOISEMILL_TEST_FAULT"].split(":")
setattr(os, _name, _failing(getattr(os, _name), getattr(errno, _code)))
