"""Denoisers, from which a sample is made in many passes: what `[sampler]` says, and jobs from end to end."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError, UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.recipe import Recipe
from pipeline.generators import find_generator
from pipeline.generators.sampling import draw, interpolate
from pipeline.jobs.request import JobRequest
from pipeline.jobs.sizing import estimate_size
from pipeline.jobs.worker_info import WorkerInfo
from pipeline.spec.job_spec import JobSpec
from pipeline.spec.latents import latents, noise_keys
from pipeline.spec.sampler import Sampler, parse_sampler
from tests.generators.denoiser import SIDECAR, write_flow
from tests.generators.suite import CPU, noisemill, save_keras
from tests.making import make_dataset
from workers.engine.calibration import CalibratedEngines
from workers.engine.engine import Engine
from workers.engine.generators import load_generator
from workers.once.recompute import compare

keras = pytest.importorskip("keras")

DIM = 16


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of images of 4x4, a time and a label."""
    folder = tmp_path_factory.mktemp("flow") / "model"
    write_flow(folder)
    return folder


def changed(flow: Path, folder: Path, old: str, new: str) -> Path:
    """The same network with another sidecar."""
    assert old in SIDECAR
    shutil.copytree(flow, folder / "changed")
    (folder / "changed" / "generator.toml").write_text(SIDECAR.replace(old, new, 1))
    return folder / "changed"


def made(
    folder: Path, sampler: str, rows: NDArray[Any], labels: NDArray[Any], *, engine: str = "tf", batch: int = 4
) -> NDArray[Any]:
    """Samples through an engine, as a worker computes them."""
    found = find_generator(str(folder))
    compiled = Engine(load_generator(found), found, CPU, engine, batch, sampler=parse_sampler(sampler))
    return np.concatenate(
        [
            compiled.predict(rows[first : first + batch], labels[first : first + batch]).samples()
            for first in range(0, len(rows), batch)
        ]
    )


