"""Prepares a destination for a job: writes `job.json` and the user's files before any work."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from shlex import quote

from pipeline.common.errors import DatasetError, DestinationOccupiedError, UsageError, shown
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import LATENT_BLOCK, JobSpec
from pipeline.stores import is_canonical, open_store
from pipeline.stores.records import read_record
from pipeline.stores.store import Store


@dataclass(frozen=True)
class Upload:
    """A file of the user, as it is stored at the destination."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Hash of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def write(self, store: Store) -> None:
        """Writes it to the destination."""
        store.write(self.name, self.data)


def prepare(spec: JobSpec, destination: str | os.PathLike[str], uploads: list[Upload]) -> Store:
    """Prepares a destination for a job: checks it, writes `job.json` and the user's files.

    Raises DestinationOccupiedError if it holds another job or other files.
    """
    store = open_store(destination)
    if not is_canonical(store.url):
        raise UsageError(f"destination {shown(store.url)} has characters that cannot be displayed: use another name")
    # First, since it fails soonest if an endpoint does not respond.
    store.check_writable()
    if check_free(spec, store) is None:
        for upload in uploads:
            upload.write(store)
        store.write(shards.JOB, spec.to_json().encode())
    return store


def check_free(spec: JobSpec, store: Store) -> JobSpec | None:
    """The spec at a destination if it is the same job's; None if the destination is empty.

    Raises DestinationOccupiedError if it holds another job or other files.
    """
    present = read_spec(store)
    if present is None:
        _refuse_other_files(store)
    elif present.sha256 != spec.sha256:
        raise DestinationOccupiedError(
            f"{store.url} holds another job ({difference(present, spec)}): use another destination, "
            f"or {_suggestion(present, spec, store.url)}"
        )
    return present


def spec_as_begun(spec: JobSpec, store: Store) -> JobSpec:
    """The spec with blocks of latents and names of folders as the destination's job has them, if otherwise the same.

    Large latents were drawn in larger blocks before (docs/decisions/0097-blocks-of-large-latents.md), and class names
    lost letters that are not ASCII (docs/decisions/0110-folders-and-metadata.md).
    """
    blocks = dict.fromkeys((spec.latent_block, LATENT_BLOCK))
    styles = dict.fromkeys((spec.folder_names, shards.ASCII_FOLDERS))
    choices = [replace(spec, latent_block=block, folder_names=style) for block in blocks for style in styles]
    if len(choices) == 1:
        return spec
    present = read_spec(store)
    return next((each for each in choices if present is not None and present.sha256 == each.sha256), spec)


def read_spec(store: Store) -> JobSpec | None:
    """The spec at a destination; None if there is none. Raises DatasetError if it is malformed."""
    try:
        text = read_record(store, shards.JOB)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return JobSpec.from_json(text, source=f"{store.url}/{shards.JOB}")


def spec_at(destination: str) -> tuple[JobSpec, str]:
    """Spec and normalized destination of the job there. Raises DatasetError if there is none."""
    store = open_store(destination)
    spec = read_spec(store)
    if spec is None:
        raise DatasetError(f"{store.url} holds no job: there is no {shards.JOB} to resume from")
    return spec, store.url


def _refuse_other_files(store: Store) -> None:
    other = next(iter(store.list("")), None)
    if other is not None:
        raise DestinationOccupiedError(
            f"{store.url} is not empty and holds no job (there is {other.name!r}): use an empty or new destination"
        )


def _suggestion(present: JobSpec, wanted: JobSpec, url: str) -> str:
    if present.samples_sha256 == wanted.samples_sha256 and present.count < wanted.count:
        return f"'noisemill extend {quote(url)} --count {wanted.count}' to extend that one"
    return f"'noisemill resume {quote(url)}' to complete that one"


def difference(present: JobSpec, wanted: JobSpec) -> str:
    names = (
        "count",
        "seed",
        "digest",
        "shard_size",
        "format",
        "dtype",
        "layout",
        "folder_names",
        "labels",
        "noise",
        "latent_block",
        "latents",
        "attributes",
        "settings",
        "sampler",
        "best_of",
        "judge_digest",
        "enough",
        "min_score",
        "batch",
    )
    different = [name for name in names if getattr(present, name) != getattr(wanted, name)]
    pairs = [
        f"{name.replace('_', ' ')} {getattr(present, name)}, not {getattr(wanted, name)}" for name in different[:3]
    ]
    return "; ".join(pairs) or "of another kind"
