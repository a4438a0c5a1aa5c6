"""`[sampler]` in `generator.toml`: a network that removes noise, and is called many times to make a sample.

    [sampler]
    predicts = "noise"                  # or "sample" ("denoised" is EDM's word for it), or "velocity"
    mean = 0.45                         # of the training data, one number or one per channel:
    scale = 0.27                        # a sample is mean + scale * result of the last step
    none = 10                           # the label that means "no label", for guidance
    method = "ddim"                     # the defaults of a job
    steps = 20
    guidance = 1.0
    eta = 0.0

    [sampler.time]                      # the input that takes the time, and as what:
    input = "noise_variances"           # "timestep", "fraction", "noise_variance", "log_snr" or "sigma"
    as = "noise_variance"

    [sampler.schedule]                  # x = alpha * data + sigma * noise along the way
    kind = "cosine"                     # "cosine", "linear", "karras" or "flow", and its constants
    min_signal_rate = 0.02

Everything but the defaults of jobs determines what the network computes, and is part of the generator's digest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.common.errors import UsageError, shown
from pipeline.spec.sampler import Sampler

#: What a network may predict.
PREDICTIONS = ("noise", "sample", "denoised", "velocity")
#: What its time input may take.
TIMES = ("timestep", "fraction", "noise_variance", "log_snr", "sigma")

#: Constants of each schedule, by kind; formulas are in `workers.engine.samplers.schedules`.
SCHEDULES: dict[str, dict[str, float | str]] = {
    "cosine": {"min_signal_rate": 0.02, "max_signal_rate": 0.95},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "timesteps": 1000, "spacing": "leading"},
    "karras": {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
    "flow": {"noise_at": 0, "shift": 1.0},
}
#: Predictions and times that each schedule supports. `flow` starts at alpha 0, where data cannot be computed from the
#: noise, and the log-SNR is infinite.
_PREDICTIONS_OF = dict.fromkeys(SCHEDULES, PREDICTIONS) | {
    "karras": ("noise", "sample", "denoised"),
    "flow": ("sample", "denoised", "velocity"),
}
_TIMES_OF = {
    "cosine": ("fraction", "noise_variance", "log_snr", "sigma"),
    "linear": ("timestep", "noise_variance", "log_snr", "sigma"),
    "karras": ("log_snr", "sigma"),
    "flow": ("fraction",),
}
_KEYS = {"predicts", "mean", "scale", "none", "method", "steps", "guidance", "eta", "time", "schedule"}


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """What a network predicts of a noisy sample, and its schedule."""

    #: One of PREDICTIONS.
    predicts: str
    #: Name of the input that takes the time, and one of TIMES.
    time_input: str
    time_as: str
    #: One of SCHEDULES, and all its constants in order.
    schedule: str
    constants: tuple[tuple[str, float | str], ...]
    #: Of the data: a sample is mean + scale * data. One number, or one a channel.
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    #: The label that means none; -1 of one-hot labels is a row of zeros. None where there is no such label.
    none: int | None

    def constant(self, name: str) -> float:
        """A constant of the schedule that is a number."""
        return float(dict(self.constants)[name])

    def check(self, sampler: Sampler) -> None:
        """Raises UsageError for a sampler that cannot be used with this network."""
        if sampler.guided and self.none is None:
            raise UsageError(
                f"guidance {sampler.guidance:g} needs a generator that was also trained without labels: name the label "
                "that means none in generator.toml, [sampler] none"
            )
        if self.schedule == "linear" and sampler.steps > self.constant("timesteps"):
            raise UsageError(f"steps {sampler.steps} are more than the {self.constant('timesteps'):g} of its schedule")


def read_denoiser(table: Any) -> tuple[Denoiser, Sampler]:
    """The contents of `[sampler]`: the network, and the default sampler of jobs. Raises ValueError."""
    if not isinstance(table, dict):
        raise ValueError(f"sampler is {shown(table)}, write [sampler] and lines below it")
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise ValueError(f"unknown sampler.{', sampler.'.join(unknown)}")
    predicts = _one_of("predicts", table.get("predicts"), PREDICTIONS)
    time_input, time_as = _time(table.get("time"))
    kind, constants = _schedule(table.get("schedule"))
    if predicts not in _PREDICTIONS_OF[kind]:
        raise ValueError(f"[sampler] predicts {predicts!r} has no meaning on a {kind} schedule")
    if time_as not in _TIMES_OF[kind]:
        raise ValueError(f"the time of a {kind} schedule cannot be {time_as!r}: it is {' or '.join(_TIMES_OF[kind])}")
    none = table.get("none")
    if none is not None and (type(none) is not int or none < -1):
        raise ValueError(f"[sampler] none {shown(none)} is not a label")
    denoiser = Denoiser(
        predicts=predicts,
        time_input=time_input,
        time_as=time_as,
        schedule=kind,
        constants=constants,
        mean=_numbers("mean", table.get("mean", 0.0)),
        scale=_numbers("scale", table.get("scale", 1.0)),
        none=none,
    )
    optional = {name: table[name] for name in ("guidance", "eta") if name in table}
    try:
        sampler = Sampler(method=table.get("method", "ddim"), steps=table.get("steps", 20), **optional)
        denoiser.check(sampler)
    except UsageError as error:
        raise ValueError(f"[sampler] {error}") from None
    return denoiser, sampler


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        problem = "is missing" if value is None else f"{shown(value)} is unknown"
        raise ValueError(f"[sampler] {name} {problem}: it is one of {', '.join(known)}")
    return value


def _time(table: Any) -> tuple[str, str]:
    if not isinstance(table, dict) or not isinstance(table.get("input"), str) or set(table) != {"input", "as"}:
        raise ValueError(f'[sampler.time] takes input = "NAME" and as = one of {", ".join(TIMES)}')
    return table["input"], _one_of("time as", table["as"], TIMES)


def _schedule(table: Any) -> tuple[str, tuple[tuple[str, float | str], ...]]:
    """The kind of a schedule and its constants, with defaults for missing ones."""
    if not isinstance(table, dict):
        raise ValueError(f"[sampler.schedule] takes kind = one of {', '.join(SCHEDULES)}")
    kind = _one_of("schedule kind", table.get("kind"), tuple(SCHEDULES))
    constants = {name: value for name, value in table.items() if name != "kind"}
    unknown = sorted(set(constants) - set(SCHEDULES[kind]))
    if unknown:
        raise ValueError(f"[sampler.schedule] a {kind} schedule has no {unknown[0]}: {', '.join(SCHEDULES[kind])}")
    for name, value in constants.items():
        if name != "spacing" and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"[sampler.schedule] {name} {shown(value)} is not a number")
    values = SCHEDULES[kind] | constants
    wrong = next((text for holds, text in _rules(kind, values) if not holds), None)
    if wrong is not None:
        raise ValueError(f"[sampler.schedule] {wrong}")
    return kind, tuple(sorted((name, value if name == "spacing" else float(value)) for name, value in values.items()))


def _rules(kind: str, values: dict[str, Any]) -> list[tuple[bool, str]]:
    """(whether it holds, what holds) for the constants of a schedule."""
    match kind:
        case "cosine":
            low, high = values["min_signal_rate"], values["max_signal_rate"]
            return [(0 < low < high <= 1, "takes 0 < min_signal_rate < max_signal_rate <= 1")]
        case "linear":
            timesteps = values["timesteps"]
            return [
                (0 < values["beta_start"] <= values["beta_end"] < 1, "takes 0 < beta_start <= beta_end < 1"),
                (timesteps == int(timesteps) and 1 <= timesteps <= 100_000, "timesteps is 1 to 100,000"),
                (values["spacing"] in ("leading", "trailing"), "spacing is leading or trailing"),
            ]
        case "karras":
            low, high, rho = values["sigma_min"], values["sigma_max"], values["rho"]
            return [(0 < low < high <= 1e6 and 0 < rho <= 100, "takes 0 < sigma_min < sigma_max, and 0 < rho <= 100")]
        case _:
            return [
                (values["noise_at"] in (0, 1), "noise_at is the time of noise, 0 or 1"),
                (0 < values["shift"] <= 100, "shift is more than 0, up to 100"),
            ]


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(each) in (int, float) and math.isfinite(each) for each in values):
        raise ValueError(f"[sampler] {name} {shown(value)} is not a number, nor one a channel")
    return tuple(map(float, values))
