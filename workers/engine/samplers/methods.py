"""The passes of a sampler as a table of coefficients, computed ahead in float64.

Every method here is linear in the network's predictions, so all of them are one recurrence. A pass evaluates the
network F at x, and has a memory m from the pass before:

    x'  =  x_x x + x_f F + x_m m + noise z
    m'  =  m_x x + m_f F

z is fresh noise of a normal distribution. With s and t for a step's start and end, x = alpha data + sigma noise there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.generators.denoiser import Denoiser
from pipeline.spec.sampler import Sampler
from workers.engine.samplers.schedules import Grid, grid

_Floats = NDArray[np.float64]

#: Columns of `Table.coefficients`.
COLUMNS = ("x_x", "x_f", "x_m", "noise", "m_x", "m_f")


@dataclass(frozen=True, kw_only=True)
class Table:
    """All passes of a sampler."""

    #: The first pass starts at the latent times this.
    latent_scale: float
    #: The time input of each pass, float64 of shape (passes,).
    times: _Floats
    #: Float64 of shape (passes, 6), by COLUMNS.
    coefficients: _Floats

    @property
    def adds_noise(self) -> bool:
        """Whether any pass adds fresh noise."""
        return bool(self.coefficients[:, COLUMNS.index("noise")].any())

    @property
    def remembers(self) -> bool:
        """Whether any pass uses the memory."""
        return bool(self.coefficients[:, COLUMNS.index("x_m")].any())


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Data and noise of x, by the prediction F: data = d_x x + d_f F, noise = n_x x + n_f F; (steps,) each."""

    d_x: _Floats
    d_f: _Floats
    n_x: _Floats
    n_f: _Floats


def table(denoiser: Denoiser, sampler: Sampler) -> Table:
    """The passes that a sampler takes with a denoiser."""
    places = grid(denoiser, sampler.steps)
    parts = _parts(denoiser, places)
    if sampler.method == "heun":
        times, coefficients = np.repeat(places.times, 2)[:-1], _heun(denoiser, places, parts)
        times[1::2] = places.times[1:]
    elif sampler.method == "dpm++2m":
        times, coefficients = places.times, _dpm_2m(places, parts)
    else:
        times, coefficients = places.times, _ddim(places, parts, sampler.noise_share)
    return Table(latent_scale=places.latent_scale, times=times, coefficients=coefficients)


def _parts(denoiser: Denoiser, places: Grid) -> _Parts:
    a, s = places.alpha[:-1], places.sigma[:-1]
    one, zero = np.ones_like(a), np.zeros_like(a)
    with np.errstate(divide="ignore"):
        if denoiser.predicts == "noise":
            return _Parts(d_x=1 / a, d_f=-s / a, n_x=zero, n_f=one)
        if denoiser.predicts in ("sample", "denoised"):
            return _Parts(d_x=zero, d_f=one, n_x=1 / s, n_f=-a / s)
    if denoiser.schedule == "flow":
        # The velocity is dx/dt: data - noise where time goes towards data (2210.02747, equation 22).
        sign = -1.0 if denoiser.constant("noise_at") else 1.0
        return _Parts(d_x=one, d_f=sign * s, n_x=one, n_f=-sign * a)
    # v = alpha noise - sigma data (Salimans and Ho, 2202.00512, section 4), where alpha^2 + sigma^2 = 1.
    return _Parts(d_x=a, d_f=-s, n_x=s, n_f=a)


def _rows(steps: int) -> dict[str, _Floats]:
    return {name: np.zeros(steps) for name in COLUMNS}


def _stacked(rows: dict[str, _Floats]) -> _Floats:
    return np.stack([rows[name] for name in COLUMNS], axis=1)


def _ddim(places: Grid, parts: _Parts, eta: float) -> _Floats:
    """x_t = alpha_t data + sqrt(sigma_t^2 - fresh^2) noise + fresh z (Song et al., 2010.02502, equation 12).

    fresh is eta times the standard deviation of x_t given x_s and data, as in DDPM (2006.11239, equation 7):
    sigma_t / sigma_s sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2). With eta 0 it is Euler's step along the line of
    the flow, and along x / alpha over sigma / alpha on the other schedules.
    """
    a_s, s_s, a_t, s_t = places.alpha[:-1], places.sigma[:-1], places.alpha[1:], places.sigma[1:]
    fresh = eta * s_t / s_s * np.sqrt(np.maximum(0, s_s**2 - (a_s / a_t * s_t) ** 2))
    kept = np.sqrt(np.maximum(0, s_t**2 - fresh**2))
    rows = _rows(len(a_s))
    rows["x_x"] = a_t * parts.d_x + kept * parts.n_x
    rows["x_f"] = a_t * parts.d_f + kept * parts.n_f
    rows["noise"] = fresh
    return _stacked(rows)


def _heun(denoiser: Denoiser, places: Grid, parts: _Parts) -> _Floats:
    """Euler's step, then a step with the mean of both slopes, except for the last step (2206.00364, algorithm 1).

    The slope is the noise, of x / alpha over sigma / alpha; on a straight flow it is data - noise, of x over alpha.
    The first pass of a step leaves its part of the result in the memory for the second.
    """
    a, s = places.alpha, places.sigma
    euler = _ddim(places, parts, 0.0)
    rows = _rows(2 * len(parts.d_x) - 1)
    for name, column in zip(COLUMNS, euler.T, strict=True):
        rows[name][::2] = column
    if denoiser.schedule == "flow":
        slope_x, slope_f = parts.d_x - parts.n_x, parts.d_f - parts.n_f
        length, kept = a[1:] - a[:-1], np.ones(len(a) - 1)
    else:
        slope_x, slope_f = parts.n_x, parts.n_f
        length, kept = s[1:] - a[1:] / a[:-1] * s[:-1], a[1:] / a[:-1]
    half = length[:-1] / 2
    rows["m_x"][:-1:2], rows["m_f"][:-1:2] = kept[:-1] + half * slope_x[:-1], half * slope_f[:-1]
    rows["x_x"][1::2], rows["x_f"][1::2] = half * slope_x[1:], half * slope_f[1:]
    rows["x_m"][1::2] = 1.0
    return _stacked(rows)


def _dpm_2m(places: Grid, parts: _Parts) -> _Floats:
    """DPM-Solver++(2M): x_t = sigma_t / sigma_s x - alpha_t (exp(-h) - 1) D (Lu et al., 2211.01095, algorithm 2).

    D = (1 + 1 / (2 r)) data - 1 / (2 r) data of the step before; h is the step in lambda = log(alpha / sigma), r the
    length of the step before over this one's. The first step and the last, whose end has no lambda, are DDIM's.
    """
    a, s = places.alpha, places.sigma
    rows = dict(zip(COLUMNS, _ddim(places, parts, 0.0).T.copy(), strict=True))
    with np.errstate(divide="ignore"):
        steps = np.diff(np.log(a) - np.log(s))
    middle = np.arange(1, len(steps) - 1)
    share = 0.5 * steps[middle] / steps[middle - 1]
    weight = -a[middle + 1] * np.expm1(-steps[middle])
    rows["x_x"][middle] = s[middle + 1] / s[middle] + weight * (1 + share) * parts.d_x[middle]
    rows["x_f"][middle] = weight * (1 + share) * parts.d_f[middle]
    rows["x_m"][middle] = -weight * share
    rows["m_x"], rows["m_f"] = parts.d_x, parts.d_f
    return _stacked(rows)
