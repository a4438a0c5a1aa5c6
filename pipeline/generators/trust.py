"""Which generators may be loaded: those that the user names, not those that only data names.

A generator is code. `job.json`, a recipe or a bucket of another author may name any generator. It is loaded only if it
is built in, if this user has named the same content on this machine before, or if the user allows it now with
`--generator REF` or `--trust-generator`.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError
from pipeline.common.settings import load_settings
from pipeline.generators.catalogue import builtin_names, find_generator, locate
from pipeline.generators.generator import Generator
from pipeline.generators.kinds import content_sha256
from pipeline.generators.remote import is_remote


def remember(generator: Generator) -> Generator:
    """Records that the user has named a generator; returns it. Does nothing if the cache is not writable."""
    if generator.reference not in builtin_names():
        for name in (_by_content(generator.content), _by_reference(generator.reference)):
            with contextlib.suppress(OSError):
                keep(name, f"{generator.reference}\n")
    return generator


def find_named_by_data(reference: str, *, generator: str | None = None, trust: bool = False) -> Generator:
    """The generator that a dataset, a recipe or a job names; or `generator`, which the user gives in its place.

    `trust`: the user allows to load what the data names. Raises GeneratorError if it may not be loaded,
    UnknownGeneratorError if there is none.
    """
    if generator is not None:
        return remember(find_generator(generator))
    if trust:
        return find_generator(reference)
    if reference not in builtin_names() and not _is_known(reference):
        raise GeneratorError(
            f"generator {reference!r} is named by the data alone, and a generator is code:\n"
            "give --generator REF if you have it, or --trust-generator if you trust who made the data"
        )
    return find_generator(reference)


def _is_known(reference: str) -> bool:
    """Whether the user has named this content here before. Downloads only from places that the user has named."""
    if is_remote(reference) and not _by_reference(reference).exists():
        return False
    kind, model = locate(reference)
    return _by_content(content_sha256(kind, model)).exists()


def _by_content(content: str) -> Path:
    return load_settings().cache_dir / "named" / content


def _by_reference(reference: str) -> Path:
    return load_settings().cache_dir / "named" / hashlib.sha256(reference.encode()).hexdigest()
