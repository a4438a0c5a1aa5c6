"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.cli.sections import options_of
from pipeline.common.errors import UsageError
from pipeline.common.quantities import MAX_BATCH, MAX_BEST_OF, MAX_SEED, MAX_WORKERS, parse_count, parse_numbers
from pipeline.common.settings import TRUST_OWN
from pipeline.fleet.launch import DEVICE
from pipeline.spec.sampler import MAX_GUIDANCE, MAX_STEPS, METHODS

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: One for each section of `--help`.
_samples = options_of("Samples")
_sampling = options_of("Sampling of a denoiser")
_choice = options_of("Best of several")
_files = options_of("Files")
work_option = options_of("Work")


def examples(*commands: str) -> str:
    """The examples at the end of a command's help, which click must not wrap."""
    lines = [commands[0]] if len(commands) == 1 else ["", *(f"  {command}" for command in commands)]
    return "\b\n" + ("Example: " if len(commands) == 1 else "Examples:") + "\n".join(lines)


class Count(click.ParamType[int, str]):
    """A number of samples: 10000, 10_000, 10k, 1M."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_count(value, what=(param.name or "count").replace("_", " ") if param else "count")
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Batch(click.ParamType[int, str]):
    """`auto` (0), or a number of samples."""

    name = "auto|number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == "auto":
            return 0
        if not re.fullmatch("[0-9]{1,7}", value) or not 1 <= int(value) <= MAX_BATCH:
            self.fail(f"{value!r} is neither 'auto' nor a whole number from 1 to {MAX_BATCH:,}", param, ctx)
        return int(value)


class Whole(click.ParamType[int, str]):
    """A whole number from `least` to `most`, both included."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits = value.replace("_", "").replace(",", "")
        if not re.fullmatch("[0-9]{1,13}", digits) or not self.least <= int(digits) <= self.most:
            self.fail(f"{value!r} is not a whole number from {self.least} to {self.most}", param, ctx)
        return int(digits)


class Webhook(click.ParamType[str, str]):
    """A URL of a webhook."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Imports redis, which is slow to load.
        from pipeline.jobs.webhooks import check_webhook

        try:
            return check_webhook(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Number(click.ParamType[float, str]):
    """A number from `least` to `most`, both included."""

    name = "number"
    what = "number"

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self.least <= number <= self.most:
            self.fail(f"{value!r} is not a {self.what} from {self.least:g} to {self.most:g}", param, ctx)
        return number


class Seconds(Number):
    """A time from `least` to `most` seconds, both included."""

    name = "seconds"
    what = "number of seconds"


class Setting(click.ParamType[tuple[str, tuple[float, ...]], str]):
    """NAME=VALUE, or NAME=V1,V2,..."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, ...]]:
        if isinstance(value, tuple):
            return value
        name, equals, numbers = value.partition("=")
        try:
            if not name or not equals:
                raise ValueError
            return name, parse_numbers(numbers)
        except ValueError:
            self.fail(f"{value!r} is not NAME=NUMBER, or NAME=NUMBER,NUMBER,...", param, ctx)


def _as_settings(
    _ctx: click.Context, _param: click.Parameter, pairs: tuple[tuple[str, tuple[float, ...]], ...]
) -> dict[str, tuple[float, ...]]:
    """The settings by name; the last value of each counts."""
    return dict(pairs)


