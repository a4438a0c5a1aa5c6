"""Samplers against the papers' formulas, step by step in NumPy, and against a denoiser whose flow is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import UsageError
from pipeline.generators.denoiser import Denoiser, read_denoiser
from pipeline.spec.latents import noise_keys
from pipeline.spec.sampler import METHODS, Sampler, parse_sampler

tf = pytest.importorskip("tensorflow")
from workers.engine.samplers.loop import sampled  # noqa: E402
from workers.engine.samplers.methods import table  # noqa: E402
from workers.engine.samplers.noise import normal, philox  # noqa: E402
from workers.engine.samplers.schedules import grid  # noqa: E402

Array = NDArray[np.float64]

TIME_AS = {"cosine": "noise_variance", "linear": "timestep", "karras": "sigma", "flow": "fraction"}
#: What each schedule may be predicted by.
PAIRS = [
    ("cosine", "noise"), ("cosine", "sample"), ("cosine", "velocity"), ("linear", "noise"), ("linear", "velocity"),
    ("karras", "denoised"), ("karras", "noise"), ("flow", "velocity"), ("flow", "sample"),
]  # fmt: skip
LATENTS = np.random.default_rng(7).standard_normal((6, 3, 2, 1)).astype(np.float32)
KEYS = noise_keys(5, 0, 6)


def denoiser(schedule: str, predicts: str, **constants: Any) -> Denoiser:
    told = {"time": {"input": "t", "as": TIME_AS[schedule]}, "schedule": {"kind": schedule, **constants}}
    return read_denoiser({"predicts": predicts, **told})[0]


def run(which: Denoiser, sampler: Sampler, predict: Callable[..., Any], latents: Any = LATENTS) -> Array:
    return np.asarray(sampled(table(which, sampler), predict, tf.constant(latents), tf.constant(KEYS)), np.float64)


def of_gaussian(which: Denoiser, mean: float, deviation: float, library: Any) -> Callable[..., Any]:
    """The exact prediction where the data are normal: E[data | x], and what follows from it.

    Alpha and sigma are computed from the time input, in another way than in the package.
    """

    def rates(time: Any) -> tuple[Any, Any]:
        match which.schedule:
            case "cosine":
                return (1 - time) ** 0.5, time**0.5
            case "karras":
                return 1.0, time
            case "flow":
                return (1 - time, time) if which.constant("noise_at") else (time, 1 - time)
        betas = np.linspace(which.constant("beta_start"), which.constant("beta_end"), int(which.constant("timesteps")))
        products = library.cast(np.cumprod(1 - betas), library.float32) if library is tf else np.cumprod(1 - betas)
        product = library.gather(products, library.cast(time, "int32")) if library is tf else products[int(time)]
        return product**0.5, (1 - product) ** 0.5

    def predict(x: Any, time: Any) -> Any:
        alpha, sigma = rates(time)
        data = (alpha * deviation**2 * x + sigma**2 * mean) / (alpha**2 * deviation**2 + sigma**2)
        if which.predicts in ("sample", "denoised"):
            return data
        noise = (x - alpha * data) / sigma
        if which.predicts == "noise":
            return noise
        if which.schedule == "flow":
            return noise - data if which.constant("noise_at") else data - noise
        return alpha * noise - sigma * data

    return predict


# -- the papers' formulas, one step after the other ------------------------------------------------------------


def of_papers(which: Denoiser, sampler: Sampler, predict: Callable[..., Any], latents: Any) -> Array:
    """What a sampler must make, from data and noise at each step, in float64."""
    places = grid(which, sampler.steps)
    x = latents.astype(np.float64) * places.latent_scale
    before: tuple[Array, float] | None = None
    for step in range(sampler.steps):
        (a, b), (s, t) = places.alpha[step : step + 2], places.sigma[step : step + 2]
        data, noise = split(which, x, predict(x, places.times[step]), a, s)
        last = step == sampler.steps - 1
        if sampler.method in ("ddim", "ddpm"):
            # Its variance is the posterior's of DDPM, times eta squared.
            variance = sampler.noise_share**2 * t**2 / s**2 * (s**2 - (a / b) ** 2 * t**2)
            fresh = np.asarray(normal(tf.constant(KEYS), tf.constant(step), x[0].size), np.float64).reshape(x.shape)
            x = b * data + np.sqrt(max(0.0, t**2 - variance)) * noise + np.sqrt(max(0.0, variance)) * fresh
        elif sampler.method == "euler" and which.schedule == "flow":
            x = x + (b - a) * (data - noise)
        elif sampler.method == "euler" or (sampler.method == "heun" and last):
            x = b * (x / a + (t / b - s / a) * noise) if a else b * data + t * noise
        elif sampler.method == "heun":
            straight = which.schedule == "flow"
            ahead = x + (b - a) * (data - noise) if straight else b * (x / a + (t / b - s / a) * noise)
            data2, noise2 = split(which, ahead, predict(ahead, places.times[step + 1]), b, t)
            if straight:
                x = x + (b - a) / 2 * (data - noise + data2 - noise2)
            else:
                x = b * (x / a + (t / b - s / a) / 2 * (noise + noise2))
        else:
            with np.errstate(divide="ignore"):
                h = np.log(b / t) - np.log(a / s)
            if last:
                x = data
            else:
                ratio = before[1] / h if before is not None else np.inf
                mixed = data if before is None else (1 + 1 / (2 * ratio)) * data - 1 / (2 * ratio) * before[0]
                x = t / s * x - b * np.expm1(-h) * mixed
            before = data, h
    return x


def split(which: Denoiser, x: Array, predicted: Array, a: float, s: float) -> tuple[Array, Array]:
    """Data and noise of x by a prediction."""
    match which.predicts:
        case "noise":
            return (x - s * predicted) / a, predicted
        case "velocity" if which.schedule == "flow":
            velocity = -predicted if which.constant("noise_at") else predicted
            return x + s * velocity, x - a * velocity
        case "velocity":
            return a * x - s * predicted, s * x + a * predicted
    return predicted, (x - a * predicted) / s


def network(x: Any, time: Any) -> Any:
    """Stands in for a network that is neither linear nor exact."""
    library: Any = tf if tf.is_tensor(x) else np
    return 0.8 * library.tanh(0.7 * x + 0.01 * time) + 0.1 * x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("schedule", "predicts"), PAIRS)
def test_each_method_is_the_papers(schedule: str, predicts: str, method: str) -> None:
    which = denoiser(schedule, predicts, **({"sigma_max": 10.0} if schedule == "karras" else {}))
    for steps in (1, 2, 7):
        for eta in (0.0, 0.6) if method == "ddim" else (0.0,):
            sampler = Sampler(method=method, steps=steps, eta=eta)
            wanted = of_papers(which, sampler, network, LATENTS)
            np.testing.assert_allclose(run(which, sampler, network), wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize(("method", "order"), [("euler", 0.9), ("heun", 1.6), ("dpm++2m", 1.2)])
@pytest.mark.parametrize(("schedule", "predicts"), [PAIRS[index] for index in (0, 4, 5, 7)])
def test_more_steps_come_nearer_to_the_flow(schedule: str, predicts: str, method: str, order: float) -> None:
    """Of normal data the flow keeps (x - alpha mean) / deviation of x as it is, all the way."""
    mean, deviation = 0.6, 0.5
    which = denoiser(schedule, predicts)
    predict = of_gaussian(which, mean, deviation, tf)

    def error(steps: int) -> float:
        places = grid(which, steps)
        a, s = places.alpha[0], places.sigma[0]
        wanted = mean + deviation * (places.latent_scale * LATENTS - a * mean) / np.hypot(a * deviation, s)
        # The last step goes where the network points, from a place that is still noisy: of a schedule that ends there.
        a, s = places.alpha[-2], places.sigma[-2]
        end = a * mean + np.hypot(a * deviation, s) * (wanted - mean) / deviation
        wanted = (a * deviation**2 * end + s**2 * mean) / (a**2 * deviation**2 + s**2)
        return float(np.abs(run(which, Sampler(method=method, steps=steps), predict) - wanted).max())

    few, many = error(50), error(100)
    assert many < 0.05
    assert many < 1e-5 or few / many > 2**order


def test_fresh_noise_keeps_the_distribution() -> None:
    which = denoiser("linear", "noise")
    latents = np.random.default_rng(1).standard_normal((3000, 4)).astype(np.float32)
    predict = of_gaussian(which, 0.6, 0.5, tf)
    passes = table(which, Sampler(method="ddpm", steps=1000))
    compiled = tf.function(lambda x, keys: sampled(passes, predict, x, keys), autograph=False)
    samples = compiled(latents, noise_keys(0, 0, 3000)).numpy()
    assert abs(samples.mean() - 0.6) < 0.02
    assert abs(samples.std() - 0.5) < 0.02
    # It is not the flow's sample of this latent: half of it at the least was drawn anew.
    assert abs(np.corrcoef(samples.ravel(), latents.ravel())[0, 1]) < 0.7


# -- schedules -------------------------------------------------------------------------------------------------


def test_the_places_of_each_schedule() -> None:
    cosine = grid(denoiser("cosine", "noise"), 4)
    np.testing.assert_allclose(cosine.alpha[[0, -1]], [0.02, 1.0])
    np.testing.assert_allclose(cosine.alpha[:-1] ** 2 + cosine.sigma[:-1] ** 2, 1)
    np.testing.assert_allclose(cosine.times, cosine.sigma[:-1] ** 2)
    assert list(grid(denoiser("linear", "noise"), 4).times) == [750, 500, 250, 0]
    assert list(grid(denoiser("linear", "noise", spacing="trailing"), 4).times) == [999, 749, 499, 249]
    assert len(set(grid(denoiser("linear", "noise", spacing="trailing"), 7).times)) == 7
    karras = grid(denoiser("karras", "denoised"), 3)
    np.testing.assert_allclose(karras.sigma, [80, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.002, 0])
    assert karras.latent_scale == 80
    flow = grid(denoiser("flow", "velocity", shift=3.0), 4)
    np.testing.assert_allclose(flow.sigma, [1, 0.9, 0.75, 0.5, 0])
    np.testing.assert_allclose(flow.times, 1 - flow.sigma[:-1])
    np.testing.assert_allclose(grid(denoiser("flow", "velocity", noise_at=1), 4).times, [1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([], "write [sampler]"),
        ({"song": 1}, "unknown sampler.song"),
        ({"predicts": None}, "predicts is missing"),
        ({"predicts": "score"}, "'score' is unknown: it is one of noise, sample, denoised, velocity"),
        ({"time": {"input": "t"}}, "[sampler.time] takes input"),
        ({"time": {"input": "t", "as": "hours"}}, "time as 'hours' is unknown"),
        ({"time": {"input": "t", "as": "timestep"}}, "the time of a cosine schedule cannot be 'timestep': it is"),
        ({"schedule": None}, "[sampler.schedule] takes kind"),
        ({"schedule": {"kind": "flow"}, "predicts": "noise"}, "predicts 'noise' has no meaning on a flow schedule"),
        ({"schedule": {"kind": "cosine", "rho": 7}}, "a cosine schedule has no rho"),
        ({"schedule": {"kind": "cosine", "min_signal_rate": 2}}, "0 < min_signal_rate < max_signal_rate <= 1"),
        ({"schedule": {"kind": "cosine", "min_signal_rate": "low"}}, "min_signal_rate 'low' is not a number"),
        ({"schedule": {"kind": "linear", "timesteps": 0.5}}, "timesteps is 1 to 100,000"),
        ({"schedule": {"kind": "linear", "spacing": "even"}}, "spacing is leading or trailing"),
        ({"none": "nobody"}, "none 'nobody' is not a label"),
        ({"mean": []}, "mean [] is not a number"),
        ({"scale": float("inf")}, "scale inf is not a number"),
        ({"method": "plms"}, "'plms' is not one of ddim, ddpm"),
        ({"steps": 0}, "steps 0 is not a whole number from 1 to 1,000"),
        ({"guidance": 3}, "guidance 3 needs a generator that was also trained without labels"),
        ({"guidance": True}, "guidance True is not a number"),
        ({"eta": 0.5, "method": "heun"}, "eta 0.5 is a setting of ddim alone"),
    ],
)
def test_a_wrong_sidecar_is_told(table: Any, reason: str) -> None:
    sound = {"predicts": "noise", "time": {"input": "t", "as": "noise_variance"}, "schedule": {"kind": "cosine"}}
    wrong = {**sound, **table} if isinstance(table, dict) else table
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_denoiser(wrong)


# -- what a job says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["ddim:steps=20", "ddim:steps=1,eta=0.5", "heun:steps=1000,guidance=1.5", "ddim:steps=2,guidance=0,eta=1"]
)
def test_a_sampler_is_read_as_it_was_written(text: str) -> None:
    assert str(parse_sampler(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "ddim", "ddim:steps=0", "ddim:steps=1001", "ddim:steps=07", "ddim:steps=2,guidance=1", "ddim:steps=2,eta=0.50",
     "euler:steps=2,eta=1", "ddim:steps=2,guidance=nan", "ddim:steps=2,guidance=1e9", "ddim:steps=2,eta=-1",
     "ddim:steps=2,eta=.", "ddim:steps=2\n", "ddim:eta=1,steps=2", "lcm:steps=2"],
)  # fmt: skip
def test_no_other_text_is_a_sampler(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sampler(text)


def test_evaluations() -> None:
    assert Sampler(method="heun", steps=10).evaluations == 19
    assert Sampler(method="heun", steps=10, guidance=2.0).evaluations == 38
    assert Sampler(method="ddpm", steps=10).evaluations == 10


# -- noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_philox_gives_the_known_answers(
    counter: list[int], key: list[int], words: list[int], jit_compile: bool
) -> None:
    """Those of Random123, its authors' library (kat_vectors, philox4x32 of 10 rounds)."""
    compiled = tf.function(philox, jit_compile=jit_compile, autograph=False)
    made = compiled(*([tf.constant([each], tf.uint32) for each in given] for given in (counter, key)))
    assert [int(word[0]) for word in made] == words


