"""The last step of a job: contact sheet, card, Croissant metadata, index of shards and, last of all, the manifest.

Every part is made from the files at the destination, so that it can be made again at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable

from pipeline.common.errors import DatasetError
from pipeline.common.version import VERSION
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import Manifest, Receipt, distinct_engines, merged_statistics, scores_of_all
from pipeline.datasets.report.card import dataset_card
from pipeline.datasets.report.croissant import croissant_metadata, lists_archives
from pipeline.datasets.report.preview import contact_sheet
from pipeline.spec import plan as shards
from pipeline.spec.about import About


def finish_dataset(destination: str, job_id: str, *, reproducible: bool = True, about: About | None = None) -> Manifest:
    """Writes preview, card, metadata, index and manifest of a dataset whose shards are all done.

    `reproducible`: whether its samples depend on their latents and labels only. `about`: of its generator.
    Raises DatasetError if a shard is missing or damaged.
    """
    dataset = Dataset(destination)
    receipts = dataset.finished()
    missing = [index for index in range(len(dataset.plan)) if index not in receipts]
    if missing:
        raise DatasetError(
            f"{dataset.url} is not whole: shard {missing[0]} is missing or damaged ({len(missing)} in all)"
        )
    ordered = [receipts[index] for index in range(len(dataset.plan))]
    index_text = "".join(receipt.index_line() for receipt in ordered).encode()
    manifest = Manifest(
        noisemill=VERSION,
        job=job_id,
        spec_sha256=dataset.spec.sha256,
        generator=dataset.spec.generator_name,
        digest=dataset.spec.digest,
        count=dataset.spec.count,
        shards=len(ordered),
        size_bytes=sum(receipt.size_bytes for receipt in ordered),
        index_sha256=hashlib.sha256(index_text).hexdigest(),
        statistics=merged_statistics(ordered),
        made_by=distinct_engines(ordered),
        finished_at=time.time(),
        reproducible=reproducible,
        about=about or About(),
        scores=scores_of_all(ordered),
    )
    # All shards are in place: remaining drafts belong to workers that have lost their leases.
    dataset.store.sweep(older_than_s=0)
    sheet = contact_sheet(dataset)
    if sheet is not None:
        dataset.store.write(shards.PREVIEW, sheet)
    write_card(dataset, manifest, ordered, has_preview=sheet is not None)
    dataset.store.write(shards.SHARD_INDEX, index_text)
    if Dataset(destination).spec != dataset.spec:
        raise DatasetError(f"{dataset.url} has become another job's")
    dataset.store.delete([shards.SELECTION])
    dataset.store.write(shards.MANIFEST, manifest.to_json().encode())
    return manifest


def write_card(
    dataset: Dataset, manifest: Manifest, receipts: Iterable[Receipt], *, has_preview: bool, url: str | None = None
) -> None:
    """Writes the card and the Croissant metadata of a complete dataset, with all its receipts.

    `url` is its web page, if it has one.
    """
    card = dataset_card(dataset.spec, manifest, has_preview=has_preview, exported_from=dataset.exported_from)
    dataset.store.write(shards.CARD, card.encode())
    archives = [file for receipt in receipts for file in receipt.files] if lists_archives(dataset.spec) else []
    metadata = croissant_metadata(dataset.spec, manifest, archives=archives, url=url)
    text = json.dumps(metadata, ensure_ascii=False, indent=1) + "\n"
    dataset.store.write(shards.CROISSANT, text.encode())
