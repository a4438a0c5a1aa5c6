"""Samples as the schedulers of Hugging Face's diffusers make them: `python diffusers_samplers.py IN.npz OUT.npz`.

Run in the environment of `make readers`. IN holds the latents, fresh noise of each step, the network's weights and, as
JSON, the cases; OUT the samples of each case. The network is that of `test_samplers.py`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import diffusers.schedulers.scheduling_ddpm as ddpm
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
_TOLD = {"noise": "epsilon", "velocity": "v_prediction", "sample": "sample"}

given = np.load(sys.argv[1])
WEIGHTS = {name: torch.tensor(given[name]) for name in ("first", "time", "last")}
NOISE = torch.tensor(given["noise"]).permute(0, 1, 4, 2, 3)


def network(x: Any, time: Any) -> Any:
    """Two convolutions, with the time between them."""
    hidden = F.conv2d(x, WEIGHTS["first"].permute(3, 2, 0, 1), padding=1) + time * WEIGHTS["time"][None, :, None, None]
    return F.conv2d(F.silu(hidden), WEIGHTS["last"].permute(3, 2, 0, 1), padding=1)


def denoised(x: Any, sigma: Any) -> Any:
    """The network with EDM's scaling around it."""
    total = (sigma**2 + 0.25) ** 0.5
    return 0.25 / total**2 * x + sigma * 0.5 / total * network(x / total, torch.log(torch.as_tensor(sigma)) / 4)


def linear(case: dict[str, Any], x: Any) -> Any:
    """DDIM, DDPM and DPM-Solver++ over timesteps."""
    told = {**_BETAS, "timestep_spacing": case["spacing"], "prediction_type": _TOLD[case["predicts"]]}
    if case["method"] == "ddim":
        scheduler = DDIMScheduler(**told, clip_sample=False)
    elif case["method"] == "ddpm":
        scheduler = DDPMScheduler(**told, clip_sample=False, variance_type="fixed_small")
    else:
        scheduler = DPMSolverMultistepScheduler(**told, solver_order=2, final_sigmas_type="zero")
    scheduler.set_timesteps(case["steps"])
    for step, timestep in enumerate(scheduler.timesteps):
        more = {"eta": case["eta"], "variance_noise": NOISE[step] if case["eta"] else None}
        ddpm.randn_tensor = lambda *_, fresh=NOISE[step], **__: fresh
        predicted = 0.7 * x + network(x, float(timestep) / 1000)
        x = scheduler.step(predicted, timestep, x, **(more if case["method"] == "ddim" else {})).prev_sample
    return x


def karras(case: dict[str, Any], x: Any) -> Any:
    """Euler, DPM-Solver++ and Heun over sigmas."""
    low, high = case["sigma_min"], case["sigma_max"]
    if case["method"] == "heun":
        scheduler = HeunDiscreteScheduler(**_BETAS, use_karras_sigmas=True)
        scheduler.set_timesteps(case["steps"])
        assert abs(float(scheduler.sigmas[0]) - high) < 1e-3 * high
    else:
        solver = EDMEulerScheduler if case["method"] == "euler" else EDMDPMSolverMultistepScheduler
        scheduler = solver(sigma_min=low, sigma_max=high)
        scheduler.set_timesteps(case["steps"])
    x = x * high
    for timestep in scheduler.timesteps:
        if case["method"] == "heun":
            if scheduler.step_index is None:
                scheduler._init_step_index(timestep)
            sigma = float(scheduler.sigmas[scheduler.step_index])
            predicted = (x - denoised(x, sigma)) / sigma
        else:
            predicted = network(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(predicted, timestep, x).prev_sample
    return x


def flow(case: dict[str, Any], x: Any) -> Any:
    """Euler along the straight line from noise, at time 1, to data."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=case["shift"])
    scheduler.set_timesteps(sigmas=list(np.linspace(1, 1 / case["steps"], case["steps"])))
    for step, timestep in enumerate(scheduler.timesteps):
        time = float(scheduler.sigmas[step])
        x = scheduler.step(0.5 * x + network(x, time), timestep, x).prev_sample
    return x


samples = {}
with torch.no_grad():
    for number, case in enumerate(json.loads(str(given["cases"]))):
        latents = torch.tensor(given["latents"]).permute(0, 3, 1, 2)
        made = {"linear": linear, "karras": karras, "flow": flow}[case["schedule"]](case, latents)
        samples[str(number)] = made.permute(0, 2, 3, 1).numpy()
np.savez(sys.argv[2], **samples)
