"""What goes wrong in a worker's processes: Python imports this when it starts with this folder on PYTHONPATH.

The product knows nothing of it. NOISEMILL_TEST_FAULTS holds a JSON object:

    clock     the process's idea of the time is off by so many seconds
    pace_s    the device takes so many seconds longer for a batch of a job
    die       {"at": "module:Class.function", "when": "before" or "after", "argument": "...", "flags": folder,
               "times": 1, "number": 9}: the process kills itself there, so often in all, where the text of the first
               argument begins with "argument"
    pause     {"at": "module:Class.function", "argument": "...", "seconds": s}: a call there, as for "die", waits first
    fail      "module:Class.function": what is called there raises what nobody foresees
    latent    {"value": v, "how": "nan", "kill", "segfault" or "memory"}: what the generator does with a latent that
               begins with v
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import_hooks: dict[str, list[Callable[[ModuleType], None]]] = {}


class _Finder(importlib.abc.MetaPathFinder):
    """Runs the hooks of a module once it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in import_hooks:
            return None
        hooks = import_hooks.pop(name)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            for hook in hooks:
                hook(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrap(place: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces "module:Class.function" by what `make` makes of it, as soon as the module is imported."""
    module_name, _, names = place.partition(":")

    def hook(module: ModuleType) -> None:
        *owners, name = names.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        function = getattr(owner, name)
        setattr(owner, name, functools.wraps(function)(make(function)))

    import_hooks.setdefault(module_name, []).append(hook)


def set_clock(clock: float) -> None:
    right = time.time
    time.time = lambda: right() + clock


def slow_down(pace_s: float) -> None:
    milling = threading.Event()

    def slow_predict(predict: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*arguments: Any) -> Any:
            if milling.is_set():
                time.sleep(pace_s)
            return predict(*arguments)

        return slowly

    def noted_run(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            milling.set()
            return run(*arguments)

        return noted

    # Not while it warms up and is measured.
    wrap("workers.engine.engine:Engine.predict", slow_predict)
    wrap("workers.making.mill:Mill.run", noted_run)


def die(at: str, when: str, flags: str, argument: str = "", times: int = 1, number: int = signal.SIGKILL) -> None:
    def is_due() -> bool:
        """Whether there is a flag left that nobody has put up."""
        for flag in range(times):
            try:
                os.close(os.open(f"{flags}/died-{flag}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        def deadly(self: Any, *arguments: Any, **named: Any) -> Any:
            due = str(arguments[0] if arguments else "").startswith(argument)
            if when == "before" and due and is_due():
                os.kill(os.getpid(), number)
            answer = function(self, *arguments, **named)
            if when == "after" and due and is_due():
                os.kill(os.getpid(), number)
            return answer

        return deadly

    wrap(at, make)


def pause(at: str, seconds: float, argument: str = "") -> None:
    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        def paused(self: Any, *arguments: Any, **named: Any) -> Any:
            if str(arguments[0] if arguments else "").startswith(argument):
                time.sleep(seconds)
            return function(self, *arguments, **named)

        return paused

    wrap(at, make)


def fail(at: str) -> None:
    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **named: Any) -> Any:
            raise RuntimeError("nobody foresaw\nthis")

        return failing

    wrap(at, make)


def spoil(value: float, how: str) -> None:
    def make(predict: Callable[..., Any]) -> Callable[..., Any]:
        def spoilt(self: Any, latents: Any, labels: Any) -> Any:
            rows = (latents.reshape(len(latents), -1)[:, 0] == value).nonzero()[0]
            if len(rows):
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif how == "segfault":
                    ctypes.string_at(0)
                elif how == "memory":
                    latents.repeat(2**50)
                else:
                    latents = latents.copy()
                    latents[rows] = float("nan")
            return predict(self, latents, labels)

        return spoilt

    wrap("workers.engine.engine:Engine.predict", make)


_KINDS: dict[str, Callable[..., None]] = {
    "clock": set_clock,
    "pace_s": slow_down,
    "die": lambda options: die(**options),
    "pause": lambda options: pause(**options),
    "fail": fail,
    "latent": lambda options: spoil(**options),
}

sys.meta_path.insert(0, _Finder())
for _kind, _options in json.loads(os.environ.get("NOISEMILL_TEST_FAULTS", "{}")).items():
    _KINDS[_kind](_options)
