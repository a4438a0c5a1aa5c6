"""The places between noise and data at which a denoiser is evaluated, and its time input there.

The noisy sample at a place is x = alpha * data + sigma * noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.generators.denoiser import Denoiser

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The places of a sampler's steps, from noise to data; all arrays are float64."""

    #: The time input at the start of each step, (steps,).
    times: _Floats
    #: Share of data and of noise at the start of each step and at the end of the last, (steps + 1,); they end in 1, 0.
    alpha: _Floats
    sigma: _Floats
    #: Standard deviation of the first step's start: 1, or the first sigma if alpha is always 1.
    latent_scale: float


def grid(denoiser: Denoiser, steps: int) -> Grid:
    """The places of this many steps on a denoiser's schedule."""
    time, alpha, sigma = _SCHEDULES[denoiser.schedule](denoiser, steps)
    with np.errstate(divide="ignore"):
        times = {
            "timestep": time,
            "fraction": time,
            "noise_variance": sigma**2,
            "log_snr": 2 * (np.log(alpha) - np.log(sigma)),
            "sigma": sigma / np.maximum(alpha, np.finfo(np.float64).tiny),
        }[denoiser.time_as]
    latent_scale = float(sigma[0]) if denoiser.schedule == "karras" else 1.0
    return Grid(times=times, alpha=np.append(alpha, 1.0), sigma=np.append(sigma, 0.0), latent_scale=latent_scale)


def _cosine(denoiser: Denoiser, steps: int) -> tuple[_Floats, _Floats, _Floats]:
    """Angles at equal distances, between two signal rates: Keras' example of DDIM (keras.io/examples/generative/ddim).

    Time is 1 at noise; the last step starts at 1 / steps and ends in what it predicts.
    """
    time = 1 - np.arange(steps) / steps
    first, last = np.arccos([denoiser.constant("max_signal_rate"), denoiser.constant("min_signal_rate")])
    angle = first + time * (last - first)
    return time, np.cos(angle), np.sin(angle)


def _linear(denoiser: Denoiser, steps: int) -> tuple[_Floats, _Floats, _Floats]:
    """Betas that grow by equal amounts (Ho et al., 2006.11239), of which every (timesteps // steps)-th is taken.

    `leading` ends at timestep 0, as in DDIM (2010.02502, D.2); `trailing` starts at the last one (Lin et al.,
    2305.08891, section 3.3).
    """
    timesteps = int(denoiser.constant("timesteps"))
    betas = np.linspace(denoiser.constant("beta_start"), denoiser.constant("beta_end"), timesteps)
    if dict(denoiser.constants)["spacing"] == "leading":
        time = (np.arange(steps) * (timesteps // steps))[::-1]
    else:
        time = np.rint(np.arange(timesteps, 0, -timesteps / steps))[:steps].astype(np.int64) - 1
    data = np.cumprod(1 - betas)[time]
    return time.astype(np.float64), np.sqrt(data), np.sqrt(1 - data)


def _karras(denoiser: Denoiser, steps: int) -> tuple[_Floats, _Floats, _Floats]:
    """Standard deviations of noise that is added to the whole data (Karras et al., 2206.00364, equation 5)."""
    rho = denoiser.constant("rho")
    high, low = denoiser.constant("sigma_max") ** (1 / rho), denoiser.constant("sigma_min") ** (1 / rho)
    sigma = (high + np.arange(steps) / max(1, steps - 1) * (low - high)) ** rho
    return sigma, np.ones(steps), sigma


def _flow(denoiser: Denoiser, steps: int) -> tuple[_Floats, _Floats, _Floats]:
    """Straight from noise to data (Lipman et al., 2210.02747; Liu et al., 2209.03003), time being the share of data.

    With `noise_at = 1` it is the share of noise. A shift s moves places towards noise: a share of noise u becomes
    s u / (1 + (s - 1) u) (Esser et al., 2403.03206, equation 23).
    """
    even, shift = 1 - np.arange(steps) / steps, denoiser.constant("shift")
    noise = shift * even / (1 + (shift - 1) * even)
    return noise if denoiser.constant("noise_at") else 1 - noise, 1 - noise, noise


_SCHEDULES: dict[str, Callable[[Denoiser, int], tuple[_Floats, _Floats, _Floats]]] = {
    "cosine": _cosine,
    "linear": _linear,
    "karras": _karras,
    "flow": _flow,
}
