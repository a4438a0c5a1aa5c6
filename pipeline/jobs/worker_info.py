"""What the ledger tells of a worker: what it announces of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.common.text import is_one_line
from pipeline.stores import is_canonical

#: Of destinations that a worker cannot write to it remembers so many.
UNREACHABLE_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """What a worker announces of itself."""

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
    #: Folders and buckets that it may write below.
    output_roots: tuple[str, ...]
    #: Unix time, by the worker's own clock.
    started_at: float
    version: str
    #: Destinations that it could not write to of late, though they lie below its output roots.
    unreachable: tuple[str, ...] = ()
    #: Id of the job that it is making; None while idle.
    job: str | None = None
    #: What it has made since it started.
    samples: int = 0
    #: Messages since it started that were no wake-ups.
    messages_refused: int = 0
    #: For how long it has been up, seconds.
    up_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def may_write(self, destination: str) -> bool:
        """Whether the destination lies below one of its output roots (`output_allowed`), and it did not fail there."""
        return destination not in self.unreachable and output_allowed(destination, self.output_roots)


def output_allowed(destination: str, roots: Sequence[str]) -> bool:
    """Whether a worker with these output roots may write to a destination (both normalised).

    Local folders must lie below a local root. S3 is free unless a root names a bucket. A destination with '..' in
    it, or none that `normalise` would answer, is nobody's. Links are not looked at: where the paths are is another
    machine's matter, and the worker resolves them when it writes.
    """
    if not is_canonical(destination):
        return False
    s3 = destination.startswith("s3://")
    candidates = [root for root in roots if root.startswith("s3://") == s3]
    if s3 and not candidates:
        return True
    return any(destination == root or destination.startswith(root.rstrip("/") + "/") for root in candidates)


def roots_in_words(roots: Sequence[str]) -> str:
    """Where workers with these output roots do write, for messages.

    A link that leads elsewhere on another machine shows here: destinations and roots are told without links.
    """
    several = sorted(set(roots))
    return (
        f"output roots: {', '.join(several[:3])}{', ...' if len(several) > 3 else ''}" if several else "no output root"
    )


def read_worker(text: str) -> WorkerInfo | None:
    """What a worker announced; None where it is none that a worker would write. A newer one's fields are left out."""
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
    numbers = (worker.batch, worker.rate, worker.started_at, worker.samples, worker.messages_refused)
    words: list[Any] = [*texts, *worker.output_roots, *worker.unreachable, *(worker.classes or ()), worker.job or ""]
    is_sound = (
        all(isinstance(word, str) and is_one_line(word) for word in words)
        and all(type(number) in (int, float) and 0 <= number < 1e18 for number in numbers)
        and all(type(size) is int for size in (worker.pid, *worker.latent_shape, *worker.sample_shape))
    )
    return worker if is_sound else None
