"""Single samples at once, and the way between two of them, without a job.

They are predicted in a process of their own, `python -m workers.once.sample`, so that this one never imports
TensorFlow: one for each call, or a `SamplingProcess` for many. Latents and labels are those that a job with the same
seed would use.
"""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError, WorkerError, shown
from pipeline.common.processes import error_from_stderr, python_command
from pipeline.common.quantities import MAX_BEST_OF, MAX_COUNT, MAX_SEED
from pipeline.generators import Choice, Generator, find_judge
from pipeline.generators.attributes import attribute_numbers
from pipeline.spec.labels import canonical_labels, label_plan
from pipeline.spec.latents import block_rows, latents, noise_keys, noise_rows, parse_noise
from pipeline.spec.sampler import Sampler

#: Files of the folder through which both processes speak.
REQUEST, ROWS, LABELS, SAMPLES = "request.json", "rows.npy", "labels.npy", "samples.npy"
#: Of candidates, the number of the winner and its score, float64 (2,).
WINNER = "winner.npy"

#: Replaces the folder as the argument of `workers.once.sample`: it reads folders from stdin until that is closed.
MANY = "-"
#: What it then prints once the samples of a folder are made; otherwise it prints an error, in one line.
DONE = "done"

#: Makes the samples that a folder asks for. Raises WorkerError.
Predict = Callable[[Path], None]

_Settings = Mapping[str, float | Sequence[float]]