def rows_of(first: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.concatenate([latents(seed, first, count, DIM), noise_keys(seed, first, count)], axis=1)


def test_it_is_understood(flow: Path) -> None:
    found = find_generator(str(flow))
    interface = found.interface
    assert (interface.latent_input, interface.latent_shape, interface.sample_shape) == ("image", (4, 4, 1), (4, 4, 1))
    assert (interface.label_input, interface.classes) == ("label", ("0", "1", "2"))
    assert interface.denoiser is not None
    assert (interface.denoiser.time_input, interface.denoiser.none, interface.row_dim) == ("time", 3, DIM + 4)
    assert found.sampler == Sampler(method="euler", steps=5, guidance=2.0)
    assert found.flop_per_sample == 10 * (found.structure.flop or 0) > 0
    told = noisemill("generators", "inspect", flow, cwd=flow.parent).stdout
    for line in (
        "predicts: velocity; time takes the fraction",
        "schedule: flow: noise_at 0.0, shift 1.0",
        "sampler:  euler:steps=5,guidance=2, unless a job says otherwise",
        "no label: 3",
        f"FLOP:     {found.flop_per_sample:,} per sample, {found.structure.flop:,} each time",
    ):
        assert line in told, told
    assert json.loads(noisemill("generators", "inspect", flow, "--json", cwd=flow.parent).stdout)["denoiser"]


@pytest.mark.parametrize("engine", ["tf", "xla"])
def test_guidance_mixes_both_predictions(flow: Path, engine: str) -> None:
    model = keras.models.load_model(flow / "model.keras")
    labels = np.arange(6, dtype=np.int32) % 3
    x = latents(0, 0, 6, DIM).reshape(6, 4, 4, 1)
    for step in range(5):
        time = np.full((6, 1), step / 5, np.float32)
        with_label, without = (np.asarray(model([x, time, each])) for each in (labels, np.full(6, 3, np.int32)))
        x = x + (without + 2.5 * (with_label - without)) / 5
    samples = made(flow, "euler:steps=5,guidance=2.5", rows_of(0, 6), labels, engine=engine)
    np.testing.assert_allclose(samples, 0.1 + 0.5 * x, atol=1e-5)


def test_labels_that_are_one_hot(tmp_path: Path) -> None:
    """Three classes: none is a fourth, or a row of zeros."""
    for none, width in ((3, 4), (-1, 3)):
        keras.utils.set_random_seed(2)
        image, sigma = keras.Input((4,), name="x"), keras.Input((), name="sigma")
        label = keras.Input((width,), name="label")
        told = keras.layers.Concatenate()([image, keras.layers.Reshape((1,))(sigma), label])
        model = keras.Model([image, sigma, label], keras.layers.Dense(4)(told))
        folder = tmp_path / str(width)
        save_keras(folder / "model.keras", model)
        (folder / "generator.toml").write_text(
            f'[label]\nclasses = 3\n[sampler]\npredicts = "denoised"\nnone = {none}\n[sampler.time]\ninput = "sigma"\n'
            'as = "sigma"\n[sampler.schedule]\nkind = "karras"\nsigma_max = 2.0\n'
        )
        labels = np.array([0, 1, 2], np.int32)
        rows = np.concatenate([latents(0, 0, 3, 4), noise_keys(0, 0, 3)], axis=1)
        samples = made(folder, "ddim:steps=1,guidance=3", rows, labels)
        x, told_sigma = 2 * latents(0, 0, 3, 4), np.full(3, 2, np.float32)
        one_hot = np.eye(width, dtype=np.float32)
        nobody = np.zeros((3, width), np.float32) if none < 0 else np.tile(one_hot[3], (3, 1))
        with_label, without = (np.asarray(model([x, told_sigma, each])) for each in (one_hot[labels], nobody))
        np.testing.assert_allclose(samples, without + 3 * (with_label - without), atol=1e-5)


@pytest.mark.parametrize("engine", ["tf", "xla"])
def test_fresh_noise_is_the_samples_own_whatever_its_neighbours(flow: Path, engine: str) -> None:
    labels = np.arange(13, dtype=np.int32) % 3
    whole = made(flow, "ddpm:steps=6", rows_of(0, 13), labels, engine=engine, batch=13)
    part = made(flow, "ddpm:steps=6", rows_of(5, 8), labels[5:], engine=engine, batch=3)
    np.testing.assert_allclose(part, whole[5:], atol=2e-6)
    flowing = made(flow, "ddim:steps=6", rows_of(0, 13), labels, engine=engine, batch=13)
    assert np.abs(flowing - whole).max() > 0.1
    # Another key, other noise; which nothing changes where none is drawn.
    other = np.concatenate([latents(0, 0, 13, DIM), noise_keys(1, 0, 13)], axis=1)
    assert np.abs(made(flow, "ddpm:steps=6", other, labels, engine=engine, batch=13) - whole).max() > 0.1
    assert np.array_equal(made(flow, "ddim:steps=6", other, labels, engine=engine, batch=13), flowing)


def test_a_job_of_many_shards_and_workers_makes_the_same_samples(flow: Path, tmp_path: Path) -> None:
    sampler = ["--sampler", "ddpm", "--steps", 6, "--guidance", 1.5]
    base = ["generate", flow, "--seed", 7, *sampler]
    noisemill(*base, "one", "--count", 60, "--shard-size", 25, "--batch", 16, cwd=tmp_path)
    noisemill(*base, "two", "--count", 60, "--shard-size", 11, "--batch", 4, "--workers", 2, cwd=tmp_path)
    one, two = (Dataset(str(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_allclose(one.samples(0, 60), two.samples(0, 60), atol=2e-6)
    wanted = made(flow, "ddpm:steps=6,guidance=1.5", one.rows(0, 60), np.arange(60, dtype=np.int32) % 3)
    np.testing.assert_allclose(one.samples(0, 60), wanted, atol=2e-6)
    assert one.spec.sampler == "ddpm:steps=6,guidance=1.5"
    assert JobSpec.from_json(one.spec.to_json()) == one.spec
    # The rest of the way: checked, made again from a recipe, and named in the card.
    checked = noisemill("verify", "one", "--recompute", 60, cwd=tmp_path).stdout
    assert "60 of 60" in checked, checked
    noisemill("recipe", "one", cwd=tmp_path)
    again = noisemill("reproduce", "one.recipe.json", "again", cwd=tmp_path).stdout
    assert "3 bit-equal" in again, again
    card = (tmp_path / "one" / "README.md").read_text()
    assert "--sampler ddpm --steps 6 --guidance 1.5" in card
    assert "| Sampler | ddpm:steps=6,guidance=1.5 |" in card
    drawn = draw(find_generator(str(flow)), 41, seed=7, sampler="ddpm", sampler_steps=6, guidance=1.5)
    np.testing.assert_allclose(drawn.samples[0], one.samples(41, 1)[0], atol=2e-6)
    refused = noisemill(*base[:4], "one", "--count", 60, "--shard-size", 25, "--batch", 16, cwd=tmp_path, check=False)
    assert "sampler ddpm:steps=6,guidance=1.5, not euler:steps=5,guidance=2" in refused.stderr


def test_the_way_between_two_samples(flow: Path) -> None:
    found = find_generator(str(flow))
    way = interpolate(found, 3, 9, 4, label="1", sampler="ddim", eta=0.5, sampler_steps=4)
    assert way.samples.shape == (4, 4, 4, 1)
    first = draw(found, 3, label="1", sampler="ddim", eta=0.5, sampler_steps=4)
    np.testing.assert_allclose(way.samples[0], first.samples[0], atol=2e-6)


def test_latents_of_ones_own_start_the_steps(flow: Path, tmp_path: Path) -> None:
    found = find_generator(str(flow))
    own = np.random.default_rng(3).standard_normal((8, 4, 4, 1)).astype(np.float32)
    np.save(tmp_path / "own.npy", own)
    spec, uploads = JobRequest(latents=str(tmp_path / "own.npy"), sampler="ddpm", steps=3, seed=5).resolve(found)
    engine = CalibratedEngines(found, CPU, tmp_path / "cache").engine("tf", 4, sampler=spec.sampling)
    files = {upload.name: upload.data for upload in uploads}
    dataset = Dataset(str(make_dataset(tmp_path / "out", spec, uploads=files, engine=engine)))
    rows = np.concatenate([own.reshape(8, DIM), noise_keys(5, 0, 8)], axis=1)
    assert np.array_equal(dataset.rows(0, 8), rows)
    wanted = made(flow, "ddpm:steps=3,guidance=2", rows, np.arange(8, dtype=np.int32) % 3)
    np.testing.assert_allclose(dataset.samples(0, 8), wanted, atol=2e-6)


def test_what_changes_samples_is_in_the_identity(flow: Path, tmp_path: Path) -> None:
    found = find_generator(str(flow))
    usual = JobRequest(count=10).resolve(found)[0]
    assert usual.sampler == "euler:steps=5,guidance=2"
    told = JobRequest(count=10, sampler="euler", steps=5, guidance=2).resolve(found)[0]
    assert told.sha256 == usual.sha256
    for other in ({"sampler": "heun"}, {"steps": 6}, {"guidance": 1.0}, {"sampler": "ddim", "eta": 0.3}):
        assert JobRequest(count=10, **other).resolve(found)[0].sha256 != usual.sha256
    # What jobs take by themselves is no part of what the generator is; what the network computes is.
    assert find_generator(str(changed(flow, tmp_path, "steps = 5", "steps = 9"))).digest == found.digest
    shutil.rmtree(tmp_path / "changed")
    assert find_generator(str(changed(flow, tmp_path, "scale = 0.5", "scale = 0.6"))).digest != found.digest


def test_steps_count_in_the_time(flow: Path) -> None:
    found = find_generator(str(flow))
    worker = WorkerInfo(
        id="w", host="h", pid=1, generator="flow", digest=found.digest, latent_shape=(4, 4, 1), sample_shape=(4, 4, 1),
        classes=found.interface.classes, device="cpu", engine="tf", batch=4, rate=100.0, evaluations=10,
        output_roots=(), started_at=0.0, version="1",
    )  # fmt: skip
    usual, longer = (JobRequest(count=1000, steps=steps).resolve(found)[0] for steps in (None, 50))
    assert [estimate_size(spec, [worker]).seconds for spec in (usual, longer)] == [10.0, 100.0]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"steps": 0}, "steps 0 is not a whole number from 1 to 1,000"),
        ({"sampler": "plms"}, "sampler 'plms' is not one of ddim, ddpm, euler, heun, dpm++2m"),
        ({"guidance": -1}, "guidance -1 is not a number from 0 to 100"),
        ({"eta": 0.5}, "eta 0.5 is a setting of ddim alone, not of euler"),
        ({"sampler": "ddim", "eta": 2}, "eta 2 is not a number from 0 to 1"),
    ],
)
def test_wrong_words_are_refused(flow: Path, wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        JobRequest(count=10, **wrong).resolve(find_generator(str(flow)))


def test_other_generators_take_no_sampler() -> None:
    found = find_generator("article-28")
    for wrong in ({"sampler": "ddim"}, {"steps": 5}, {"guidance": 1}, {"eta": 0}):
        with pytest.raises(UsageError, match="this generator makes a sample in one pass"):
            JobRequest(count=10, **wrong).resolve(found)
    with pytest.raises(UsageError, match="a denoiser takes a sampler"):
        found.check_sampler(Sampler(method="ddim", steps=1))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[sampler]", "[sampled]", "unknown sampled"),
        (
            SIDECAR[SIDECAR.index("[sampler]") :],
            "",
            r"noisy sample and its 'time'.* in generator.toml, \[sampler\]",
        ),
        ('input = "time"', 'input = "hour"', r"\[sampler.time\] names the input 'hour', but the model has image, time"),
        ("none = 3", "none = 4", "none is 4: labels are 0 to 3"),
        ("none = 3", "none = 1", "none is 1, which is one of the 4 classes"),
        ("none = 3", "none = -1", "none is -1: labels are"),
        ("none = 3\n", "", "guidance 2 needs a generator that was also trained without labels"),
        ("mean = 0.1", "mean = [0.1, 0.2]", "mean has 2 numbers, samples have 1 channels"),
        ('kind = "flow"', 'kind = "karras"', "predicts 'velocity' has no meaning on a karras schedule"),
        ('as = "fraction"', 'as = "log_snr"', "the time of a flow schedule cannot be 'log_snr': it is fraction"),
    ],
)
def test_a_wrong_sidecar_is_refused(flow: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(GeneratorError, match=reason):
        find_generator(str(changed(flow, tmp_path, old, new)))


def test_a_network_that_puts_out_something_else_is_no_denoiser(tmp_path: Path) -> None:
    x, t = keras.Input((8,), name="x"), keras.Input((1,), name="t")
    joined = keras.layers.Concatenate()([x, t])
    save_keras(tmp_path / "model.keras", keras.Model([x, t], keras.layers.Dense(16)(joined)))
    (tmp_path / "generator.toml").write_text(SIDECAR.replace('"time"', '"t"').replace("none = 3\n", ""))
    with pytest.raises(GeneratorError, match=r"guidance 2 needs"):
        find_generator(str(tmp_path))
    text = SIDECAR.replace('"time"', '"t"').replace("none = 3\n", "").replace("guidance = 2.0\n", "")
    (tmp_path / "generator.toml").write_text(text)
    with pytest.raises(GeneratorError, match=r"has the shape of its input: the latent is \(8\), the output .* \(16\)"):
        find_generator(str(tmp_path))


def test_a_first_sidecar_is_drafted(flow: Path, tmp_path: Path) -> None:
    shutil.copyfile(flow / "model.keras", tmp_path / "model.keras")
    noisemill("generators", "init", "model.keras", cwd=tmp_path)
    found = find_generator(str(tmp_path / "model.keras"))
    assert found.interface.denoiser is not None
    assert (found.interface.latent_input, found.interface.denoiser.time_input) == ("image", "time")
    assert "# none = 3" in (tmp_path / "model.toml").read_text()


# -- how far computing again may be off -----------------------------------------------------------------------------


def amplifier(folder: Path, factor: float) -> Path:
    """A network whose velocity is `factor` times the sample: a step makes it 1 + factor / steps times as large."""
    x, t = keras.Input((6,), name="x"), keras.Input((1,), name="t")
    zero = keras.layers.Dense(6, kernel_initializer="zeros", use_bias=False)(t)
    scaled = keras.layers.Dense(6, kernel_initializer=keras.initializers.Identity(factor), use_bias=False)(x)
    save_keras(folder / "model.keras", keras.Model([x, t], keras.layers.Add()([scaled, zero])))
    (folder / "generator.toml").write_text(
        '[sampler]\npredicts = "velocity"\nmethod = "euler"\nsteps = 8\n[sampler.time]\ninput = "t"\nas = "fraction"\n'
        '[sampler.schedule]\nkind = "flow"\n[output]\nrange = [-1.0, 1.0]\n'
    )
    return folder


def test_a_disturbed_run_tells_what_errors_in_each_pass_come_to(tmp_path: Path) -> None:
    """Euler's steps of v = k x: an error e of a pass is e / 8 of the step, and what later steps make of that."""
    rows = np.concatenate([latents(0, 0, 500, 6), noise_keys(0, 0, 500)], axis=1)
    for factor in (0.0, 6.0):
        found = find_generator(str(amplifier(tmp_path / str(factor), factor)))
        engines = CalibratedEngines(found, CPU, tmp_path / "cache")
        engine = engines.engine("tf", 500)
        sound = engine.predict(rows, None).samples().astype(np.float64)
        moved = engines.disturbed_engine(engine, 1e-3).predict(rows, None).samples() - sound
        growth = 1 + factor / 8
        largest = np.abs(rows[:, :6]).max(axis=1)
        errors = [1e-3 * largest * factor * growth**step / 8 * growth ** (7 - step) for step in range(8)]
        wanted = np.sqrt(np.sum(np.square(errors), axis=0))
        np.testing.assert_allclose(np.sqrt((moved**2).mean()), np.sqrt((wanted**2).mean()), rtol=0.05, atol=1e-12)


def test_the_tolerance_grows_with_what_steps_amplify(tmp_path: Path) -> None:
    """A difference of 3e-5 of full scale is what rounding in each step may come to, or damage."""
    for factor, is_damage in ((-0.5, True), (6.0, False)):
        found = find_generator(str(amplifier(tmp_path / f"model{factor}", factor)))
        engines = CalibratedEngines(found, CPU, tmp_path / "cache")
        spec = JobRequest(count=8, noise="truncated:0.5", batch=8).resolve(found)[0]
        folder = make_dataset(tmp_path / f"out{factor}", spec, engine=engines.engine("tf", 8))
        path, indices = folder / "shards" / "00000000.npy", list(range(8))
        untouched = compare(Dataset(str(folder)), indices, engines)
        assert (untouched.identical, untouched.different, untouched.tolerance) == (8, (), 1e-5)
        samples = np.load(path)
        for moved, damaged in ((3e-5, is_damage), (0.3, True)):
            changed = samples.copy()
            changed[3] += moved * 2
            np.save(path, changed)
            found_again = compare(Dataset(str(folder)), indices, engines)
            assert found_again.identical == 7
            assert found_again.different == ((3,) if damaged else ()), found_again


def test_a_recipe_allows_each_pass_its_rounding(flow: Path) -> None:
    found = find_generator(str(flow))

    def tolerance(steps: int) -> float:
        spec = JobRequest(count=10, steps=steps).resolve(found)[0]
        nothing: Any = None
        return Recipe(
            noisemill="", spec=spec, made_by=(), statistics=nothing, inputs={}, fingerprints=nothing
        ).tolerance

    assert tolerance(40) == pytest.approx(40 * tolerance(1))


# -- large latents --------------------------------------------------------------------------------------------------


def test_blocks_of_large_latents_are_smaller_and_a_part_of_the_job(flow: Path) -> None:
    """16x16x1 is small: nothing of the job changes. 64x64x3 is large."""
    small = JobRequest(count=10).resolve(find_generator(str(flow)))[0]
    assert "latent_block" not in json.loads(small.to_json())
    found = find_generator(str(flow))
    large = replace(found, interface=replace(found.interface, latent_shape=(64, 64, 3), sample_shape=(64, 64, 3)))
    spec = JobRequest(count=10).resolve(large)[0]
    assert json.loads(spec.to_json())["latent_block"] == spec.latent_block == 256
    assert JobSpec.from_json(spec.to_json()) == spec
    # Datasets made before keep their blocks.
    before = {name: value for name, value in json.loads(spec.to_json()).items() if name != "latent_block"}
    assert JobSpec.from_json(json.dumps(before)).latent_block == 1024
    assert JobSpec.from_json(json.dumps(before)).sha256 != spec.sha256
