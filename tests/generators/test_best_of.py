"""Jobs whose samples are the best of several candidates, from end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noisemill as noisemill_package
from pipeline.datasets.candidates import bits_of, pack
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.receipts import Receipt
from pipeline.generators import Choice, find_generator, find_judge
from pipeline.generators.sampling import draw, interpolate
from tests.generators.suite import CPU, noisemill
from workers.engine.calibration import CalibratedEngines
from workers.engine.engine import Engine
from workers.once.recompute import _behind, compare

DATA = Path(__file__).parents[1] / "data"
TINY, JUDGE = str(DATA / "tiny.keras"), str(DATA / "tiny_judge.keras")
CHOICE = ["--best-of", 4, "--judge", JUDGE, "--seed", 3]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 samples by one worker, in two shards."""
    folder = tmp_path_factory.mktemp("best")
    noisemill("generate", TINY, "one", *CHOICE, "--min-score", 0.5, "--count", 60, "--shard-size", 40, cwd=folder)
    return folder


def winners_of(dataset: Dataset) -> list[int]:
    winners = dataset.winners(0, 60)
    assert winners is not None
    return winners.tolist()


def test_shards_batches_and_workers_change_nothing(one: Path) -> None:
    how = ["--min-score", 0.5, "--count", 60, "--shard-size", 11, "--batch", 4, "--workers", 2]
    noisemill("generate", TINY, "two", *CHOICE, *how, cwd=one)
    first, second = (Dataset(str(one / name)) for name in ("one", "two"))
    assert winners_of(first) == winners_of(second)
    assert np.array_equal(first.latents(0, 60), second.latents(0, 60))
    np.testing.assert_allclose(first.samples(0, 60), second.samples(0, 60), atol=2e-6)
    assert first.below_min_score().tolist() == second.below_min_score().tolist()
    assert {receipt.made_by.batch for receipt in second.receipts().values()} == {4}


def test_it_is_checked_and_made_again(one: Path) -> None:
    checked = noisemill("verify", "one", "--recompute", 60, "--judge", JUDGE, cwd=one).stdout
    assert "60 of 60" in checked, checked
    noisemill("recipe", "one", cwd=one)
    assert json.loads((one / "one.recipe.json").read_text())["job"]["best_of"] == 4
    again = noisemill("reproduce", "one.recipe.json", "again", cwd=one).stdout
    assert "2 bit-equal" in again, again
    refused = noisemill("generate", TINY, "one", "--seed", 3, "--count", 60, "--shard-size", 40, cwd=one, check=False)
    assert "best of 4, not 1" in refused.stderr


def test_the_first_that_is_enough(one: Path) -> None:
    enough = ["--enough", 0.25, "--count", 60, "--shard-size", 40]
    noisemill("generate", TINY, "enough", *CHOICE, *enough, cwd=one)
    best, first = Dataset(str(one / "one")), Dataset(str(one / "enough"))
    assert sum(winners_of(first)) < sum(winners_of(best))
    checked = noisemill("verify", "enough", "--recompute", 60, "--judge", JUDGE, cwd=one).stdout
    assert "60 of 60" in checked, checked
    drawn = draw(find_generator(TINY), 17, seed=3, best_of=4, judge=JUDGE, enough=0.25)
    assert drawn.candidate == winners_of(first)[17]
    assert "--enough 0.25" in (one / "enough" / "README.md").read_text()


def test_single_samples_and_latents(one: Path) -> None:
    dataset, found = Dataset(str(one / "one")), find_generator(TINY)
    winners = winners_of(dataset)
    drawn = draw(found, 41, seed=3, best_of=4, judge=JUDGE)
    np.testing.assert_allclose(drawn.samples[0], dataset.samples(41, 1)[0], atol=2e-6)
    assert drawn.candidate == winners[41]
    assert drawn.score is not None
    assert 0 < drawn.score < 1
    told = json.loads(noisemill("latents", "one", "--index", 41, "--json", cwd=one).stdout)
    assert told[0]["candidate"] == winners[41]
    assert told[0]["latent"] == dataset.latents(41)[0].tolist()
    way = interpolate(found, 41, 45, 3, seed=3, best_of=4, judge=JUDGE)
    np.testing.assert_allclose(way.samples[[0, 2]], dataset.samples(41, 5)[[0, 4]], atol=2e-6)


