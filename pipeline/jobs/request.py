"""Turns the user's options and a generator's interface into a JobSpec."""

from __future__ import annotations

import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import NoisemillError, UsageError, shown
from pipeline.common.files import NPY_ERRORS, first_line, open_regular, read_regular
from pipeline.datasets.destination import Upload
from pipeline.formats import format_named
from pipeline.generators import Generator
from pipeline.generators.attributes import attribute_numbers
from pipeline.generators.kinds import COMPUTE_AS_SAVED
from pipeline.generators.sampling import MEASURED, choice_of, measured_range
from pipeline.spec import plan as shards
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.labels import canonical_labels, planned_count
from pipeline.spec.latents import BLOCK, block_rows, parse_noise

_FILE_SUFFIXES = (".npy", ".txt", ".csv")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """The options of `generate` and `submit`; None means the default for the generator."""

    #: Number of samples; if None, that of `latents`, or of labels such as counts:0=100.
    count: int | None = None
    seed: int = 0
    shard_size: int | None = None
    format: str = "npy"
    dtype: str | None = None
    layout: str | None = None
    #: A plan (see `pipeline.spec.labels`) or a file of labels: .npy, or one number or class name per line.
    labels: str | None = None
    noise: str = "normal"
    #: An .npy file of latents, (count, latent_dim).
    latents: str | None = None
    #: The generator's attributes: an .npy file, (count, attributes_dim), or numbers that are the same for all samples.
    attributes: str | None = None
    #: Input name -> numbers that replace the generator's constant.
    settings: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    #: How a denoiser samples, where it is not as its generator.toml says: see `pipeline.spec.sampler.Sampler`.
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float | None = None
    #: Candidates per sample, of which `judge` chooses one; None: no choice.
    best_of: int | None = None
    #: A network that scores candidates (`pipeline.generators.judge`): a name, a path or a URL.
    judge: str | None = None
    #: Candidates from this score on count as equal, so that the first of them is taken.
    enough: float | None = None
    #: Samples with a lower score are marked.
    min_score: float | None = None
    #: Samples per forward pass; 0 leaves it to calibration.
    batch: int = 0
    #: How the forward pass computes; see `pipeline.spec.job_spec.PRECISIONS`.
    precision: str = "float32"

    def resolve(self, generator: Generator) -> tuple[JobSpec, list[Upload]]:
        """The spec of this request, and the user's files that belong to it. Raises UsageError."""
        uploads: list[Upload] = []
        interface = generator.interface
        judging = self._judging(generator)
        if self.latents is not None:
            if self.noise != "normal":
                raise UsageError("--noise and --latents exclude each other: your own latents are used as they are")
            uploads.append(rows_upload(shards.LATENTS, self.latents, interface.latent_dim))
            self._check_candidates(_rows(uploads[0]))
        latents_sha256 = uploads[0].sha256 if uploads else None
        attributes, attributes_file = attributes_plan(generator, self.attributes)
        uploads += [attributes_file] if attributes_file is not None else []
        count = self._count(uploads)
        labels, label_upload = self._labels(interface.classes, count)
        if label_upload is not None:
            uploads.append(label_upload)
        count = self._final_count(count, labels, _rows(label_upload) if label_upload else None)
        sampler = generator.sampler_of(self.sampler, self.steps, self.guidance, self.eta)
        chosen = format_named(self.format)
        dtype = chosen.default_dtype(interface.sample_shape) if self.dtype is None else self.dtype
        layout = chosen.layouts[0] if self.layout is None else self.layout
        spec = JobSpec(
            generator=generator.reference,
            digest=generator.digest,
            count=count,
            seed=self.seed,
            shard_size=self.shard_size or shards.default_shard_size(_sample_bytes(interface.sample_shape, dtype)),
            format=chosen.name,
            dtype=dtype,
            layout=layout,
            folder_names=shards.folder_style(interface.classes, layout),
            labels=labels,
            noise=str(parse_noise(self.noise)),
            latent_block=BLOCK if latents_sha256 else block_rows(interface.latent_dim),
            latents=latents_sha256,
            noise_sizes=interface.noise_sizes,
            attributes=attributes,
            attributes_dim=interface.attributes_dim,
            settings=generator.settings(self.settings),
            sampler=None if sampler is None else str(sampler),
            **judging,
            batch=self.batch,
            precision=self.precision,
            latent_shape=interface.latent_shape,
            sample_shape=interface.sample_shape,
            value_range=interface.value_range,
            classes=interface.classes,
        )
        spec.check()
        chosen.check(spec.sample_type)
        if spec.precision.startswith("mixed") and generator.kind in COMPUTE_AS_SAVED:
            raise UsageError(
                f"{spec.precision}: a {COMPUTE_AS_SAVED[generator.kind]} computes as it was saved; use a .keras or "
                f"TensorFlow.js model"
            )
        if spec.dtype == "uint8" and spec.value_range is None:
            raise UsageError(
                "uint8 needs the value range of the generator: write it into generator.toml, [output] range"
                + _measured(generator)
            )
        return spec, uploads

    def _judging(self, generator: Generator) -> dict[str, Any]:
        """The spec's fields of a choice among candidates; empty without one. Raises UsageError."""
        choice = choice_of(generator, self.best_of, self.judge, self.enough)
        if choice is None:
            if self.min_score is not None:
                raise UsageError("--min-score is for a choice among candidates: add --best-of K and --judge JUDGE")
            return {}
        return {
            "best_of": choice.best_of,
            "judge": choice.judge.reference,
            "judge_digest": choice.judge.digest,
            "enough": choice.enough,
            "min_score": None if self.min_score is None else float(self.min_score),
        }

    def _check_candidates(self, rows: int) -> None:
        if rows % (self.best_of or 1):
            raise UsageError(
                f"latents {self.latents} have {rows:,} rows, which is no multiple of --best-of {self.best_of}: "
                "each candidate takes one"
            )

    def _count(self, uploads: list[Upload]) -> int | None:
        count, of = self.count, "count"
        for upload in uploads:
            name, rows = upload.name.removesuffix(".npy"), _rows(upload)
            rows = rows // (self.best_of or 1) if upload.name == shards.LATENTS else rows
            if count is not None and rows != count:
                raise UsageError(
                    f"{of} {count} is not the {rows} rows of {getattr(self, name)}: leave --count out"
                    if of == "count"
                    else f"{of} are {count:,}, {name} {rows:,}: the numbers must be equal"
                )
            count, of = rows, name
        return count

    def _labels(self, classes: tuple[str, ...] | None, count: int | None) -> tuple[str | None, Upload | None]:
        """The canonical plan, and the file it refers to, if any."""
        if classes is None:
            if self.labels is not None:
                raise UsageError(f"labels {self.labels!r}: this generator has no classes")
            return None, None
        if self.labels is None:
            return "balanced", None
        if self.labels.endswith(_FILE_SUFFIXES):
            upload = labels_upload(self.labels, classes)
            return f"file:{upload.sha256}", upload
        return canonical_labels(self.labels, classes), None

    def _final_count(self, count: int | None, labels: str | None, label_rows: int | None) -> int:
        planned = label_rows if label_rows is not None else planned_count(labels or "")
        if planned is not None and count is not None and planned != count:
            raise UsageError(
                f"labels {self.labels!r} are {planned:,}, the samples {count:,}: the numbers must be equal"
            )
        count = count if planned is None else planned
        if count is None:
            raise UsageError("how many samples? give --count, for example --count 10k")
        return count


