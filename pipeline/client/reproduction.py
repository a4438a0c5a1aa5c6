"""Makes the dataset of a recipe, or some of its shards, and compares it with the original."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.client.making import LocalRun, PlannedJob
from pipeline.client.recipes import recipe_generator, recipe_uploads
from pipeline.common.errors import UsageError, shown
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.destination import check_free, read_spec
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.receipts import EngineRecord
from pipeline.datasets.recipe import DIFFERENT, UNCOMPARABLE, VERDICTS, Recipe
from pipeline.datasets.repair import withdraw_damaged_shards
from pipeline.generators import Generator, same_judge
from pipeline.jobs.following import raise_unless_done, wait_for
from pipeline.jobs.ledger import Ledger, QueueOptions
from pipeline.jobs.queueing import destination_lease
from pipeline.spec import plan as shards
from pipeline.spec.selection import Selection, parse_selection
from pipeline.stores import open_store


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One shard compared with the recipe."""

    shard: int
    first: int
    count: int
    #: "bit-equal", "within tolerance", "different" or "not reproducible".
    verdict: str
    #: Root mean square difference as a share of full scale; None if unknown.
    difference: float | None
    #: Engine that made it now.
    made_by: EngineRecord


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The result of `reproduce`."""

    destination: str
    #: The selected shards; None for all.
    selection: str | None
    #: Number of shards of the whole dataset.
    of: int
    tolerance: float
    shards: tuple[Compared, ...]
    #: Differences from the recipe's conditions that can change bits: engine, batch, device, versions.
    conditions: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether no shard is different, leaving out those that are not reproducible."""
        return not self.counts()[DIFFERENT]

    def counts(self) -> Counter[str]:
        """Shards by verdict."""
        return Counter(each.verdict for each in self.shards)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        counts = self.counts()
        document = {
            "same": self.same,
            "counts": {name: counts[name] for name in VERDICTS if counts[name] or name != UNCOMPARABLE},
        }
        return {**document, **asdict(self)}


def reproduce(
    recipe: Recipe,
    destination: str | os.PathLike[str],
    run: LocalRun,
    *,
    ledger: Ledger | None = None,
    only: str | None = None,
    generator: str | None = None,
    judge: str | None = None,
    trust_generator: bool = False,
    files: Mapping[str, str | None] | None = None,
) -> Reproduction:
    """Makes the dataset of a recipe, or the shards `only` ("17,20-25"), and compares each shard.

    Makes it on this machine; given a `ledger`, queues the job there, for at most `run.workers` workers (0: any number),
    and waits. Engine and batch are the recipe's. Intact shards of the same dataset at the destination are not made
    again. `files` are paths of the user's "latents", "attributes" and "labels" that were too large for the recipe.
    Raises a subclass of NoisemillError.
    """
    chosen = parse_selection(only, recipe.spec.plan) if only is not None else None
    if chosen is not None and len(chosen) == len(recipe.spec.plan):
        chosen = None
    store = open_store(destination)
    fresh = read_spec(store) is None
    uploads = recipe_uploads(recipe, **(files or {})) if fresh else []
    check_free(recipe.spec, store)
    found = recipe_generator(recipe, generator, trust=trust_generator)
    judging = same_judge(recipe.spec, judge, trust=trust_generator)
    spec = replace(recipe.spec, generator=found.reference, judge=judging.reference if judging else None)
    job = PlannedJob(found, spec, uploads).at(store.url)
    made_by = recipe.made_by[0]

    def prepare() -> None:
        if chosen is not None:
            _record_selection(Dataset(store.url), chosen, fresh=fresh)
        if not fresh:
            # Existing shards are compared by their receipts, so the receipts must be right.
            withdraw_damaged_shards(Dataset(store.url), _present(Dataset(store.url), chosen))

    if ledger is None:
        job.make_here((found, judging), run, only=chosen, made_by=made_by, prepare=prepare)
    else:
        lease = destination_lease(store.url, f"job {spec.job_id(store.url)}", ledger)
        with lease.held():
            prepare()
            handle = job.enqueue(ledger, QueueOptions(parallel=run.workers), only=chosen, made_by=made_by, lease=lease)
        raise_unless_done(wait_for(ledger, handle.id, run.watcher, enters_again=True))
    return _compared(recipe, store.url, chosen, found)


def _present(dataset: Dataset, chosen: Selection | None) -> list[int]:
    return [index for index in dataset.receipts() if chosen is None or index in chosen]


def _record_selection(dataset: Dataset, chosen: Selection, *, fresh: bool) -> None:
    """Records at the destination that it has these shards only, unless it has all."""
    before = dataset.selection()
    if before is not None or fresh:
        wanted = chosen if before is None else before | chosen
        dataset.store.write(shards.SELECTION, wanted.to_json().encode())


def _compared(recipe: Recipe, destination: str, chosen: Selection | None, generator: Generator) -> Reproduction:
    dataset = Dataset(destination)
    finished = dataset.finished()
    if len(finished) == len(dataset.plan) and not dataset.whole:
        finish_dataset(
            destination,
            dataset.spec.job_id(destination),
            reproducible=recipe.reproducible,
            about=generator.about,
        )
    compared = []
    for index in chosen or range(len(dataset.plan)):
        receipt = finished.get(index)
        if receipt is None:
            raise UsageError(f"shard {index} disappeared from {shown(destination)} while it was compared")
        verdict, difference = recipe.compare(receipt)
        compared.append(
            Compared(
                shard=index,
                first=receipt.first,
                count=receipt.count,
                verdict=verdict,
                difference=difference,
                made_by=receipt.made_by,
            )
        )
    return Reproduction(
        destination=dataset.url,
        selection=None if chosen is None else str(chosen),
        of=len(dataset.plan),
        tolerance=recipe.tolerance,
        shards=tuple(compared),
        conditions=_conditions(recipe, compared),
    )


def _conditions(recipe: Recipe, compared: list[Compared]) -> tuple[str, ...]:
    """Descriptions of how engine, batch, device or versions differ from the recipe's."""
    differences: dict[str, None] = {}
    for here in {str(each.made_by): each.made_by for each in compared}.values():
        if here in recipe.made_by:
            continue
        there = recipe.made_by[0]
        pairs = [(name, getattr(there, name), getattr(here, name)) for name in _CONDITIONS]
        pairs += [(name, there.versions.get(name), here.versions.get(name)) for name in here.versions]
        differences |= {f"{name.replace('_', ' ')} {new}, not {old}": None for name, old, new in pairs if old != new}
    return tuple(differences)


_CONDITIONS = ("engine", "batch", "precision", "device", "device_name")