def test_another_winner_is_found_unless_rounding_explains_it(one: Path, tmp_path: Path) -> None:
    """A recorded winner that is not the best differs, even though its sample is stored as it should be."""
    engines = CalibratedEngines(find_generator(TINY), CPU, tmp_path / "cache")
    judge = find_judge(JUDGE)
    assert compare(Dataset(str(one / "one")), [3], engines, judge).different == ()
    shutil.copytree(one / "one", tmp_path / "forged")
    dataset = Dataset(str(tmp_path / "forged"))
    rows, labels = dataset.rows(0, 40), dataset.labels(0, 40)
    judged = engines.judging_engine("tf", 40, "float32", (), None, Choice(best_of=4, judge=judge)).predict(rows, labels)
    worst = judged.ranks().argmin(axis=1)
    others = engines.engine("tf", 40).predict(rows[np.arange(40) * 4 + worst], labels).samples()
    samples = np.load(tmp_path / "forged" / "shards" / "00000000.npy")
    changed = np.array(winners_of(dataset)[:40], np.int32)
    for index in (3, 5):
        samples[index], changed[index] = others[index], worst[index]
    np.save(tmp_path / "forged" / "shards" / "00000000.npy", samples)
    path = tmp_path / "forged" / "receipts" / "00000000.json"
    receipt = Receipt.from_json(path.read_bytes(), "r")
    assert receipt.candidates is not None
    record = replace(receipt.candidates, winners=pack(changed, bits_of(4)))
    path.write_text(replace(receipt, candidates=record).to_json())
    assert compare(Dataset(str(tmp_path / "forged")), [2, 3, 4, 5], engines, judge).different == (3, 5)

    engines = EvenEngines(find_generator(TINY), CPU, tmp_path / "cache")
    assert compare(Dataset(str(tmp_path / "forged")), [2, 3, 4, 5], engines, judge).different == ()


class EvenEngines(CalibratedEngines):
    """Its judge finds all candidates alike but for rounding, and others the best."""

    def judging_engine(self, *how: Any) -> Any:
        import tensorflow as tf

        engine = super().judging_engine(*how)
        ranks = np.random.default_rng(0).uniform(0, 1e-4, (engine.batch, 4)).astype(np.float32)

        def predict(*fed: Any) -> Any:
            made = Engine.predict(engine, *fed)
            return replace(made, tensors=(made.tensors[0], tf.argmax(ranks, axis=1), tf.constant(ranks)))

        engine.predict = predict  # type: ignore[assignment, method-assign]
        return engine


def test_how_far_a_winner_may_be_behind() -> None:
    ranks = np.array([[1.0, 2.0, 4.0], [np.nan, -np.inf, 0.5]], np.float32)

    def behind(winners: list[int], enough: float) -> list[float]:
        return _behind(ranks, np.array(winners, np.int32), enough).tolist()

    assert behind([2, 2], np.inf) == [0, 0]
    assert behind([1, 2], np.inf) == [0.5, 0]
    assert behind([0, 0], np.inf)[1] > 1e9
    # The first that is enough: neither an earlier one that is not, nor a later one.
    assert behind([1, 2], 1.5) == [0, 0]
    assert behind([0, 2], 1.5) == [0.125, 0]
    assert behind([2, 2], 1.5) == [0.125, 0]
    assert behind([2, 2], 2.0) == [0, 0]


def test_a_worker_loads_no_judge_that_only_the_job_names(one: Path, tmp_path: Path) -> None:
    """`resume` of data that names a judge which this user never named."""
    shutil.copytree(one / "one", tmp_path / "one")
    shutil.copy(JUDGE, tmp_path / "moved.keras")
    job = json.loads((tmp_path / "one" / "job.json").read_text())
    job["judge"] = str(tmp_path / "gone.keras")
    (tmp_path / "one" / "job.json").write_text(json.dumps(job))
    (tmp_path / "one" / "receipts" / "00000001.json").unlink()
    refused = noisemill("resume", "one", cwd=tmp_path, check=False)
    assert "the job's judge cannot be found" in refused.stderr
    assert "--judge" in refused.stderr
    noisemill("resume", "one", "--judge", "moved.keras", cwd=tmp_path)
    assert Dataset(str(tmp_path / "one")).whole
    assert np.array_equal(Dataset(str(tmp_path / "one")).samples(0, 60), Dataset(str(one / "one")).samples(0, 60))


def test_a_stream_has_the_same_winners(one: Path) -> None:
    with noisemill_package.stream(TINY, count=60, batch_size=25, seed=3, best_of=4, judge=JUDGE) as batches:
        samples = np.concatenate([each for each, _ in batches])
    np.testing.assert_allclose(samples, Dataset(str(one / "one")).samples(0, 60), atol=2e-6)