def test_noise_is_normal_and_each_samples_own() -> None:
    keys = noise_keys(3, 0, 500)
    numbers = normal(tf.constant(keys), tf.constant(4), 301).numpy()
    assert numbers.shape == (500, 301)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((np.abs(numbers) > 1.959964).mean() - 0.05) < 0.003
    correlations = np.corrcoef(numbers) - np.eye(500)
    assert np.abs(correlations).max() < 6 / np.sqrt(301)
    alone = normal(tf.constant(keys[77:78]), tf.constant(4), 301).numpy()
    np.testing.assert_allclose(alone[0], numbers[77], atol=1e-6)
    for other in (normal(tf.constant(keys), tf.constant(5), 301), normal(tf.constant(noise_keys(4, 0, 500)), 4, 301)):
        assert abs(np.corrcoef(other.numpy().ravel(), numbers.ravel())[0, 1]) < 0.02


def test_keys_depend_on_seed_and_index_alone() -> None:
    keys = noise_keys(7, 1000, 100)
    assert np.array_equal(keys[40:60], noise_keys(7, 1040, 20))
    assert len(np.unique(noise_keys(7, 0, 5000), axis=0)) == 5000
    assert not np.array_equal(keys, noise_keys(8, 1000, 100))
    assert np.array_equal(keys * 2**24, np.rint(keys * 2**24))
