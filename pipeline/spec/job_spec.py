"""JobSpec, the definition of a dataset: frozen, validated, written as canonical JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from pipeline.common.errors import DatasetError, NewerVersionError, UsageError, shown
from pipeline.common.quantities import MAX_BATCH, MAX_BEST_OF, MAX_COUNT, MAX_SEED, MAX_SHARD_SIZE
from pipeline.spec.field_checks import (
    are_attributes,
    are_names,
    are_settings,
    are_sizes,
    is_float32,
    is_label_plan,
    is_noise,
    is_range,
    is_sampler,
    is_shape,
    is_text,
    is_whole,
    matches,
)
from pipeline.spec.plan import (
    ASCII_FOLDERS,
    ATTRIBUTES,
    LABELS,
    LATENTS,
    MAX_SHARDS,
    UNICODE_FOLDERS,
    Plan,
    class_folders,
)
from pipeline.spec.sampler import KEY_DIM, Sampler, parse_sampler
from pipeline.stores.records import parse_record

#: Version of the spec's fields, and the oldest version that is read: at least the previous one, if any
#: (docs/decisions/0077-versions.md).
SPEC_VERSION = 1
OLDEST_SPEC_VERSION = 1


#: Names of the formats in which samples are stored (`pipeline.formats`).
FORMAT_NAMES = ("npy", "png", "tar", "tfrecord", "parquet", "null")

#: Precision of the forward pass. float32 is float32 everywhere; tf32 lets GPUs round factors to 10 bits; mixed
#: precision (Keras' term) computes in 16 bits, with weights and outputs in float32.
PRECISIONS = ("float32", "tf32", "mixed_float16", "mixed_bfloat16")

#: Samples per block of latents in datasets that do not say it: `pipeline.spec.latents.BLOCK`, which takes numpy.
LATENT_BLOCK = 1024

#: Most values of one batch, 8 GiB of float32.
_MOST_VALUES = 2**31


@dataclass(frozen=True, kw_only=True)
class SampleType:
    """The type of a stored sample."""

    #: Without the batch axis; images are (height, width, channels).
    shape: tuple[int, ...]
    #: "float32", "float16" or "uint8", as stored.
    dtype: str
    #: In the order of the labels; None if the generator has no classes.
    class_names: tuple[str, ...] | None
    #: "flat", or "class": a folder per class.
    layout: str = "flat"
    #: "ascii" or "unicode": how the folders of classes are named.
    folder_names: str = ASCII_FOLDERS

    @property
    def class_folders(self) -> tuple[str, ...]:
        """Folders of the classes' images, in the order of the labels; empty without classes."""
        return class_folders(self.class_names or (), self.folder_names)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A dataset as a pure function: the same spec gives the same samples everywhere."""

    #: Version of these fields.
    version: int = SPEC_VERSION
    #: The generator's reference: a name, an absolute path or a URL. Not part of the identity.
    generator: str
    #: Identity of the generator's content, "sha256:" and 64 hexadecimal digits.
    digest: str
    #: Number of samples.
    count: int
    #: Seed of the latents and of random labels, 0 to 2**32 - 1.
    seed: int
    #: Samples per shard; the last may hold fewer.
    shard_size: int
    #: "npy", "png", "tar", "tfrecord", "parquet" or "null".
    format: str
    #: Stored type: "float32", "float16" or "uint8".
    dtype: str
    #: "flat" or "class".
    layout: str
    #: How the folders of layout "class" are named: "ascii" in older datasets, or "unicode".
    folder_names: str = ASCII_FOLDERS
    #: Canonical label plan; None for a generator without classes.
    labels: str | None
    #: Distribution of the latents, canonical.
    noise: str
    #: Samples per block of the latents' random streams (`pipeline.spec.latents`).
    latent_block: int = LATENT_BLOCK
    #: sha256 of `latents.npy` at the destination, if the user provided latents; else None.
    latents: str | None = None
    #: Numbers per sample of each noise input of the generator.
    noise_sizes: tuple[int, ...] = ()
    #: Attributes: "all:0.5,1" is the same vector for all samples, "file:" and the sha256 of `attributes.npy` at the
    #: destination; None for a generator without attributes.
    attributes: str | None = None
    #: Numbers per sample of the attributes.
    attributes_dim: int = 0
    #: (name, numbers) of inputs with other constants than the generator's own.
    settings: tuple[tuple[str, tuple[float, ...]], ...] = ()
    #: How a denoiser samples, canonical (`pipeline.spec.sampler`); None for a generator that takes one pass.
    sampler: str | None = None
    #: Candidates per sample, of which the judge's best is stored; 1: no choice. Candidate c of sample i has the latent
    #: of index i * best_of + c.
    best_of: int = 1
    #: The judge's reference; None without candidates. Not part of the identity.
    judge: str | None = None
    #: Identity of the judge, like that of the generator.
    judge_digest: str | None = None
    #: Score from which candidates count as equal, so that the first of them is taken; None: the best one is.
    enough: float | None = None
    #: Score below which a sample is marked; None: none is.
    min_score: float | None = None
    #: Samples per forward pass; 0: chosen by the first slice.
    batch: int = 0
    #: Precision of the forward pass: one of PRECISIONS.
    precision: str = PRECISIONS[0]
    #: Shape of one latent.
    latent_shape: tuple[int, ...]
    #: Shape of one sample, channels last for images.
    sample_shape: tuple[int, ...]
    #: Least and greatest value of the generator's output; None if it declares none.
    value_range: tuple[float, float] | None
    #: Names of the classes in the order of their labels; None for a generator without classes.
    classes: tuple[str, ...] | None

    @property
    def latent_dim(self) -> int:
        """Numbers per latent."""
        return math.prod(self.latent_shape)

    @property
    def row_dim(self) -> int:
        """Numbers per sample of latent, noise, attributes and key."""
        key_dim = KEY_DIM if self.sampler else 0
        return self.latent_dim + sum(self.noise_sizes) + self.attributes_dim + key_dim

    @property
    def sampling(self) -> Sampler | None:
        """How a denoiser samples; None for a generator that takes one pass."""
        return None if self.sampler is None else parse_sampler(self.sampler)

    @property
    def plan(self) -> Plan:
        """Division into shards."""
        return Plan(count=self.count, shard_size=self.shard_size)

    @property
    def sample_type(self) -> SampleType:
        """The type of a stored sample."""
        return SampleType(
            shape=self.sample_shape,
            dtype=self.dtype,
            class_names=self.classes,
            layout=self.layout,
            folder_names=self.folder_names,
        )

    @property
    def generator_name(self) -> str:
        """Short name of the generator: `fashion`, or the stem of its file."""
        return re.sub(r"\.(keras|h5)$", "", self.generator.rstrip("/").rpartition("/")[2]) or "generator"

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces except line ends, the same bytes for the same spec."""
        return json.dumps(self._fields(), sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    @cached_property
    def sha256(self) -> str:
        """Identity of the dataset: hash over every field except the references of generator and judge."""
        # Cached, since every receipt of a dataset is compared with it.
        return self._hash_without("generator", "judge")

    @cached_property
    def samples_sha256(self) -> str:
        """Identity of the samples regardless of their number: hash over the fields of `sha256` except the count.

        Specs with the same value make the same sample at the same index, and the same shards except the last.
        """
        return self._hash_without("generator", "judge", "count")

    def _hash_without(self, *left_out: str) -> str:
        identity = {name: value for name, value in self._fields().items() if name not in left_out}
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def user_files(self) -> dict[str, str]:
        """The user's files of latents, labels and attributes at the destination: name -> sha256."""
        latents = f"file:{self.latents}" if self.latents is not None else ""
        plans = {LATENTS: latents, ATTRIBUTES: self.attributes or "", LABELS: self.labels or ""}
        return {name: plan.removeprefix("file:") for name, plan in plans.items() if plan.startswith("file:")}

    def _fields(self) -> dict[str, Any]:
        """All fields, except later additions that have their default value."""
        fields = asdict(self)
        for name, usual in _YOUNGER.items():
            if fields[name] == usual:
                del fields[name]
        return fields

    def job_id(self, destination: str) -> str:
        """Id of the job that makes this dataset at this destination; the same for the same request."""
        name = re.sub(r"[^a-z0-9]+", "-", self.generator_name.lower()).strip("-")[:24] or "job"
        return f"{name}-{hashlib.sha256(f'{self.sha256} {destination}'.encode()).hexdigest()[:10]}"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "job.json") -> JobSpec:
        """The spec that `to_json` wrote. Raises DatasetError that names `source` and the invalid field."""
        data = parse_record(text, source)
        if not isinstance(data, dict):
            raise DatasetError(f"{source} is not a job: an object is expected")
        version = data.get("version")
        if isinstance(version, int) and version > SPEC_VERSION:
            raise NewerVersionError(
                f"{source} was written by a newer noisemill (version {version}, known is {SPEC_VERSION}): upgrade"
            )
        if type(version) is int and version < OLDEST_SPEC_VERSION:
            raise DatasetError(
                f"{source} was written by a noisemill that is too old for this one (version {version}, the oldest that "
                f"is read is {OLDEST_SPEC_VERSION}): go on with the older one, or ask for it anew elsewhere"
            )
        names = {field.name for field in fields(cls)}
        for problem, wrong in (
            ("has unknown fields", set(data) - names),
            ("lacks fields", names - set(_YOUNGER) - set(data)),
        ):
            if wrong:
                raise DatasetError(f"{source} {problem}: {', '.join(sorted(wrong))}")
        for name in ("latent_shape", "sample_shape", "value_range", "classes", "noise_sizes", "settings"):
            if isinstance(data.get(name), list):
                data[name] = _as_tuples(data[name])
        spec = cls(**data)
        try:
            spec.check()
        except UsageError as error:
            raise DatasetError(f"{source}: {error}") from None
        return spec

    def check(self) -> None:
        """Raises UsageError for a field of the wrong type or out of its range."""
        for name, good, expected in self._rules():
            if not good:
                raise UsageError(f"{name.replace('_', ' ')} {shown(getattr(self, name))} is not {expected}")
        if len(self.plan) > MAX_SHARDS:
            raise UsageError(
                f"shard size {self.shard_size} makes {len(self.plan):,} shards of {self.count:,} samples: "
                f"at most {MAX_SHARDS:,}, use a larger shard size"
            )
        if min(self.count, self.shard_size) > MAX_SHARD_SIZE:
            raise UsageError(
                f"shard size {self.shard_size:,} is too large: a shard has at most {MAX_SHARD_SIZE:,} samples"
            )
        if self.batch * self.best_of * max(self.row_dim, math.prod(self.sample_shape)) > _MOST_VALUES:
            raise UsageError(
                f"batch {self.batch:,}: it would hold more than {_MOST_VALUES:,} values at a time, use a smaller one"
            )
        if self.count * self.best_of > MAX_COUNT:
            raise UsageError(
                f"best of {self.best_of}: {self.count:,} samples have more than {MAX_COUNT:,} candidates, use fewer"
            )
        self._check_plan()

    def _check_plan(self) -> None:
        """Raises UsageError for a label plan that does not match the classes or the count."""
        kind, _, rest = (self.labels or "").partition(":")
        if kind == "class":
            pairs = [(int(rest), self.count)]
        elif kind == "counts":
            pairs = [
                (int(label), int(number)) for label, _, number in (pair.partition("=") for pair in rest.split(","))
            ]
        else:
            return
        most = max(label for label, _ in pairs)
        if most >= len(self.classes or ()):
            raise UsageError(f"labels {self.labels!r}: there is no class {most}, they are {len(self.classes or ())}")
        planned = sum(number for _, number in pairs)
        if planned != self.count or min(number for _, number in pairs) < 1:
            raise UsageError(
                f"labels {self.labels!r} are {planned:,}, the samples {self.count:,}: they must be as many"
            )

    def _rules(self) -> list[tuple[str, bool, str]]:
        """(field, whether it is valid, what is expected)."""
        return [
            ("version", is_whole(self.version, OLDEST_SPEC_VERSION, SPEC_VERSION), f"a version up to {SPEC_VERSION}"),
            ("generator", is_text(self.generator), "a name, a path or a URL"),
            ("digest", matches(r"sha256:[0-9a-f]{64}", self.digest), "sha256: and 64 hexadecimal digits"),
            ("count", is_whole(self.count, 1, MAX_COUNT), f"a whole number from 1 to {MAX_COUNT:,}"),
            ("seed", is_whole(self.seed, 0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}"),
            ("shard_size", is_whole(self.shard_size, 1, MAX_COUNT), "a whole number of at least 1"),
            ("format", self.format in FORMAT_NAMES, ", ".join(FORMAT_NAMES[:-1]) + f" or {FORMAT_NAMES[-1]}"),
            ("dtype", self.dtype in ("float32", "float16", "uint8"), "float32, float16 or uint8"),
            ("layout", self.layout in ("flat", "class"), "flat or class"),
            ("folder_names", self.folder_names in (ASCII_FOLDERS, UNICODE_FOLDERS), "ascii or unicode"),
            ("labels", (self.labels is None) == (self.classes is None) and is_label_plan(self.labels), "a label plan"),
            ("noise", is_noise(self.noise), "a distribution"),
            (
                "latent_block",
                is_whole(self.latent_block, 1, LATENT_BLOCK),
                f"a whole number from 1 to {LATENT_BLOCK}",
            ),
            ("latents", self.latents is None or matches(r"[0-9a-f]{64}", self.latents), "a sha256"),
            ("batch", is_whole(self.batch, 0, MAX_BATCH), f"a whole number from 1 to {MAX_BATCH:,}"),
            ("noise_sizes", are_sizes(self.noise_sizes), "a list of sizes"),
            ("attributes", are_attributes(self.attributes, self.attributes_dim), "a plan of attributes"),
            ("settings", are_settings(self.settings), "a list of names and numbers"),
            ("sampler", self.sampler is None or is_sampler(self.sampler), "a sampler"),
            ("best_of", is_whole(self.best_of, 1, MAX_BEST_OF), f"a whole number from 2 to {MAX_BEST_OF}"),
            (
                "judge",
                (self.judge is None) == (self.best_of == 1) and (self.judge is None or is_text(self.judge)),
                "a name, a path or a URL, together with candidates",
            ),
            (
                "judge_digest",
                (self.judge is None) == (self.judge_digest is None)
                and (self.judge_digest is None or matches(r"sha256:[0-9a-f]{64}", self.judge_digest)),
                "sha256: and 64 hexadecimal digits",
            ),
            (
                "enough",
                self.enough is None or (self.judge is not None and is_float32(self.enough)),
                "a number, together with a judge",
            ),
            (
                "min_score",
                self.min_score is None or (self.judge is not None and is_float32(self.min_score)),
                "a number, together with a judge",
            ),
            ("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS[:-1]) + f" or {PRECISIONS[-1]}"),
            ("latent_shape", is_shape(self.latent_shape), "a shape"),
            ("sample_shape", is_shape(self.sample_shape), "a shape"),
            ("value_range", self.value_range is None or is_range(self.value_range), "a pair of numbers"),
            ("classes", self.classes is None or are_names(self.classes), "a list of names"),
        ]


def format_settings(settings: tuple[tuple[str, tuple[float, ...]], ...]) -> str:
    """As `truncation=0.7; size=64,64`."""
    return "; ".join(f"{name}={','.join(f'{number:g}' for number in numbers)}" for name, numbers in settings)


def format_choice(spec: JobSpec) -> str:
    """As `8 candidates, by the judge fashion-judge (sha256:0123456789ab), minimum score 0.5`."""
    least = "" if spec.min_score is None else f", minimum score {spec.min_score:g}"
    enough = "" if spec.enough is None else f", {spec.enough:g} is enough"
    return f"{spec.best_of} candidates, by the judge {spec.judge} ({str(spec.judge_digest)[:19]}){enough}{least}"


#: Fields that older datasets lack, and their default values.
_YOUNGER: dict[str, Any] = {
    "precision": PRECISIONS[0],
    "folder_names": ASCII_FOLDERS,
    "latent_block": LATENT_BLOCK,
    "noise_sizes": (),
    "attributes": None,
    "attributes_dim": 0,
    "settings": (),
    "sampler": None,
    "best_of": 1,
    "judge": None,
    "judge_digest": None,
    "enough": None,
    "min_score": None,
}


def _as_tuples(value: Any) -> Any:
    """A list of lists of ... as tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
