"""Which generators and judges may be loaded: those that the user names, not those that only data names.

A model is code. `job.json`, a recipe or a bucket of another author may name any model. It is loaded only if it is built
in, if this user has named the same content on this machine before, or if the user allows it now with `--generator REF`,
`--judge REF` or `--trust-generator`.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TypeVar

from pipeline.common.cache import keep
from pipeline.common.errors import GeneratorError, UsageError, shown
from pipeline.common.settings import load_settings
from pipeline.generators.catalogue import BUILTIN_FOLDER, builtin_names, find_generator, locate
from pipeline.generators.generator import Generator
from pipeline.generators.judge import JUDGE_FOLDER, Judge, find_judge, judge_names
from pipeline.generators.kinds import content_sha256
from pipeline.generators.remote import is_remote
from pipeline.spec.job_spec import JobSpec

_Model = TypeVar("_Model", Generator, Judge)


def remember(model: _Model) -> _Model:
    """Records that the user has named a generator or a judge; returns it. Does nothing if the cache is not writable."""
    if model.reference not in (*builtin_names(), *judge_names()):
        for name in (_by_content(model.content), _by_reference(model.reference)):
            with contextlib.suppress(OSError):
                keep(name, f"{model.reference}\n")
    return model


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


def find_judge_named_by_data(reference: str, *, judge: str | None = None, trust: bool = False) -> Judge:
    """The judge that a dataset, a recipe or a job names; or `judge`, which the user gives in its place.

    As `find_named_by_data`.
    """
    if judge is not None:
        return remember(find_judge(judge))
    if not trust and reference not in judge_names() and not _is_known(reference, "judge", JUDGE_FOLDER):
        raise GeneratorError(
            f"judge {reference!r} is named by the data alone, and a judge is code:\n"
            "give --judge REF if you have it, or --trust-generator if you trust who made the data"
        )
    return find_judge(reference)


def same_judge(spec: JobSpec, reference: str | None = None, *, trust: bool = False) -> Judge | None:
    """The judge of a spec, or the one that the user references instead; None without a choice among candidates.

    Raises UsageError for a reference that is not needed, GeneratorError if the judge has changed, or if only the data
    names it and it is not trusted.
    """
    if spec.judge is None:
        if reference is not None:
            raise UsageError(f"--judge {shown(reference)} is not needed: the dataset was made without one")
        return None
    try:
        judge = find_judge_named_by_data(spec.judge, judge=reference, trust=trust)
    except UsageError as error:
        raise GeneratorError(f"the job's judge cannot be found ({error}): give its location with --judge") from None
    if judge.digest != spec.judge_digest:
        raise GeneratorError(
            f"judge {judge.reference!r} is not what chose the samples of this dataset: its digest is "
            f"{judge.digest[:19]}..., the job's {str(spec.judge_digest)[:19]}..."
        )
    return judge


def _is_known(reference: str, what: str = "generator", folder: Path = BUILTIN_FOLDER) -> bool:
    """Whether the user has named this content here before. Downloads only from places that the user has named."""
    if is_remote(reference) and not _by_reference(reference).exists():
        return False
    kind, model = locate(reference, what, folder)
    return _by_content(content_sha256(kind, model)).exists()


def _by_content(content: str) -> Path:
    return load_settings().cache_dir / "named" / content


def _by_reference(reference: str) -> Path:
    return load_settings().cache_dir / "named" / hashlib.sha256(reference.encode()).hexdigest()
