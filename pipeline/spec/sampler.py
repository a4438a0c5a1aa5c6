"""How samples are made from a denoiser: method, steps, guidance and fresh noise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pipeline.common.errors import UsageError, shown

#: `euler` takes the same steps as `ddim` with eta 0, and `ddpm` the same as `ddim` with eta 1.
METHODS = ("ddim", "ddpm", "euler", "heun", "dpm++2m")
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0

#: Numbers per sample from which the noise of all its steps is drawn (`pipeline.spec.latents.noise_keys`).
KEY_DIM = 4


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampling method with its settings. Raises UsageError for invalid ones.

    With guidance w the prediction is u + w (c - u), where c is the prediction with the label and u the one without. As
    in Saharia et al. (2205.11487), 1 is no guidance; Ho and Salimans (2207.12598) call it 1 + w.
    """

    #: One of METHODS.
    method: str
    #: Steps from noise to data, 1 to MAX_STEPS.
    steps: int
    #: Weight of the label, 0 to MAX_GUIDANCE; 1 is no guidance.
    guidance: float = 1.0
    #: Share of DDPM's noise that DDIM adds anew in each step, 0 to 1 (2010.02502, equation 16).
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"sampler {shown(self.method)} is not one of {', '.join(METHODS)}")
        if type(self.steps) is not int or not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(f"steps {shown(self.steps)} is not a whole number from 1 to {MAX_STEPS:,}")
        for name, value, most in (("guidance", self.guidance, MAX_GUIDANCE), ("eta", self.eta, 1.0)):
            if type(value) not in (int, float) or not 0 <= value <= most:
                raise UsageError(f"{name} {shown(value)} is not a number from 0 to {most:g}")
        if self.eta and self.method != "ddim":
            raise UsageError(f"eta {self.eta:g} is a setting of ddim alone, not of {self.method}")

    @property
    def passes(self) -> int:
        """Calls of the network per batch: two per step of `heun`, except the last."""
        return 2 * self.steps - 1 if self.method == "heun" else self.steps

    @property
    def guided(self) -> bool:
        """Whether each pass evaluates every sample twice, with its label and without."""
        return self.guidance != 1

    @property
    def evaluations(self) -> int:
        """Evaluations of the network per sample."""
        return self.passes * (2 if self.guided else 1)

    @property
    def noise_share(self) -> float:
        """Eta of the steps; 1 for `ddpm`."""
        return 1.0 if self.method == "ddpm" else self.eta

    def __str__(self) -> str:
        """The form that `parse_sampler` reads; canonical: ddim:steps=20,guidance=3,eta=0.5."""
        text = f"{self.method}:steps={self.steps}"
        for name, value, usual in (("guidance", self.guidance, 1.0), ("eta", self.eta, 0.0)):
            if value != usual:
                text += f",{name}={repr(float(value)).removesuffix('.0')}"
        return text


def parse_sampler(text: str) -> Sampler:
    """The sampler that `str` wrote. Raises UsageError for any other text."""
    number = r"[0-9.e+-]{1,30}"
    match = re.fullmatch(rf"([a-z0-9+]{{1,20}}):steps=([0-9]{{1,6}})(,guidance={number})?(,eta={number})?", text)
    if match is None:
        raise UsageError(f"sampler {shown(text)} is not METHOD:steps=N")
    try:
        pairs = [each[1:].split("=") for each in match.groups()[2:] if each]
        given = {name: float(value) for name, value in pairs}
    except ValueError:
        raise UsageError(f"sampler {shown(text)} is not METHOD:steps=N") from None
    sampler = Sampler(method=match[1], steps=int(match[2]), **given)
    if not all(map(math.isfinite, given.values())) or str(sampler) != text:
        raise UsageError(f"sampler {shown(text)} is not written as {str(sampler)!r}")
    return sampler
