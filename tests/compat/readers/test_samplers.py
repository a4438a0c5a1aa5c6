"""Samplers make what the schedulers of Hugging Face's diffusers make, by PyTorch, of the same latents and network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.generators.denoiser import read_denoiser
from pipeline.spec.latents import latents, noise_keys
from pipeline.spec.sampler import Sampler
from tests.compat.readers.blocks import ROOT

pytestmark = [pytest.mark.compat, pytest.mark.timeout(600)]

PYTHON = ROOT / ".venv-readers" / "bin" / "python"
COUNT, SIZE, CHANNELS = 4, 8, 3
_AS = {"linear": "timestep", "karras": "sigma", "flow": "fraction"}
#: Ends of the sigmas that diffusers' Heun derives from linear betas.
_HEUN: dict[str, Any] = {"sigma_min": 0.010001329705119133, "sigma_max": 157.4072723388672}


def case(schedule: str, predicts: str, method: str, steps: int = 10, **more: Any) -> dict[str, Any]:
    """A case for both sides. The steps of `linear` divide its timesteps, else diffusers' DDIM leaves its own grid."""
    usual: dict[str, Any] = {"linear": {"spacing": "leading"}, "karras": {"sigma_min": 0.002, "sigma_max": 80.0}}
    told = {"eta": 0.0, **usual.get(schedule, {"noise_at": 1, "shift": 1.0}), **more}
    return {"schedule": schedule, "predicts": predicts, "method": method, "steps": steps, **told}


CASES = [
    *(case("linear", predicts, "ddim", spacing=spacing) for predicts in ("noise", "velocity", "sample")
      for spacing in ("leading", "trailing")),
    case("linear", "noise", "ddim", eta=0.5),
    case("linear", "noise", "ddpm", 50), case("linear", "velocity", "ddpm", 50, spacing="trailing"),
    case("linear", "noise", "dpm++2m", spacing="trailing"), case("linear", "velocity", "dpm++2m", spacing="trailing"),
    case("karras", "denoised", "euler"), case("karras", "denoised", "dpm++2m"),
    case("karras", "denoised", "heun", **_HEUN),
    case("flow", "velocity", "euler"), case("flow", "velocity", "euler", shift=3.0),
]  # fmt: skip


def made_here(told: dict[str, Any], weights: dict[str, Any], x: Any, keys: Any) -> Any:
    """Samples by the loop that workers compile."""
    import tensorflow as tf

    from workers.engine.samplers.loop import sampled
    from workers.engine.samplers.methods import table

    def network(x: Any, time: Any) -> Any:
        hidden = tf.nn.conv2d(x, weights["first"], 1, "SAME") + time * weights["time"]
        return tf.nn.conv2d(tf.nn.silu(hidden), weights["last"], 1, "SAME")

    def denoised(x: Any, sigma: Any) -> Any:
        total = tf.sqrt(sigma**2 + 0.25)
        return 0.25 / total**2 * x + sigma * 0.5 / total * network(x / total, tf.math.log(sigma) / 4)

    predict = {
        "linear": lambda x, timestep: 0.7 * x + network(x, timestep / 1000),
        "karras": denoised,
        "flow": lambda x, time: 0.5 * x + network(x, time),
    }[told["schedule"]]
    names = {"linear": ("spacing",), "karras": ("sigma_min", "sigma_max"), "flow": ("noise_at", "shift")}
    schedule = {"kind": told["schedule"], **{name: told[name] for name in names[told["schedule"]]}}
    time = {"input": "t", "as": _AS[told["schedule"]]}
    denoiser = read_denoiser({"predicts": told["predicts"], "time": time, "schedule": schedule})[0]
    passes = table(denoiser, Sampler(method=told["method"], steps=told["steps"], eta=told["eta"]))
    compiled = tf.function(lambda x, keys: sampled(passes, predict, x, keys), jit_compile=True, autograph=False)
    return compiled(x, keys).numpy()


def test_samples_are_those_of_diffusers(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("no .venv-readers: make readers")
    import tensorflow as tf

    from workers.engine.samplers.noise import normal

    random = np.random.default_rng(5)
    weights: dict[str, Any] = {
        "first": random.standard_normal((3, 3, CHANNELS, 16)).astype(np.float32) * np.float32(0.25),
        "time": random.standard_normal(16).astype(np.float32),
        "last": random.standard_normal((3, 3, 16, CHANNELS)).astype(np.float32) * np.float32(0.08),
    }
    dim = SIZE * SIZE * CHANNELS
    x, keys = latents(3, 0, COUNT, dim).reshape(COUNT, SIZE, SIZE, CHANNELS), noise_keys(3, 0, COUNT)
    noise = [normal(tf.constant(keys), tf.constant(step), dim).numpy().reshape(x.shape) for step in range(50)]
    np.savez(tmp_path / "in.npz", latents=x, noise=np.stack(noise), cases=json.dumps(CASES), **weights)
    script = Path(__file__).with_name("diffusers_samplers.py")
    command = [str(PYTHON), str(script), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = np.load(tmp_path / "out.npz")
    for number, told in enumerate(CASES):
        ours = made_here(told, weights, x, keys)
        difference = np.abs(ours - theirs[str(number)]).max() / np.ptp(ours)
        print(f"{difference:.1e} of full scale: {told}")
        assert difference < 1e-5, told