def _measured(generator: Generator) -> str:
    """The range of a few samples, as part of a message. It is only a suggestion."""
    try:
        low, high = measured_range(generator)
    except NoisemillError:
        return ""
    usual = ((-1, 1), (0, 1), (0, 255))
    span = high - low
    near = [ends for ends in usual if ends[0] <= low and high <= ends[1] and span > 0.4 * (ends[1] - ends[0])]
    guess = f", so perhaps range = [{near[0][0]}, {near[0][1]}]" if near else ""
    return f";\nof {MEASURED} samples the values lie from {low:.4g} to {high:.4g}{guess}"


def _sample_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * int(np.dtype(dtype).itemsize) if dtype in ("float32", "float16", "uint8") else 1


def _rows(upload: Upload) -> int:
    return int(np.load(io.BytesIO(upload.data), mmap_mode=None).shape[0])


def rows_upload(name: str, path: str, dim: int) -> Upload:
    """The user's latents or attributes as stored at the destination: float32, (count, dim). Raises UsageError."""
    what = name.removesuffix(".npy")
    array = _load_npy(path, what)
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"{what} {path} are {array.dtype}, not floating point")
    if array.ndim < 2 or len(array) == 0 or math.prod(array.shape[1:]) != dim:
        raise UsageError(f"{what} {path} have the shape {array.shape}, the generator takes (count, {dim})")
    with np.errstate(over="ignore"):
        rows = array.reshape(len(array), dim).astype(np.float32)
    if not np.isfinite(rows).all():
        raise UsageError(f"{what} {path} hold NaN or infinity, or numbers too large for float32")
    return _upload(name, rows)


