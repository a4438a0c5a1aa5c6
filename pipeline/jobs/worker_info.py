"""The announcement of a worker in the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.common.text import is_one_line
from pipeline.stores import is_canonical

#: The number of unwritable destinations that a worker remembers.
UNREACHABLE_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """The announcement of a worker."""

    id: str
    host: str
    pid: int
    #: Name and digest of the generator that it holds.
    generator: str
    digest: str
    latent_shape: tuple[int, ...]
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    #: "cpu" or "gpu:0".
    device: str
    #: Engine, batch and samples per second that its calibration found.
    engine: str
    batch: int
    rate: float
    #: How often the network was evaluated for each of them: more than once where it is a denoiser.
    evaluations: int = 1
    #: Folders and buckets below which it may write.
    output_roots: tuple[str, ...]
    #: Unix time, by the worker's own clock.
    started_at: float
    version: str
    #: Destinations below its output roots that it could not write to recently.
    unreachable: tuple[str, ...] = ()
    #: Id of the job that it is making; None while idle.
    job: str | None = None
    #: Samples made since it started.
    samples: int = 0
    #: Messages since it started that were not wake-ups.
    messages_refused: int = 0
    #: Time since it started, seconds.
    up_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def may_write(self, destination: str) -> bool:
        """Whether a destination is below one of its output roots (`output_allowed`) and not known as unwritable."""
        return destination not in self.unreachable and output_allowed(destination, self.output_roots)


def output_allowed(destination: str, roots: Sequence[str]) -> bool:
    """Whether a worker with these output roots may write to a destination (both normalized).

    Local folders must be below a local root. All of S3 is allowed unless a root names a bucket. A destination with
    '..', or one that `normalise` would not return, is never allowed. Links are not resolved, since the paths may be
    those of another machine; the worker resolves them when it writes.
    """
    if not is_canonical(destination):
        return False
    s3 = destination.startswith("s3://")
    candidates = [root for root in roots if root.startswith("s3://") == s3]
    if s3 and not candidates:
        return True
    return any(destination == root or destination.startswith(root.rstrip("/") + "/") for root in candidates)


def describe_roots(roots: Sequence[str]) -> str:
    """A description of where workers with these output roots may write, for messages.

    Destinations and roots are shown with links resolved, so a link with another target on another machine is visible.
    """
    several = sorted(set(roots))
    return (
        f"output roots: {', '.join(several[:3])}{', ...' if len(several) > 3 else ''}" if several else "no output root"
    )


def read_worker(text: str) -> WorkerInfo | None:
    """Parses an announcement; None if it is invalid. Unknown fields of a newer version are ignored."""
    try:
        data = json.loads(text)
        known = {field.name: data[field.name] for field in fields(WorkerInfo) if field.name in data}
        for name in ("latent_shape", "sample_shape", "output_roots"):
            known[name] = tuple(known[name])
        known["unreachable"] = tuple(known.get("unreachable", ()))
        known["classes"] = tuple(known["classes"]) if known["classes"] else None
        worker = WorkerInfo(**known)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (worker.id, worker.host, worker.generator, worker.digest, worker.device, worker.engine, worker.version)
    counted = (worker.batch, worker.evaluations, worker.samples, worker.messages_refused)
    numbers: tuple[float, ...] = (worker.rate, worker.started_at, *counted)
    words: list[Any] = [*texts, *worker.output_roots, *worker.unreachable, *(worker.classes or ()), worker.job or ""]
    is_sound = (
        all(isinstance(word, str) and is_one_line(word) for word in words)
        and all(type(number) in (int, float) and 0 <= number < 1e18 for number in numbers)
        and all(type(size) is int for size in (worker.pid, *worker.latent_shape, *worker.sample_shape))
    )
    return worker if is_sound else None
