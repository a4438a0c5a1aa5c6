"""Single samples of a generator for the page: one process makes them, one request at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from pipeline.common.errors import NoisemillError, UsageError
from pipeline.common.quantities import MAX_COUNT, MAX_SEED
from pipeline.generators import Generator
from pipeline.generators.catalogue import builtin_names
from pipeline.generators.sampling import SamplingProcess, draw, interpolate
from pipeline.generators.trust import find_named_by_data
from pipeline.spec.sampler import MAX_GUIDANCE, METHODS
from pipeline.ui.pictures import sprite

#: Requests that may wait for their turn, and the longest time that one may take, seconds.
_WAITING, _TIMEOUT_S = 4, 120.0
#: Generators of jobs that are remembered; most samples on the way between two, and most steps of a sampler.
_KNOWN, _MOST_ON_THE_WAY, _MOST_STEPS = 200, 16, 250


class BusyError(NoisemillError):
    """Too many requests wait for the playground already."""


class Playground:
    """Makes samples of built-in generators, and of those of jobs that this user has named on this machine before.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._references = {name: name for name in builtin_names()}
        #: Ids of jobs whose generators were added.
        self._jobs: set[str] = set()
        self._process = SamplingProcess(_TIMEOUT_S)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + _WAITING)

    def add(self, job_id: str, reference_of: Callable[[], str]) -> None:
        """Adds the generator of a job, whose reference is read once."""
        if job_id in self._jobs or len(self._references) >= _KNOWN:
            return
        reference = reference_of()
        self._jobs.add(job_id)
        if reference not in self._references:
            self._references[hashlib.sha256(reference.encode()).hexdigest()[:16]] = reference

    def names(self) -> list[dict[str, str]]:
        """Key and name of each."""
        return [
            {"key": key, "name": key if key == reference else reference.rstrip("/").rpartition("/")[2]}
            for key, reference in self._references.items()
        ]

    def facts(self, key: str) -> dict[str, Any]:
        """What a generator takes. Raises UsageError for an unknown one, GeneratorError if it may not be loaded."""
        found = self._find(key)
        interface, denoiser = found.interface, found.interface.denoiser
        return {
            "key": key,
            "name": found.name,
            "summary": found.summary,
            "digest": found.digest,
            "classes": interface.classes,
            "latent_dim": interface.latent_dim,
            "sample_shape": interface.sample_shape,
            "attributes_dim": interface.attributes_dim,
            "settings": {name: values[0] for name, values in interface.constants if len(set(values)) == 1},
            "sampler": None
            if found.sampler is None
            else {
                "method": found.sampler.method,
                "methods": METHODS,
                "steps": found.sampler.steps,
                "guidance": found.sampler.guidance,
                "guided": denoiser is not None and denoiser.none is not None,
                "most_guidance": MAX_GUIDANCE,
                "most_steps": _MOST_STEPS,
            },
            "warm": self._process.warm,
        }

    def draw(self, key: str, asked: dict[str, Any]) -> tuple[bytes, str, list[int] | None]:
        """Samples in one image, its media type, and their labels.

        `asked` has `seed` and `index`, and perhaps `last` and `count` (the way to another sample), `label`,
        `truncation`, `attributes`, `settings`, `method`, `steps` and `guidance`. Raises UsageError for an invalid one,
        BusyError, WorkerError.
        """
        options: dict[str, Any] = {
            "seed": _whole(asked, "seed", 0, MAX_SEED, 0),
            "label": _text(asked, "label"),
            "noise": _noise(asked),
            "attributes": _text(asked, "attributes"),
            "settings": _settings(asked),
            "sampler": _text(asked, "method"),
            "sampler_steps": _whole(asked, "steps", 1, _MOST_STEPS, None),
            "guidance": _number(asked, "guidance", 0, MAX_GUIDANCE),
            "predict": self._process.predict,
        }
        index = _whole(asked, "index", 0, MAX_COUNT - 1, 0)
        last = _whole(asked, "last", 0, MAX_COUNT - 1, None)
        count = _whole(asked, "count", 2, _MOST_ON_THE_WAY, 8)
        assert index is not None
        assert count is not None
        found = self._find(key)
        if not self._places.acquire(blocking=False):
            raise BusyError("the playground is busy: try again in a moment")
        try:
            with self._turn:
                drawn = (
                    draw(found, index, **options) if last is None else interpolate(found, index, last, count, **options)
                )
        finally:
            self._places.release()
        data, kind = sprite(drawn.samples, found.interface.value_range)
        return data, kind, None if drawn.labels is None else list(drawn.labels)

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    def _find(self, key: str) -> Generator:
        if key not in self._references:
            raise UsageError("this page knows no such generator: it shows built-in ones and those of jobs")
        return find_named_by_data(self._references[key])


def _whole(asked: dict[str, Any], name: str, least: int, most: int, usual: int | None) -> int | None:
    value = asked.get(name)
    if value is None:
        return usual
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{name} is not a whole number from {least} to {most:,}")
    return value


def _number(asked: dict[str, Any], name: str, least: float, most: float) -> float | None:
    value = asked.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not least <= value <= most:
        raise UsageError(f"{name} is not a number from {least:g} to {most:g}")
    return float(value)


def _text(asked: dict[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 1000:
        raise UsageError(f"{name} is not a short text")
    return value


def _noise(asked: dict[str, Any]) -> str:
    limit = _number(asked, "truncation", 0.01, 10)
    return "normal" if limit is None else f"truncated:{limit:g}"


def _settings(asked: dict[str, Any]) -> dict[str, float] | None:
    values = asked.get("settings")
    if values is None:
        return None
    if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
        raise UsageError("settings are not numbers by name")
    return {name: float(value) for name, value in values.items()}
