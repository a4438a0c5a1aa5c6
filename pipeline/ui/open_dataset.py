"""One dataset, opened for the page: its pages by class, contact sheet, single samples and their neighbours."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.report.pictures import shrunk
from pipeline.formats.image import image_shape
from pipeline.ui.class_index import ClassIndex
from pipeline.ui.pictures import cell_size, picture, sprite

#: Samples on a page, and bytes of samples that a page may read; large samples make smaller pages.
_PAGE, _PAGE_BYTES, _LEAST_PAGE = 100, 48 * 2**20, 12
#: Most samples in one image.
MOST_AT_ONCE = 128
#: Rows and columns of the contact sheet.
_SHEET_ROWS, _SHEET_COLUMNS = 10, 10
#: A dataset that is being made is looked at again after this time: on disk, and in S3, where each look costs, seconds.
_LOOK_S, _LOOK_S3_S = 0.7, 5.0
#: Samples among which neighbours are searched, bytes of them, samples read in a piece, and neighbours that are shown.
_POOL, _POOL_BYTES, _RUN, _NEIGHBOURS = 2048, 64 * 2**20, 16, 8
#: Sides of images and numbers of other samples by which they are compared.
_COMPARED_SIDE, _COMPARED_VALUES = 32, 4096
#: Numbers of a latent that are shown.
_LATENT = 1024


class OpenDataset:
    """A dataset and what the page derives from it. May be used by several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.spec = dataset.spec
        self._lock = threading.Lock()
        self._made_shards: set[int] = set()
        #: Shard that was not made -> when it was looked for.
        self._looked_at: dict[int, float] = {}
        self._pool: tuple[float, NDArray[np.int64], NDArray[np.float32]] | None = None
        self.page_size = max(_LEAST_PAGE, min(_PAGE, _PAGE_BYTES // self._sample_bytes))

    @cached_property
    def classes(self) -> ClassIndex | None:
        """Which samples are of which class; None for a generator without classes."""
        if self.spec.classes is None:
            return None

        def labels(first: int, count: int) -> NDArray[np.int32]:
            found = self.dataset.labels(first, count)
            assert found is not None
            return found

        return ClassIndex(labels, self.spec.count, len(self.spec.classes), balanced=self.spec.labels == "balanced")

    @property
    def _sample_bytes(self) -> int:
        return max(1, math.prod(self.spec.sample_shape) * np.dtype(self.spec.dtype).itemsize)

    @property
    def shown(self) -> bool:
        """Whether its samples can be shown: the format null stores none."""
        return self.spec.format != "null"

    def facts(self) -> dict[str, Any]:
        """What the page says of the dataset."""
        spec, manifest = self.spec, None
        try:
            manifest = self.dataset.manifest()
        except DatasetError as error:
            problem: str | None = str(error)
        else:
            problem = None
        whole = manifest is not None and manifest.spec_sha256 == spec.sha256
        width, height = cell_size(spec.sample_shape)
        return {
            "url": self.dataset.url,
            "version": spec.sha256[:12],
            "generator": spec.generator_name,
            "digest": spec.digest,
            "count": spec.count,
            "seed": spec.seed,
            "format": spec.format,
            "dtype": spec.dtype,
            "layout": spec.layout,
            "labels": spec.labels,
            "noise": spec.noise,
            "sampler": spec.sampler,
            "sample_shape": spec.sample_shape,
            "latent_shape": spec.latent_shape,
            "value_range": spec.value_range,
            "classes": spec.classes,
            "per_class": self.per_class(),
            "shards": len(spec.plan),
            "shard_size": spec.shard_size,
            "whole": whole,
            "size_bytes": manifest.size_bytes if manifest and whole else None,
            "finished_at": manifest.finished_at if manifest and whole else None,
            "problem": problem,
            "page_size": self.page_size,
            "cell": [width, height],
            "is_image": image_shape(spec.sample_shape) is not None,
            "shown": self.shown,
        }

    def per_class(self) -> list[int | None] | None:
        """Samples of each class by the plan; None for a class whose number is not known yet."""
        classes = self.classes
        if classes is None or self.spec.classes is None:
            return None
        return [classes.total(label) for label in range(len(self.spec.classes))]

    def page(self, number: int, label: int | None) -> dict[str, Any]:
        """The samples of a page, from page 0; of one class, or of all. Raises UsageError for an invalid class."""
        first = number * self.page_size
        if label is None:
            total: int | None = self.spec.count
            indices = list(range(first, min(self.spec.count, first + self.page_size)))
        else:
            classes = self._classes_with(label)
            indices = classes.members(label, first, self.page_size)
            total = classes.total(label)
        pages = None if total is None else max(1, -(-total // self.page_size))
        return {"page": number, "pages": pages, "total": total, **self.cells(indices)}

    def sheet(self) -> dict[str, Any]:
        """Samples from all over the dataset, one row per class if there are few classes."""
        columns, classes = _SHEET_COLUMNS, self.classes
        indices: list[int] = []
        rows: list[int] | None = None
        totals = self.per_class()
        if self.spec.format == "tar":
            indices = self._spread(_SHEET_ROWS, columns)
        elif classes is not None and totals is not None and None not in totals:
            rows = [label for label, total in enumerate(totals) if total][:_SHEET_ROWS]
            for label in rows:
                total = totals[label] or 0
                places = [total * column // columns for column in range(min(columns, total))]
                indices += [classes.members(label, place, 1)[0] for place in places]
        else:
            indices = self._spread(min(self.spec.count, _SHEET_ROWS * columns), 1)
        return {"rows": rows, "columns": columns, **self.cells(indices)}

    def cells(self, indices: Sequence[int]) -> dict[str, Any]:
        """Indices, their labels, and which are made."""
        made = self._made(indices)
        return {"indices": list(indices), "labels": self._labels(indices), "made": [index in made for index in indices]}

    def sprite(self, indices: Sequence[int]) -> tuple[bytes, str]:
        """These samples in one image, with its media type. Raises UsageError, DatasetError, StoreError."""
        if not 0 < len(indices) <= MOST_AT_ONCE:
            raise UsageError(f"an image holds 1 to {MOST_AT_ONCE} samples")
        for index in indices:
            self._check(index)
        return sprite(self._samples(indices), self.spec.value_range)

    def picture(self, index: int) -> tuple[bytes, str]:
        """One sample as an image, with its media type."""
        self._check(index)
        return picture(self._samples([index])[0], self.spec.value_range)

    def sample(self, index: int) -> dict[str, Any]:
        """What is known of one sample: label, latent, values, file, neighbours."""
        self._check(index)
        spec = self.spec
        shard = spec.plan[index // spec.shard_size]
        values = self._samples([index])[0]
        latent = self.dataset.latents(index)[0].reshape(-1)
        labels = self._labels([index])
        near, searched = self._neighbours(index, values)
        names = self.dataset.file_names(shard.index)
        return {
            "index": index,
            "label": None if labels is None else labels[0],
            "class": None if labels is None or spec.classes is None else spec.classes[labels[0]],
            "shard": shard.index,
            "row": index - shard.first,
            "file": names[index - shard.first] if spec.format == "png" else names[0],
            "minimum": float(values.min()),
            "maximum": float(values.max()),
            "mean": float(values.mean(dtype=np.float64)),
            "latent": [round(float(number), 4) for number in latent[:_LATENT]],
            "latent_dim": len(latent),
            "latent_norm": float(np.linalg.norm(latent.astype(np.float64))),
            "neighbours": near,
            "searched": searched,
        }

    @property
    def _remote(self) -> bool:
        return self.dataset.url.startswith("s3://")

    def _spread(self, runs: int, length: int) -> list[int]:
        """Samples from all over the dataset, in runs; of tar files, which are read from their start, the first ones."""
        spec = self.spec
        firsts = {spec.count * place // runs for place in range(runs)}
        if spec.format == "tar":
            firsts = {first // spec.shard_size * spec.shard_size for first in firsts}
        return sorted({index for first in firsts for index in range(first, min(spec.count, first + length))})

    def _check(self, index: int) -> None:
        if not self.shown:
            raise UsageError("this dataset stores no samples: its format is null")
        if not 0 <= index < self.spec.count:
            raise UsageError(f"there is no sample {index}: the dataset has {self.spec.count:,}")

    def _classes_with(self, label: int) -> ClassIndex:
        classes = self.classes
        if classes is None or not 0 <= label < len(self.spec.classes or ()):
            raise UsageError(f"there is no class {label}")
        return classes

    def _labels(self, indices: Sequence[int]) -> list[int] | None:
        if self.spec.labels is None:
            return None
        found = []
        for first, count in _runs(indices):
            labels = self.dataset.labels(first, count)
            assert labels is not None
            found += labels.tolist()
        return found

    def _samples(self, indices: Sequence[int]) -> NDArray[Any]:
        return np.concatenate([self.dataset.samples(first, count) for first, count in _runs(indices)])

    def _made(self, indices: Sequence[int]) -> set[int]:
        """Those of these samples that are made."""
        if not self.shown:
            return set()
        size = self.spec.shard_size
        shards = {index // size for index in indices}
        with self._lock:
            now, pause = time.monotonic(), _LOOK_S3_S if self._remote else _LOOK_S
            unknown = {
                shard for shard in shards - self._made_shards if now - self._looked_at.get(shard, -pause) >= pause
            }
            if unknown:
                self._made_shards |= self.dataset.made_of(unknown)
                self._looked_at |= dict.fromkeys(unknown - self._made_shards, now)
            return {index for index in indices if index // size in self._made_shards}

    def _neighbours(self, index: int, values: NDArray[Any]) -> tuple[list[dict[str, Any]], int]:
        """The nearest of some samples from all over the dataset, and the number of those."""
        indices, features = self._searched()
        if not len(indices):
            return [], 0
        difference = features - _features(values[None])
        distances = np.sqrt(np.mean(difference * difference, axis=1))
        nearest = [place for place in np.argsort(distances)[: _NEIGHBOURS + 1].tolist() if indices[place] != index]
        nearest = nearest[:_NEIGHBOURS]
        labels = self._labels([int(indices[place]) for place in nearest])
        found = [
            {
                "index": int(indices[place]),
                "label": None if labels is None else labels[number],
                "distance": float(distances[place]),
            }
            for number, place in enumerate(nearest)
        ]
        return found, len(indices)

    def _searched(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Indices of the samples that are searched for neighbours, and their features (n, d)."""
        with self._lock:
            if self._pool is not None and time.monotonic() - self._pool[0] < 60:
                return self._pool[1:]
        most = max(_RUN, min(_POOL, self.spec.count, _POOL_BYTES // self._sample_bytes))
        wanted = self._spread(-(-(most // 8 if self._remote else most) // _RUN), _RUN)
        size = self.spec.shard_size
        made_shards = self.dataset.made_of({index // size for index in wanted})
        made = [index for index in wanted if index // size in made_shards]
        features = _features(self._samples(made)) if made else np.empty((0, 1), np.float32)
        pool = (time.monotonic(), np.array(made, np.int64), features)
        with self._lock:
            self._pool = pool
        return pool[1:]


def _features(samples: NDArray[Any]) -> NDArray[np.float32]:
    """What samples are compared by, float32 (n, d)."""
    small = samples
    if image_shape(samples.shape[1:]) is not None:
        small = shrunk(samples, _COMPARED_SIDE)
    return small.reshape(len(samples), -1)[:, :_COMPARED_VALUES].astype(np.float32)


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive indices as (first, count)."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
