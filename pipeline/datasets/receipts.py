"""Receipts and the manifest, the records of the files at a destination."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pipeline.common.errors import DatasetError
from pipeline.datasets.candidates import Candidates, Scores, candidates_of, merged_scores, scores_record
from pipeline.datasets.sketch import WIDTH
from pipeline.spec.about import About, read_about
from pipeline.spec.plan import Shard
from pipeline.stores.records import parse_record
from pipeline.stores.store import StoredFile

RECEIPT_VERSION = 1
MANIFEST_VERSION = 1

#: Receipts with more files than this are written in one line.
_FEW_FILES = 16


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of the stored values of one shard, or of all."""

    minimum: float
    maximum: float
    mean: float
    #: Samples that equal another sample of their shard; a lower bound if a shard has more than 4 million.
    repeated: int
    #: Samples whose values are all the same.
    constant: int
    #: Samples per class; None for an unconditional generator.
    classes: tuple[int, ...] | None
    #: For comparisons without the values, see `pipeline.datasets.sketch`; empty if it was not computed.
    sketch: tuple[float, ...] = ()


#: Note about datasets whose manifest has `"reproducible": false`.
NOT_REPRODUCIBLE = (
    "not reproducible: samples depend on random numbers that the model draws, or on the others in their batch"
)


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """How samples were computed: enough to compute them again."""

    #: "tf" (tf.function) or "xla".
    engine: str
    #: Samples per forward pass.
    batch: int
    precision: str
    #: "cpu" or "gpu".
    device: str
    #: Model name of the device.
    device_name: str
    #: Versions of noisemill, of tensorflow, keras and numpy, which computed samples, and of zlib, which compresses
    #: images.
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The record of one finished shard."""

    version: int = RECEIPT_VERSION
    #: Identity of the samples, `JobSpec.samples_sha256`: the same after an extension.
    samples_sha256: str
    shard: int
    first: int
    count: int
    files: tuple[StoredFile, ...]
    statistics: Statistics
    made_by: EngineRecord
    #: The number of claims until the shard was done, from 1.
    attempt: int
    worker: str
    #: Unix time.
    finished_at: float
    #: Seconds that the stages of the mill were busy since the previous receipt.
    seconds: Mapping[str, float] = field(default_factory=dict)
    #: Which candidates won; None, and not in the file, if there was no choice.
    candidates: Candidates | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Hash over the lines `SHA256  NAME`, one per file, as printed by `sha256sum FILES | sha256sum`."""
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def belongs_to(self, samples_sha256: str, shard: Shard) -> bool:
        """Whether it is the receipt of this shard of these samples, or of a shorter one in its place."""
        mine = (self.samples_sha256, self.shard, self.first)
        return mine == (samples_sha256, shard.index, shard.first) and self.count <= shard.count

    def to_json(self) -> str:
        """JSON with stable keys."""
        # For thousands of files, the copies made by `asdict` and the indenting encoder would take five times
        # as long as this.
        files = [{"name": name, "sha256": sha256, "size_bytes": size_bytes} for name, size_bytes, sha256 in self.files]
        data = {**asdict(replace(self, files=())), "files": files}
        if self.candidates is None:
            del data["candidates"]
        return json.dumps(data, sort_keys=True, indent=1 if len(self.files) <= _FEW_FILES else None) + "\n"

    @classmethod
    def from_json(cls, text: bytes, source: str) -> Receipt:
        """The receipt that `to_json` wrote. Raises DatasetError naming `source`."""
        data = _object(text, source, _FIELDS_OF_RECEIPT, RECEIPT_VERSION, optional=("candidates",))
        try:
            data["files"] = tuple(_stored_file(file) for file in data["files"])
            data["statistics"] = statistics_of(data["statistics"])
            data["made_by"] = engine_record(data["made_by"])
            if "candidates" in data:
                data["candidates"] = candidates_of(data["candidates"])
            receipt = cls(**data)
            _check(receipt, str, "samples_sha256", "worker")
            _check(receipt, int, "version", "shard", "first", "count", "attempt")
            _check(receipt, float, "finished_at")
            if not isinstance(receipt.seconds, dict) or not all(map(_is_number, receipt.seconds.values())):
                raise ValueError("seconds are not numbers")
        except (TypeError, ValueError, KeyError) as error:
            raise DatasetError(f"{source} is not a receipt: {error}") from None
        return receipt

    def index_line(self) -> str:
        """Its line in `shards.jsonl`."""
        line = {
            "shard": self.shard,
            "first": self.first,
            "count": self.count,
            "files": len(self.files),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "sketch": self.statistics.sketch,
        }
        if self.candidates is not None:
            line["candidates"] = self.candidates.sha256
        return json.dumps(line, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Written last: its presence means that the dataset is complete."""

    version: int = MANIFEST_VERSION
    #: Version of noisemill that wrote it.
    noisemill: str
    job: str
    spec_sha256: str
    generator: str
    digest: str
    count: int
    shards: int
    #: Bytes of all shards' files.
    size_bytes: int
    #: sha256 of shards.jsonl.
    index_sha256: str
    statistics: Statistics
    #: All engines that computed samples.
    made_by: tuple[EngineRecord, ...]
    #: Unix time.
    finished_at: float
    #: Whether a sample depends on its latent and label alone. It does not if the network draws random numbers or takes
    #: statistics over its batch. Written to the file only if false.
    reproducible: bool = True
    #: License and provenance of the generator. Written to the file only if known.
    about: About = field(default_factory=About)
    #: Scores of candidates and winners; None, and not in the file, if there was no choice or they are not known.
    scores: Scores | None = None

    @property
    def sha256(self) -> str:
        """Hash of manifest.json, as printed by `sha256sum manifest.json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """JSON with stable keys."""
        fields = asdict(self)
        if self.reproducible:
            del fields["reproducible"]
        fields["about"] = self.about.as_json()
        if not self.about:
            del fields["about"]
        if self.scores is None:
            del fields["scores"]
        return json.dumps(fields, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes, source: str) -> Manifest:
        """The manifest that `to_json` wrote. Raises DatasetError naming `source`."""
        data = _object(text, source, _FIELDS_OF_MANIFEST, MANIFEST_VERSION, ("reproducible", "about", "scores"))
        try:
            data["statistics"] = statistics_of(data["statistics"])
            data["made_by"] = tuple(engine_record(record) for record in data["made_by"])
            data["about"] = read_about(data.get("about", {}))
            if "scores" in data:
                data["scores"] = scores_record(data["scores"])
            manifest = cls(**data)
            _check(manifest, str, "noisemill", "job", "spec_sha256", "generator", "digest", "index_sha256")
            _check(manifest, int, "version", "count", "shards", "size_bytes")
            _check(manifest, float, "finished_at")
            _check(manifest, bool, "reproducible")
        except (TypeError, ValueError, KeyError) as error:
            raise DatasetError(f"{source} is not a manifest: {error}") from None
        return manifest


def merged_statistics(receipts: Sequence[Receipt]) -> Statistics:
    """Statistics of all samples together, from those of the shards."""
    each = [(receipt.statistics, receipt.count) for receipt in receipts]
    sketches = [statistics.sketch for statistics, _ in each]
    per_class = [statistics.classes for statistics, _ in each if statistics.classes is not None]
    return Statistics(
        minimum=min(statistics.minimum for statistics, _ in each),
        maximum=max(statistics.maximum for statistics, _ in each),
        mean=math.fsum(statistics.mean * count for statistics, count in each) / sum(count for _, count in each),
        repeated=sum(statistics.repeated for statistics, _ in each),
        constant=sum(statistics.constant for statistics, _ in each),
        classes=tuple(sum(column) for column in zip(*per_class, strict=True)) if per_class else None,
        sketch=tuple(map(math.fsum, zip(*sketches, strict=True))) if all(sketches) else (),
    )


def scores_of_all(receipts: Sequence[Receipt]) -> Scores | None:
    """Scores of all samples together; None if there was no choice, or the receipts do not have them."""
    each = [
        (receipt.candidates.scores, receipt.statistics.classes or (receipt.count,))
        for receipt in receipts
        if receipt.candidates is not None and receipt.candidates.scores is not None
    ]
    return merged_scores(each) if receipts and len(each) == len(receipts) else None


def distinct_engines(receipts: Sequence[Receipt]) -> tuple[EngineRecord, ...]:
    """All engines that computed samples, in the order of the shards."""
    distinct: list[EngineRecord] = []
    for receipt in receipts:
        if receipt.made_by not in distinct:
            distinct.append(receipt.made_by)
    return tuple(distinct)


def statistics_of(data: dict[str, Any]) -> Statistics:
    """From the result of `asdict`. Raises ValueError, TypeError or KeyError."""
    classes = data["classes"]
    sketch = tuple(data["sketch"])
    statistics = Statistics(**{**data, "classes": None if classes is None else tuple(classes), "sketch": sketch})
    _check(statistics, float, "minimum", "maximum", "mean")
    _check(statistics, int, "repeated", "constant")
    if not all(type(number) is int and number >= 0 for number in statistics.classes or ()):
        raise ValueError("classes are not counted")
    if not all(map(_is_number, sketch)) or len(sketch) not in (0, WIDTH):
        raise ValueError(f"sketch is {str(sketch)[:60]!r}")
    return statistics


def engine_record(data: dict[str, Any]) -> EngineRecord:
    """From the result of `asdict`. Raises ValueError, TypeError or KeyError."""
    record = EngineRecord(**data)
    _check(record, str, "engine", "precision", "device", "device_name")
    _check(record, int, "batch")
    if record.batch < 1 or not isinstance(record.versions, dict):
        raise ValueError("made_by is not described")
    return record


def _stored_file(data: dict[str, Any]) -> StoredFile:
    """From the result of `_asdict`. Raises ValueError or TypeError."""
    file = StoredFile(**data)
    name, size_bytes, sha256 = file
    # Thousands of files are checked without `_check`, which would take as long as all else.
    if type(name) is not str or type(sha256) is not str or type(size_bytes) is not int or size_bytes < 0:
        _check(file, str, "name", "sha256")
        _check(file, int, "size_bytes")
    return file


def _check(record: object, kind: type, *names: str) -> None:
    """Raises ValueError unless each field is text (str), a whole number of at least 0 (int) or a number (float)."""
    for name in names:
        value: Any = getattr(record, name)
        if kind is float:
            good = _is_number(value)
        elif kind is int:
            good = type(value) is int and value >= 0
        else:
            good = type(value) is kind
        if not good:
            raise ValueError(f"{name} is {str(value)[:60]!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


_FIELDS_OF_RECEIPT = frozenset(field.name for field in fields(Receipt))
_FIELDS_OF_MANIFEST = frozenset(field.name for field in fields(Manifest))


def _object(
    text: bytes, source: str, names: frozenset[str], newest: int, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of a record: exactly `names`, of which `optional` may be missing."""
    data = parse_record(text, source)
    if not isinstance(data, dict):
        raise DatasetError(f"{source} is damaged: an object is expected")
    version = data.get("version")
    if isinstance(version, int) and version > newest:
        raise DatasetError(f"{source} was written by a newer noisemill (version {version}): upgrade")
    if odd_names := (data.keys() | set(optional)) ^ names:
        odd = ", ".join(sorted(odd_names))
        raise DatasetError(f"{source} is damaged: fields missing or unknown: {odd}")
    return data