class Device(click.ParamType[str, str]):
    """auto, cpu, gpu or gpu:N; the worker checks whether it exists."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not DEVICE.fullmatch(value):
            self.fail(f"{value!r} is unknown: use auto, cpu, gpu or gpu:N", param, ctx)
        return str(value)


#: A file to write.
FILE = click.Path(dir_okay=False, path_type=Path)

take_over_option = click.option(
    "--take-over", is_flag=True, help="Do not wait for another maker at DEST, which you know to be gone."
)

redis_option = click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help="Redis or Valkey to use.  [default: NOISEMILL_REDIS_URL or the file NOISEMILL_REDIS_URL_FILE, else localhost]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
device_option = work_option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    metavar="auto|cpu|gpu:N",
    help="Device to compute on; auto takes the first GPU, else the CPU.",
)


def together(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Combines options into one decorator, in the order of their help."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _trust(_ctx: click.Context, _param: click.Parameter, files: tuple[str, ...]) -> None:
    if files:
        from pipeline.generators.trusted_code import trust  # Other commands do without generators.

        trust(files)


#: Of commands that load a generator; after it this process and its children trust the code.
trust_option = click.option(
    "--trust",
    multiple=True,
    is_flag=False,
    flag_value=TRUST_OWN,
    expose_value=False,
    callback=_trust,
    metavar="[FILE.py]",
    help="Run this code for a model that needs it; alone: what its generator.toml names.",
)

#: Options of commands that load the generator that data names.
generator_options = together(
    click.option("--generator", metavar="REF", help="The generator, if not at the location in the data."),
    click.option("--judge", metavar="REF", help="The judge, if not at the location in the data."),
    click.option(
        "--trust-generator",
        is_flag=True,
        help="Load the generator and the judge in the data, even if you never named them here.",
    ),
    trust_option,
)

_LABELS_HELP = "balanced, random, class:K, counts:K=100,L=50 or a file.  [default: balanced]"
_PRECISION_HELP = "float32, tf32, mixed_float16 or mixed_bfloat16."
_NOISE_HELP = "normal, normal:SIGMA, uniform or truncated:T."

settings_option = _samples(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    callback=_as_settings,
    metavar="NAME=VALUE",
    help="Another constant for an input.",
)


def sampler_options(*steps: str) -> Callable[[_Command], _Command]:
    """How a denoiser samples; `steps` are the names of its steps."""
    return together(
        _sampling("--sampler", metavar="METHOD", help=f"Of a denoiser: {'|'.join(METHODS)}."),
        _sampling(*steps, type=Whole(1, MAX_STEPS), help="Its steps from noise to data."),
        _sampling("--guidance", type=Number(0, MAX_GUIDANCE), help="Weight of the label; 1 is no guidance."),
        _sampling("--eta", type=Number(0, 1), help="Fresh noise of ddim, 0 to 1."),
    )


#: The choice among candidates.
candidate_options = together(
    _choice("--best-of", type=Whole(2, MAX_BEST_OF), help="Candidates per sample; the best one is kept."),
    _choice("--judge", metavar="JUDGE", help="What scores them: a model, or fashion-judge."),
    _choice("--enough", type=Number(-1e30, 1e30), metavar="S", help="Take the first candidate with this score."),
)

#: Options that define a job; the same for `generate`, `submit` and `schedule add`.
job_options = together(
    _samples("--count", "-n", type=Count(), help="Number of samples: 10000, 10_000, 10k, 1M."),
    _samples("--seed", type=Whole(0, MAX_SEED), default=0, show_default=True, help="Same seed, same samples."),
    _samples("--labels", metavar="PLAN", help=_LABELS_HELP),
    _samples("--noise", default="normal", show_default=True, metavar="NOISE", help=_NOISE_HELP),
    _samples("--latents", metavar="FILE.npy", help="Your own latents, (count, latent_dim)."),
    _samples("--attributes", metavar="PLAN", help="The generator's attributes: FILE.npy or V,V"),
    settings_option,
    _samples("--precision", default="float32", show_default=True, metavar="PRECISION", help=_PRECISION_HELP),
    sampler_options("--steps"),
    candidate_options,
    _choice("--min-score", type=Number(-1e30, 1e30), metavar="S", help="Mark samples with a lower score."),
    _files("--format", default="npy", show_default=True, metavar="FORMAT", help="npy|png|tar|tfrecord|parquet|null"),
    _files("--dtype", metavar="float32|float16|uint8", help="Stored type.  [default: float32; as PNG: uint8]"),
    _files("--layout", metavar="flat|class", help="PNGs by shard or by class.  [default: flat]"),
    _files("--shard-size", type=Count(), help="Samples per shard.  [default: about 64 MiB]"),
    work_option("--batch", type=Batch(), default="auto", show_default=True, help="Samples a pass, or measured."),
    work_option("--dry-run", is_flag=True, help="Print the size, and make nothing."),
)

_SHARING_HELP = "Most workers that share the job."
_WEBHOOK_HELP = "URL to call when the job has ended."

#: Options for queueing; the same for `submit` and `schedule add`.
queueing_options = together(
    work_option("--workers", "--parallel", "workers", type=Whole(1, MAX_WORKERS), help=_SHARING_HELP),
    work_option("--priority", type=Whole(0, 9), default=5, show_default=True, help="0 comes first, 9 last."),
    work_option("--webhook", type=Webhook(), metavar="URL", help=_WEBHOOK_HELP),
)
