"""Verifies a dataset against its records, and computes samples again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.common.errors import DatasetError, WorkerError
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import (
    NOT_REPRODUCIBLE,
    Manifest,
    Receipt,
    distinct_engines,
    merged_statistics,
    scores_of_all,
)
from pipeline.generators import find_judge_named_by_data, find_named_by_data
from pipeline.spec import plan as shards
from pipeline.spec.labels import Labels
from pipeline.spec.selection import Selection

_PIECE_BYTES = 4 * 2**20


@dataclass
class Report:
    """The result of a verification."""

    destination: str
    #: Samples and shards that should be there.
    count: int
    shards: int
    #: The shards that should be there; None for all.
    selection: str | None = None
    #: Shards whose files all exist with the right hashes.
    shards_sound: int = 0
    samples_sound: int = 0
    bytes_checked: int = 0
    #: Problems, one line each.
    problems: list[str] = field(default_factory=list)
    #: Shards that are missing or damaged.
    damaged: list[int] = field(default_factory=list)
    #: Whether `resume` can repair at least some of the problems.
    mendable: bool = False
    #: Hash of manifest.json; None if there is none.
    manifest_sha256: str | None = None
    #: Notes that are not problems.
    notes: list[str] = field(default_factory=list)
    #: Comparison of samples that were computed again; None if none were.
    recomputed: Recomputed | None = None

    @property
    def sound(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"sound": self.sound, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """Comparison of samples that were computed again with the stored ones."""

    samples: int
    #: Samples whose stored values are equal bit for bit.
    identical: int
    #: Greatest difference, as a share of full scale.
    largest_difference: float
    #: Indices of samples that differ by more than the tolerance.
    different: tuple[int, ...]
    #: Largest difference that counts as equal, as a share of full scale.
    tolerance: float
    #: Whether they can be expected to be equal.
    reproducible: bool = True


def verify(
    destination: str,
    *,
    recompute: int = 0,
    manifest_sha256: str | None = None,
    generator: str | None = None,
    judge: str | None = None,
    trust_generator: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Checks every record and every byte of a dataset; computes `recompute` random samples again.

    The manifest covers the index of shards, the index covers the receipts, and these cover all files. So
    `manifest_sha256`, the hash of manifest.json in 64 hexadecimal digits, detects any change by someone who can write
    to the destination.

    Samples are computed with the generator and the judge that the dataset names, if the user has named them here before
    or `trust_generator` is true, else with `generator` and `judge`.

    `progress` is called with (shards checked, shards). Raises DatasetError if there is no dataset, GeneratorError if
    its generator is not trusted.
    """
    dataset = Dataset(destination)
    report = Report(destination=dataset.url, count=dataset.spec.count, shards=len(dataset.plan))
    selection = _checked_selection(dataset, report)
    if selection is not None:
        report.selection = str(selection)
        report.count, report.shards = selection.samples(dataset.plan), len(selection)
    receipts = _check_shards(dataset, report, selection or range(len(dataset.plan)), progress)
    if selection is None:
        _check_manifest(dataset, report, receipts)
    report.mendable = bool(report.problems)
    if manifest_sha256 is not None and report.manifest_sha256 != manifest_sha256.lower():
        found = f"its hash is {report.manifest_sha256}" if report.manifest_sha256 else "there is none"
        report.problems.append(f"{shards.MANIFEST} is not the one that --manifest-sha256 names: {found}")
    report.problems += damaged_inputs(dataset)
    _check_unknown_files(dataset, report, receipts)
    _note_repeats(report, receipts)
    if recompute and receipts and dataset.spec.format != "null":
        named = find_named_by_data(dataset.spec.generator, generator=generator, trust=trust_generator)
        spec = dataset.spec
        judging = (
            find_judge_named_by_data(spec.judge, judge=judge, trust=trust_generator).reference if spec.judge else None
        )
        _check_recomputed(dataset, report, receipts, recompute, named.reference, judging)
    return report


