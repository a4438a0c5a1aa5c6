"""A recipe: a small file from which a dataset can be made again elsewhere, and compared with the original.

JSON, written by `to_json`:

    recipe      version of this format
    noisemill   version that wrote it
    job         the spec, as in job.json
    generator   its name, digest, and where to get it
    made_by     engine, batch, device and versions of all engines that made shards
    statistics  of all stored values
    reproducible        false if samples are not a function of the generator's inputs; otherwise left out
    inputs      the user's latents, attributes and labels: size and hash, and for small files their bytes
    shards      32 bytes per shard in base64: half of its SHA-256, and its sketch (`pipeline.datasets.sketch`) as
    float32 sha256      over all of this, so that an edited or damaged recipe is detected

With half a SHA-256, the chance that another shard has the same is one in 2**128.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import DatasetError, UsageError
from pipeline.common.version import VERSION
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import EngineRecord, Receipt, Statistics, engine_record, statistics_of
from pipeline.datasets.sketch import WIDTH, difference
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.stores.records import parse_record

RECIPE_VERSION = 1

#: A shard's fingerprint: half of its hash, and its sketch.
FINGERPRINT = np.dtype([("sha256", "V16"), ("sketch", "<f4", (WIDTH,))])

#: The user's files up to this size are embedded in the recipe, bytes.
EMBEDDED_BYTES = 256 * 1024
#: Largest recipe that is read, bytes: one of ten million shards is smaller.
MAX_BYTES = 1 << 30

#: Root mean square difference up to which shards count as equal, as a share of full scale
#: (docs/decisions/0070-how-engines-agree.md).
TOLERANCE = 1e-6
#: The same for reduced precision.
_LOW_PRECISION_TOLERANCE = 5e-3
#: Distance between two neighboring stored values, as a share of full scale.
_STEP = {"float32": 0.0, "float16": 2**-11, "uint8": 1 / 255}

IDENTICAL, CLOSE, DIFFERENT = "bit-equal", "within tolerance", "different"
#: Verdict for samples that are not a function of the generator's inputs.
UNCOMPARABLE = "not reproducible"
VERDICTS = (IDENTICAL, CLOSE, DIFFERENT, UNCOMPARABLE)


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file of the user."""

    sha256: str
    size_bytes: int
    #: Its bytes; None if it is too large.
    data: bytes | None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything needed to make a dataset again and to compare it."""

    noisemill: str
    spec: JobSpec
    made_by: tuple[EngineRecord, ...]
    statistics: Statistics
    #: By name at the destination.
    inputs: Mapping[str, Input]
    #: FINGERPRINT, (shards,).
    fingerprints: NDArray[np.void]
    #: Whether samples are a function of their latents and labels only.
    reproducible: bool = True

    @property
    def where(self) -> str:
        """Where to get the generator, as text."""
        reference = self.spec.generator
        if reference.startswith("s3://"):
            return f"fetched from {reference}"
        return f"a file of whoever made it, {reference}" if "/" in reference else f"comes with noisemill {VERSION}"

    @property
    def tolerance(self) -> float:
        """Root mean square difference, as a share of full scale, up to which a shard is the same.

        A difference of t moves a stored value to the next one, at distance s, with probability t / s.
        The errors of a sampler's passes add up.
        """
        passes = self.spec.sampling.passes if self.spec.sampling else 1
        computed = passes * (TOLERANCE if self.spec.precision == "float32" else _LOW_PRECISION_TOLERANCE)
        return max(computed, math.sqrt(computed * _STEP[self.spec.dtype]))

    @property
    def full_scale(self) -> float:
        """Distance between the least and the greatest possible value."""
        if self.spec.dtype == "uint8":
            return 255.0
        low, high = self.spec.value_range or (self.statistics.minimum, self.statistics.maximum)
        return high - low or 1.0

    def compare(self, receipt: Receipt) -> tuple[str, float | None]:
        """Whether a shard is bit-equal, within tolerance, different or not reproducible, and its difference.

        The difference is the root mean square over its values, as a share of full scale; None if one has no sketch.
        """
        fingerprint = self.fingerprints[receipt.shard]
        if fingerprint["sha256"].tobytes() == _half(receipt.sha256):
            return IDENTICAL, 0.0
        different = DIFFERENT if self.reproducible else UNCOMPARABLE
        old, new = fingerprint["sketch"].astype(np.float64).tolist(), receipt.statistics.sketch
        if not new or not all(map(math.isfinite, old)):
            return different, None
        values = receipt.count * math.prod(self.spec.sample_shape)
        share = difference(old, new, values) / self.full_scale
        return (CLOSE if share <= self.tolerance else different), share

    def to_json(self) -> str:
        """The content of the file."""
        body = {
            "recipe": RECIPE_VERSION,
            "noisemill": self.noisemill,
            "job": json.loads(self.spec.to_json()),
            "generator": {"name": self.spec.generator_name, "digest": self.spec.digest, "where": self.where},
            "made_by": [asdict(record) for record in self.made_by],
            "statistics": asdict(self.statistics),
            **({} if self.reproducible else {"reproducible": False}),
            "inputs": {name: _input_to_json(each) for name, each in self.inputs.items()},
            "shards": base64.b64encode(self.fingerprints.tobytes()).decode(),
        }
        return json.dumps({**body, "sha256": _sha256(body)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: bytes, source: str) -> Recipe:
        """The recipe that `to_json` wrote. Raises DatasetError naming `source`."""
        body = _checked(text, source)
        try:
            spec = JobSpec.from_json(json.dumps(body["job"]), source=f"{source}: job")
            recipe = cls(
                noisemill=str(body["noisemill"]),
                spec=spec,
                made_by=tuple(engine_record(record) for record in body["made_by"]),
                statistics=statistics_of(body["statistics"]),
                inputs={name: _input_from_json(each) for name, each in body["inputs"].items()},
                reproducible=body.get("reproducible", True) is True,
                fingerprints=np.frombuffer(base64.b64decode(body["shards"], validate=True), FINGERPRINT),
            )
        except DatasetError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise DatasetError(f"{source} is not a recipe: {error}") from None
        if len(recipe.fingerprints) != len(spec.plan) or not recipe.made_by:
            raise DatasetError(f"{source} is not a recipe: it has {len(recipe.fingerprints)} shards")
        return recipe


def recipe_of(dataset: Dataset, *, generator: str | None = None, judge: str | None = None) -> Recipe:
    """The recipe of a complete dataset, from its manifest and index of shards; reads no shard.

    `generator` and `judge` are where others get them, if not where the job found them. Raises DatasetError if the
    dataset is incomplete.
    """
    spec = dataset.spec
    if spec.format == "null":
        raise UsageError(f"{dataset.url} was made with --format null: there is nothing to make again")
    manifest = dataset.manifest()
    if manifest is None or manifest.spec_sha256 != spec.sha256:
        raise DatasetError(f"{dataset.url} is not whole: 'noisemill resume {dataset.url}' makes what is missing")
    lines = _index(dataset, manifest.index_sha256)
    return Recipe(
        noisemill=VERSION,
        spec=replace(spec, generator=generator or spec.generator, judge=judge or spec.judge),
        made_by=manifest.made_by,
        statistics=manifest.statistics,
        inputs={name: _input(dataset, name) for name in spec.user_files()},
        reproducible=manifest.reproducible,
        fingerprints=np.array([_fingerprint(line) for line in lines], FINGERPRINT),
    )


def _index(dataset: Dataset, sha256: str) -> list[dict[str, Any]]:
    try:
        text = dataset.store.read(shards.SHARD_INDEX)
    except FileNotFoundError:
        text = b""
    if hashlib.sha256(text).hexdigest() != sha256:
        raise DatasetError(
            f"{dataset.url}/{shards.SHARD_INDEX} is missing or damaged: 'noisemill resume {dataset.url}' repairs it"
        )
    return [json.loads(line) for line in text.splitlines()]


def _fingerprint(line: dict[str, Any]) -> tuple[bytes, list[float]]:
    return _half(line["sha256"]), line["sketch"] or [math.nan] * WIDTH


def _half(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:16]


def _input(dataset: Dataset, name: str) -> Input:
    try:
        with dataset.store.open(name) as file:
            data, digest, size = b"", hashlib.sha256(), 0
            while piece := file.read(1 << 22):
                digest.update(piece)
                size += len(piece)
                data = data + piece if size <= EMBEDDED_BYTES else b""
    except FileNotFoundError:
        raise DatasetError(f"{dataset.url}/{name} is missing") from None
    return Input(sha256=digest.hexdigest(), size_bytes=size, data=data if size <= EMBEDDED_BYTES else None)


def _input_to_json(each: Input) -> dict[str, Any]:
    data = None if each.data is None else base64.b64encode(zlib.compress(each.data, 9)).decode()
    return {"sha256": each.sha256, "size_bytes": each.size_bytes, "data": data}


def _input_from_json(data: dict[str, Any]) -> Input:
    text = data["data"]
    content = None
    if text is not None:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b64decode(text, validate=True), EMBEDDED_BYTES)
    return Input(sha256=str(data["sha256"]), size_bytes=int(data["size_bytes"]), data=content)


def _sha256(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _checked(text: bytes, source: str) -> dict[str, Any]:
    """The content of a recipe, after checking its form and hash."""
    body = parse_record(text, source)
    if not isinstance(body, dict) or "recipe" not in body:
        raise DatasetError(f"{source} is not a recipe: 'noisemill recipe DEST' writes one")
    if isinstance(body["recipe"], int) and body["recipe"] > RECIPE_VERSION:
        raise DatasetError(f"{source} was written by a newer noisemill (version {body['recipe']}): upgrade")
    sha256 = body.pop("sha256", None)
    if sha256 != _sha256(body):
        raise DatasetError(f"{source} is damaged or was edited: its hash does not match")
    return body