def attributes_plan(generator: Generator, text: str | None) -> tuple[str | None, Upload | None]:
    """The canonical plan of attributes, and the file it refers to, if any. Raises UsageError."""
    wanted = generator.interface.attributes_dim
    if not wanted:
        if text is not None:
            raise UsageError(f"attributes {shown(text)}: this generator takes none")
        return None, None
    if text is not None and text.endswith(".npy"):
        upload = rows_upload(shards.ATTRIBUTES, text, wanted)
        return f"file:{upload.sha256}", upload
    numbers = attribute_numbers(generator, text)
    return "all:" + ",".join(repr(float(number)).removesuffix(".0") for number in numbers), None


def labels_upload(path: str, classes: tuple[str, ...]) -> Upload:
    """The user's labels as stored at the destination: int32, (count,). Raises UsageError."""
    array = _load_npy(path, "labels") if path.endswith(".npy") else _read_label_lines(path, classes)
    if array.ndim != 1 or len(array) == 0 or not np.issubdtype(array.dtype, np.integer):
        raise UsageError(f"labels {path} are {array.dtype} of shape {array.shape}, not whole numbers of shape (count,)")
    wrong = np.flatnonzero((array < 0) | (array >= len(classes)))
    if len(wrong):
        raise UsageError(
            f"labels {path}: {array[wrong[0]]} at row {wrong[0]} is not a class, they are 0 to {len(classes) - 1}"
        )
    return _upload(shards.LABELS, array.astype(np.int32))


def _load_npy(path: str, what: str) -> NDArray[Any]:
    try:
        with open_regular(path) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    except (*NPY_ERRORS, EOFError, MemoryError) as error:
        raise UsageError(f"{what} {path} are not an .npy array: {first_line(error)}") from None
    return array


def _read_label_lines(path: str, classes: tuple[str, ...]) -> NDArray[np.int64]:
    numbers = {name.lower(): number for number, name in enumerate(classes)}
    try:
        lines = read_regular(Path(path)).decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"labels {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"labels {path} are not text: write one number or class name per line, or an .npy file"
        ) from None
    labels = []
    for row, line in enumerate(line.strip() for line in lines):
        if not line and row == len(lines) - 1:
            continue
        is_number = re.fullmatch("[0-9]{1,9}", line) is not None
        if not is_number and line.lower() not in numbers:
            near = difflib.get_close_matches(line.lower(), numbers, n=1)
            hint = f", did you mean {classes[numbers[near[0]]]!r}?" if near else ""
            raise UsageError(f"labels {path}: {shown(line)} in line {row + 1} is not a class{hint}")
        labels.append(int(line) if is_number else numbers[line.lower()])
    return np.array(labels, dtype=np.int64)


def _upload(name: str, array: NDArray[Any]) -> Upload:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array))
    return Upload(name, file.getvalue())
