"""One PNG per sample: in a folder per shard, or in a folder per class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError
from pipeline.formats.format import BatchChecker, Labels, check_image, check_listed, labels_of, malformed, row_range
from pipeline.formats.image import decode_image, encode_pngs
from pipeline.spec.job_spec import SampleType
from pipeline.spec.plan import Shard, sample_stem, shard_name
from pipeline.stores.store import Draft, Store

_METADATA = "metadata.jsonl"

#: Small files read at the same time: on S3 each costs a round trip.
_READERS = 16


class PngFormat:
    """PNG files named by the index of their sample in 12 digits.

    Layout "flat" puts a shard's files into `shards/00000000/`, with their classes in a `metadata.jsonl` for Hugging
    Face's imagefolder. Layout "class" puts them into `images/<class>/` for Keras and torchvision, without
    `metadata.jsonl`, since readers would then ignore the folders.
    """

    name = "png"
    dtypes: tuple[str, ...] = ("uint8",)
    layouts: tuple[str, ...] = ("flat", "class")
    libraries: tuple[str, ...] = ()
    per_sample = True

    def default_dtype(self, shape: tuple[int, ...]) -> str:
        """Pixels."""
        return "uint8"

    def check(self, sample: SampleType) -> None:
        """Accepts images of 1, 3 or 4 channels; for layout "class", classes with different folder names."""
        check_listed(self, sample)
        check_image(self.name, sample)
        if sample.layout == "class":
            _check_classes(sample.class_names)

    def writer(self, draft: Draft, shard: Shard, sample: SampleType) -> PngWriter:
        """Adds one file per sample."""
        return PngWriter(draft, shard, sample)

    def names(self, shard: Shard, sample: SampleType, labels: Labels | None) -> list[str]:
        """The images in the order of their samples, then metadata.jsonl if there are classes and the layout is flat."""
        images = _image_names(shard, sample, labels, range(shard.count))
        return [*images, _metadata_name(shard)] if _has_metadata(sample) else images

    def read(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None
    ) -> tuple[NDArray[Any], Labels | None]:
        """All images; labels from metadata.jsonl, or from the folders where the files were found."""
        samples = self.read_rows(store, shard, sample, labels, slice(None))
        if _has_metadata(sample):
            return samples, _read_metadata(store, shard)
        return samples, labels if sample.layout == "class" else None

    def read_rows(
        self, store: Store, shard: Shard, sample: SampleType, labels: Labels | None, rows: slice
    ) -> NDArray[Any]:
        """The files of these samples only."""
        wanted = row_range(shard, rows)
        planned = None if labels is None else labels[wanted.start : wanted.stop]
        names = _image_names(shard, sample, planned, wanted)
        samples = np.empty((len(names), *sample.shape), dtype=np.uint8)
        with ThreadPoolExecutor(_READERS) as readers:
            images = readers.map(lambda name: _read_image(store, name, sample.shape), names)
            for row, image in enumerate(images):
                samples[row] = image
        return samples


class PngWriter:
    """Encodes one shard, batch by batch."""

    def __init__(self, draft: Draft, shard: Shard, sample: SampleType) -> None:
        self._draft = draft
        self._shard = shard
        self._sample = sample
        self._intake = BatchChecker(shard, sample)
        #: Names and files of the last batch, perhaps still being encoded.
        self._encoding: Iterable[tuple[str, bytes]] = ()

    def write(self, samples: NDArray[Any], labels: Labels | None) -> None:
        """Adds the images."""
        first = self._intake.take(samples, labels)
        row = first - self._shard.first
        names = _image_names(self._shard, self._sample, labels, range(row, row + len(samples)))
        # The batch before is written while this one is encoded.
        encoding, self._encoding = self._encoding, zip(names, encode_pngs(samples), strict=True)
        self._add_all(encoding)

    def close(self) -> None:
        """Adds the last batch and metadata.jsonl."""
        self._intake.finish()
        self._add_all(self._encoding)
        classes = self._sample.class_names
        if classes is not None and _has_metadata(self._sample):
            lines = _metadata_lines(self._shard, classes, self._intake.labels)
            self._draft.add(_metadata_name(self._shard), "".join(lines).encode())

    def _add_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        for name, data in files:
            self._draft.add(name, data)


def _check_classes(class_names: tuple[str, ...] | None) -> None:
    if class_names is None:
        raise UsageError("layout 'class' needs a generator with classes: use layout 'flat'")
    if len(set(class_names)) < len(class_names):
        raise UsageError("two classes have the same name, so they would share a folder: use layout 'flat'")


def _image_names(shard: Shard, sample: SampleType, labels: Labels | None, rows: range) -> list[str]:
    """Names of the images `rows` of a shard. Raises ValueError if their `labels` are needed and None."""
    stems = [sample_stem(shard.first + row) for row in rows]
    if sample.layout == "flat":
        folder = shard_name(shard.index, "")
        return [f"{folder}/{stem}.png" for stem in stems]
    if labels is None or sample.class_names is None:
        raise ValueError("the layout 'class' needs labels")
    folders = sample.class_folders
    return [f"{folders[label]}/{stem}.png" for label, stem in zip(labels, stems, strict=True)]


def _has_metadata(sample: SampleType) -> bool:
    return sample.layout == "flat" and sample.class_names is not None


def _metadata_name(shard: Shard) -> str:
    return f"{shard_name(shard.index, '')}/{_METADATA}"


def _metadata_lines(shard: Shard, class_names: tuple[str, ...], labels: Labels) -> Iterator[str]:
    for row, label in enumerate(labels.tolist()):
        file_name = f"{sample_stem(shard.first + row)}.png"
        line = {"file_name": file_name, "label": label, "class": class_names[label]}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _read_metadata(store: Store, shard: Shard) -> Labels:
    name = _metadata_name(shard)
    with malformed(store, name):
        lines = store.read(name).decode().removesuffix("\n").split("\n")
        stems = [sample_stem(shard.first + row) for row in range(len(lines))]
        return labels_of([_label_of(*pair) for pair in zip(lines, stems, strict=True)], shard)


def _label_of(line: str, stem: str) -> int:
    """The label of the sample `stem`, from its line of metadata. Raises ValueError if the line is another sample's."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("file_name") != f"{stem}.png" or type(fields.get("label")) is not int:
        raise ValueError(f"{line[:80]!r} is not the line of {stem}.png")
    return int(fields["label"])


def _read_image(store: Store, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    with malformed(store, name):
        return decode_image(store.read(name), shape)