def _checked_selection(dataset: Dataset, report: Report) -> Selection | None:
    """The selection, unless a manifest or an index contradicts it.

    No record covers selection.json, so it must not exempt files of a complete dataset from the check. Manifest and
    index are written only after all shards were made, and the selection is deleted before the manifest is written.
    """
    selection = dataset.selection()
    if selection is None:
        return None
    contradicting = next((name for name in (shards.MANIFEST, shards.SHARD_INDEX) if dataset.store.exists(name)), None)
    if contradicting is None:
        report.notes.append("a selection has no manifest: files were compared with their receipts only")
        return selection
    report.problems.append(
        f"{shards.SELECTION} lists some shards only, but {contradicting} covers all: remove {shards.SELECTION}"
    )
    return None


def damaged_among(dataset: Dataset, indices: Iterable[int]) -> list[int]:
    """The shards of `indices` whose files do not match their receipts."""
    made = list(indices)
    report = Report(destination=dataset.url, count=0, shards=len(made))
    _check_shards(dataset, report, made, None)
    return report.damaged


def _check_shards(
    dataset: Dataset, report: Report, indices: Iterable[int], progress: Callable[[int, int], None] | None
) -> dict[int, Receipt]:
    """Hashes all files; returns the receipts of intact shards."""
    sound = {}
    missing = 0
    for done, index in enumerate(indices):
        shard = dataset.plan[index]
        if progress is not None:
            progress(done, report.shards)
        try:
            receipt = dataset.receipt(shard.index)
            if receipt is None:
                missing += 1
                report.damaged.append(shard.index)
                continue
            _check_shard(dataset, receipt, report)
        except (DatasetError, OSError) as error:
            report.problems.append(f"shard {shard.index}: {error}")
            report.damaged.append(shard.index)
            continue
        sound[shard.index] = receipt
        report.shards_sound += 1
        report.samples_sound += shard.count
    if missing:
        report.problems.append(f"{missing} of {report.shards} shards have not been made")
    return sound


def _check_shard(dataset: Dataset, receipt: Receipt, report: Report) -> None:
    shard = dataset.plan[receipt.shard]
    labels = dataset.labels(shard.first, shard.count)
    for file in receipt.files:
        digest, size = _hash(dataset, file.name)
        report.bytes_checked += size
        if size != file.size_bytes:
            raise DatasetError(f"{file.name} has {size:,} bytes, its receipt says {file.size_bytes:,}")
        if digest != file.sha256:
            raise DatasetError(f"{file.name} is damaged: its hash is not the receipt's")
    counted = None if labels is None else _class_counts(labels, len(dataset.spec.classes or ()))
    if counted != receipt.statistics.classes:
        raise DatasetError("its receipt counts other classes than the plan")