#: Samples by which a range of values is measured.
MEASURED = 64


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples, and the labels that they were made with."""

    #: float32, (n, *sample_shape).
    samples: NDArray[np.float32]
    #: None for a generator without classes.
    labels: tuple[int, ...] | None
    #: Of candidates: which won, and its score; None if there was no choice, or for the way between two winners.
    candidate: int | None = None
    score: float | None = None


class DrawOptions(TypedDict, total=False):
    """The options of `draw` and `interpolate`: those of `JobRequest`, but that attributes come from no file."""

    seed: int
    #: A class by number or name; without, the one that the plan `balanced` gives the sample.
    label: str | None
    noise: str
    attributes: str | None
    settings: _Settings | None
    sampler: str | None
    #: Of the sampler; `steps` of `interpolate` are the samples on the way.
    sampler_steps: int | None
    guidance: float | None
    eta: float | None
    #: Candidates per sample, and what chooses among them.
    best_of: int | None
    judge: str | None
    enough: float | None
    predict: Predict


def predict_once(folder: Path) -> None:
    """Predicts in a new process."""
    command = python_command("workers.once.sample", str(folder))
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise WorkerError(error_from_stderr(done.stderr))


class SamplingProcess:
    """A process that predicts again and again: it loads TensorFlow and each generator once.

    It starts at the first call, and ends by itself after some minutes without one. For one thread at a time.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    @property
    def warm(self) -> bool:
        """Whether it is running, so that a call need not wait for its start."""
        return self._process is not None and self._process.poll() is None

    def predict(self, folder: Path) -> None:
        """Predicts; a `Predict`. Raises WorkerError if it fails, or takes longer than the timeout."""
        if not self.warm:
            self.close()
            self._process = subprocess.Popen(
                python_command("workers.once.sample", MANY),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        except OSError:
            pass  # It has ended since: reading finds the end of its output.
        if not select.select([process.stdout], [], [], self._timeout_s)[0]:
            self.close()
            raise WorkerError(f"making the samples took longer than {self._timeout_s:g} s")
        reply = process.stdout.readline().rstrip("\n")
        if not reply:
            self.close()
            raise WorkerError("the process that makes samples has ended unexpectedly: try 'noisemill sample'")
        if reply != DONE:
            raise WorkerError(reply)

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def draw(generator: Generator, index: int, **options: Unpack[DrawOptions]) -> Drawn:
    """Sample `index` as a job with this seed makes it."""
    return interpolate(generator, index, index, 1, **options)


def interpolate(
    generator: Generator,
    first: int,
    last: int,
    steps: int,
    **options: Unpack[DrawOptions],
) -> Drawn:
    """`steps` samples between sample `first` and sample `last`, both included.

    Interpolation is spherical, since all latents have nearly the same norm. All steps share the class (by default that
    of the first sample), the noise inputs, and the noise of a sampler's steps. Of candidates, the ends are the winners.
    """
    sampler = generator.sampler_of(
        options.get("sampler"), options.get("sampler_steps"), options.get("guidance"), options.get("eta")
    )
    seed, settings = options.get("seed", 0), options.get("settings")
    told = attribute_numbers(generator, options.get("attributes"))
    inputs = _Inputs(generator, seed, options.get("noise", "normal"), told, sampler)
    ends, predict = (first, last), options.get("predict", predict_once)
    choice = choice_of(generator, options.get("best_of"), options.get("judge"), options.get("enough"))
    if choice is not None:
        best_of, winners = choice.best_of, []
        for index in dict.fromkeys(ends):
            rows, labels = (
                inputs.rows(index * best_of, best_of),
                _labels(generator, index, seed, options.get("label"), 1),
            )
            drawn = _predicted(generator, rows, labels, settings, sampler, predict, choice)
            if steps == 1:
                return drawn
            assert drawn.candidate is not None
            winners.append(index * best_of + drawn.candidate)
        ends = winners[0], winners[-1]
    rows = np.repeat(inputs.rows(ends[0], 1), steps, axis=0)
    a, b = (inputs.latents(index, 1)[0] for index in ends)
    rows[:, : len(a)] = slerp(a, b, np.linspace(0, 1, steps))
    labels = _labels(generator, first, seed, options.get("label"), steps)
    return _predicted(generator, rows, labels, settings, sampler, predict)


def choice_of(generator: Generator, best_of: int | None, judge: str | None, enough: float | None) -> Choice | None:
    """The choice among a generator's candidates with these options; None if there is none.

    Raises UsageError for half of a choice, or for one that does not fit the generator.
    """
    if best_of is None:
        for option, value in (("--judge", judge), ("--enough", enough)):
            if value is not None:
                raise UsageError(f"{option} is for a choice among candidates: add --best-of K")
        return None
    if judge is None:
        raise UsageError("--best-of needs a judge that scores candidates: --judge fashion-judge, or a model's path")
    if type(best_of) is not int or not 2 <= best_of <= MAX_BEST_OF:
        raise UsageError(f"best of {shown(best_of)} is not a whole number from 2 to {MAX_BEST_OF}")
    found = find_judge(judge)
    found.layout(generator.interface)
    if enough is not None:
        found.rank_of(enough)
    return Choice(best_of=best_of, judge=found, enough=None if enough is None else float(enough))


def measured_range(generator: Generator) -> tuple[float, float]:
    """Least and greatest value of MEASURED samples of all classes. Raises WorkerError where none can be made."""
    interface = generator.interface
    rows = latents(0, 0, MEASURED, interface.row_dim, block=MEASURED)
    labels = None if interface.classes is None else (np.arange(MEASURED) % len(interface.classes)).astype(np.int32)
    samples = _predicted(generator, rows, labels).samples
    return float(samples.min()), float(samples.max())


def slerp(a: NDArray[np.float32], b: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points between two vectors at these shares of the angle between them, float32 of shape (shares, dim).

    Shoemake (1985); straight where the vectors point the same way, opposite ways, or nowhere.
    """
    norms = float(np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64)))
    cosine = np.clip(float(a.astype(np.float64) @ b.astype(np.float64)) / norms, -1, 1) if norms else 1.0
    angle = float(np.arccos(cosine))
    if np.sin(angle) < 1e-6:
        weights = np.stack([1 - shares, shares])
    else:
        weights = np.stack([np.sin((1 - shares) * angle), np.sin(shares * angle)]) / np.sin(angle)
    rows: NDArray[np.float32] = (weights[0][:, None] * a + weights[1][:, None] * b).astype(np.float32)
    return rows


@dataclass(frozen=True)
class _Inputs:
    """What a generator is fed for samples, or candidates, of one seed."""

    generator: Generator
    seed: int
    noise: str
    #: The same for all, float32 (attributes_dim,).
    attributes: NDArray[np.float32]
    sampler: Sampler | None

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Latent, noise, attributes and key side by side, float32 (count, row_dim)."""
        columns = [self.latents(first, count)]
        columns += noise_rows(self.seed, first, count, self.generator.interface.noise_sizes)
        columns.append(np.tile(self.attributes, (count, 1)))
        columns += [] if self.sampler is None else [noise_keys(self.seed, first, count)]
        return np.concatenate(columns, axis=1)

    def latents(self, first: int, count: int) -> NDArray[np.float32]:
        """Latents, float32 (count, latent_dim). Raises UsageError for a seed or an index out of bounds."""
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed {self.seed} is not a whole number from 0 to {MAX_SEED}")
        if not 0 <= first < MAX_COUNT:
            raise UsageError(f"index {first} is not a whole number from 0 to {MAX_COUNT - 1:,}")
        dim = self.generator.interface.latent_dim
        return latents(self.seed, first, count, dim, parse_noise(self.noise), block_rows(dim))


def _labels(generator: Generator, index: int, seed: int, label: str | None, count: int) -> NDArray[np.int32] | None:
    classes = generator.interface.classes
    if classes is None:
        if label is not None:
            raise UsageError(f"label {label!r}: this generator has no classes")
        return None
    plan = "balanced" if label is None else canonical_labels(f"class:{label}", classes)
    return np.repeat(label_plan(plan, classes=len(classes), seed=seed).labels(index, 1), count)


def _predicted(
    generator: Generator,
    rows: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    settings: _Settings | None = None,
    sampler: Sampler | None = None,
    predict: Predict = predict_once,
    choice: Choice | None = None,
) -> Drawn:
    judge = choice.judge if choice else None
    request = {
        "generator": generator.reference,
        "digest": generator.digest,
        "settings": dict(generator.settings(settings or {})),
        "sampler": str(sampler) if sampler else None,
        "best_of": choice.best_of if choice else 1,
        "enough": choice.enough if choice else None,
        "judge": judge.reference if judge else None,
        "judge_digest": judge.digest if judge else None,
    }
    with tempfile.TemporaryDirectory(prefix="noisemill-sample-") as name:
        folder = Path(name)
        (folder / REQUEST).write_text(json.dumps(request))
        np.save(folder / ROWS, rows)
        if labels is not None:
            np.save(folder / LABELS, labels)
        predict(folder)
        samples = np.load(folder / SAMPLES)
        candidate, score = np.load(folder / WINNER).tolist() if judge else (None, None)
    return Drawn(
        samples=samples,
        labels=None if labels is None else tuple(labels.tolist()),
        candidate=None if candidate is None else int(candidate),
        score=score,
    )