def _hash(dataset: Dataset, name: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        with dataset.store.open(name) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        raise DatasetError(f"{name} is missing") from None
    return digest.hexdigest(), size


def _class_counts(labels: Labels, classes: int) -> tuple[int, ...]:
    return tuple(int(number) for number in np.bincount(labels, minlength=classes))


def damaged_inputs(dataset: Dataset) -> list[str]:
    """Problems of the user's latents, attributes and labels: files whose hashes differ."""
    problems = []
    for name, sha256 in dataset.spec.user_files().items():
        try:
            if _hash(dataset, name)[0] != sha256:
                problems.append(f"{name} is damaged: its hash is not the one of {shards.JOB}; put the original back")
        except (DatasetError, OSError) as error:
            problems.append(str(error))
    return problems


def _check_manifest(dataset: Dataset, report: Report, receipts: dict[int, Receipt]) -> None:
    try:
        manifest = dataset.manifest()
        if manifest is None:
            report.problems.append(f"there is no {shards.MANIFEST}: the dataset is not whole")
            return
        report.manifest_sha256 = manifest.sha256
        report.problems += _manifest_problems(dataset, manifest, receipts, report)
    except DatasetError as error:
        report.problems.append(str(error))


def _manifest_problems(dataset: Dataset, manifest: Manifest, receipts: dict[int, Receipt], report: Report) -> list[str]:
    spec = dataset.spec
    recorded = (manifest.spec_sha256, manifest.count, manifest.shards, manifest.generator, manifest.digest)
    if recorded != (spec.sha256, spec.count, len(dataset.plan), spec.generator_name, spec.digest):
        return [f"{shards.MANIFEST} belongs to another job than {shards.JOB}"]
    try:
        index = dataset.store.read(shards.SHARD_INDEX)
    except FileNotFoundError:
        return [f"{shards.SHARD_INDEX} is missing"]
    if hashlib.sha256(index).hexdigest() != manifest.index_sha256:
        return [f"{shards.SHARD_INDEX} is damaged: its hash is not the manifest's"]
    lines = index.decode(errors="replace").splitlines(keepends=True)
    if len(lines) != manifest.shards:
        return [f"{shards.SHARD_INDEX} has {len(lines)} lines for {manifest.shards} shards"]
    problems = []
    changed = [number for number, receipt in receipts.items() if lines[number] != receipt.index_line()]
    if changed:
        # Counted as damaged, so that `resume` makes these shards again instead of writing an index that matches them.
        report.damaged = sorted([*report.damaged, *changed])
        report.shards_sound -= len(changed)
        report.samples_sound -= sum(receipts[number].count for number in changed)
        problems.append(
            f"the receipt of shard {changed[0]} is not the one of {shards.SHARD_INDEX} ({len(changed)} in all)"
        )
    ordered = [receipts[number] for number in sorted(receipts)]
    if len(ordered) == manifest.shards and not changed:
        totals = (manifest.size_bytes, manifest.statistics, manifest.scores)
        size_bytes = sum(receipt.size_bytes for receipt in ordered)
        if totals != (size_bytes, merged_statistics(ordered), scores_of_all(ordered)):
            problems.append(f"{shards.MANIFEST} has another size or other statistics than the receipts")
        if manifest.made_by != distinct_engines(ordered):
            problems.append(f"{shards.MANIFEST} names other engines or versions than the receipts")
    return problems


def _check_unknown_files(dataset: Dataset, report: Report, receipts: dict[int, Receipt]) -> None:
    """Reports files among the shards that no receipt names: readers of whole folders would read them."""
    known = {file.name for receipt in receipts.values() for file in receipt.files}
    mine = tuple(f"{folder}/" for folder in (shards.SHARDS, shards.IMAGES))
    unknown_files = [
        entry.name for entry in dataset.store.list("") if entry.name.startswith(mine) and entry.name not in known
    ]
    if unknown_files and not report.damaged:
        report.problems.append(
            f"{len(unknown_files)} files belong to no shard: remove them, the first is {unknown_files[0]}"
        )


def _note_repeats(report: Report, receipts: dict[int, Receipt]) -> None:
    repeated = sum(receipt.statistics.repeated for receipt in receipts.values())
    constant = sum(receipt.statistics.constant for receipt in receipts.values())
    if repeated:
        report.notes.append(f"{repeated:,} samples equal another sample of their shard: has the generator collapsed?")
    if constant:
        report.notes.append(f"{constant:,} samples are constant: all their values are the same")
    scores = [receipt.candidates.scores for receipt in receipts.values() if receipt.candidates is not None]
    below = sum(sum(each.winners_below or ()) for each in scores if each is not None)
    if below:
        report.notes.append(f"{below:,} samples are below the minimum score: `Dataset.below_min_score` lists them")


def _check_recomputed(
    dataset: Dataset,
    report: Report,
    receipts: dict[int, Receipt],
    count: int,
    generator: str,
    judge: str | None,
) -> None:
    """Draws random samples of intact shards and computes them again in a process of its own."""
    random = np.random.default_rng()
    pool = np.concatenate([np.arange(receipt.first, receipt.first + receipt.count) for receipt in receipts.values()])
    indices = sorted(int(index) for index in random.choice(pool, size=min(count, len(pool)), replace=False))
    command = python_command("workers.once.recompute", dataset.url)
    asked = json.dumps({"indices": indices, "generator": generator, "judge": judge})
    with tempfile.TemporaryDirectory(prefix="noisemill-recompute-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, env=environment, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkerError(f"samples could not be computed again: {error_from_stderr(done.stderr)}")
    answer = json.loads(done.stdout)
    recomputed = Recomputed(**{**answer, "different": tuple(answer["different"])})
    report.recomputed = recomputed
    if recomputed.different:
        finding = (
            f"{len(recomputed.different)} of {recomputed.samples} recomputed samples differ by more than "
            f"{recomputed.tolerance:g} of full scale, the first is {recomputed.different[0]}"
        )
        if recomputed.reproducible:
            report.problems.append(finding)
        else:
            report.notes.append(f"{finding}; that is not damage, the generator is {NOT_REPRODUCIBLE}")
