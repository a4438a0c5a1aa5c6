"""Candidates in a dataset: which won, what the judge gave, and what readers, exports and `verify` make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import DatasetError, SampleError
from pipeline.datasets.candidates import CandidateStatistics, Scores, bits_of, merged_scores, pack, unpack
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.export import export
from pipeline.datasets.receipts import Receipt
from pipeline.datasets.recipe import recipe_of
from pipeline.datasets.verification import verify
from pipeline.spec.latents import latents
from tests.making import Chosen, StandIn, make_dataset, make_spec

CHOICE: dict[str, Any] = {
    "best_of": 5, "judge": "judge.keras", "judge_digest": "sha256:" + "a" * 64, "min_score": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 100 samples, each the best of five; nobody changes it."""
    return make_dataset(tmp_path_factory.mktemp("chosen") / "out", make_spec(**CHOICE))


def winners_of(dataset: Dataset) -> list[int]:
    winners = dataset.winners(0, len(dataset))
    assert winners is not None
    return winners.tolist()


@given(st.integers(2, 256).flatmap(lambda most: st.tuples(st.just(most), st.lists(st.integers(0, most - 1)))))
def test_winners_come_back(case: tuple[int, list[int]]) -> None:
    best_of, winners = case
    text = pack(np.array(winners, np.int32), bits_of(best_of))
    assert unpack(text, len(winners), bits_of(best_of)).tolist() == winners


def test_a_million_winners_are_half_a_megabyte() -> None:
    assert len(pack(np.zeros(10**6, np.int32), bits_of(8))) == 500_000


def test_the_best_is_stored_with_its_latent(chosen: Path) -> None:
    dataset = Dataset(str(chosen))
    winners = winners_of(dataset)
    assert len(set(winners)) == 5
    each = latents(7, 0, 500, 8).reshape(100, 5, 8)
    assert np.array_equal(dataset.latents(0, 100), each[np.arange(100), winners])
    assert np.array_equal(dataset.latents(37, 5), dataset.latents(0, 100)[37:42])
    assert dataset.rows(2, 3).tolist() == each[2:5].reshape(15, 8).tolist()
    made = StandIn(best_of=5).predict(dataset.rows(0, 100), dataset.labels())
    assert np.array_equal(dataset.samples(0, 100), made.values)
    assert isinstance(made, Chosen)
    assert winners == made.won.tolist()


@pytest.mark.parametrize("changes", [{"shard_size": 7}, {"shard_size": 100}, {"count": 60}])
def test_neither_shards_nor_batches_change_the_winners(changes: dict[str, Any], chosen: Path, tmp_path: Path) -> None:
    spec = make_spec(**{**CHOICE, **changes})
    other = Dataset(str(make_dataset(tmp_path / "out", spec, engine=StandIn(best_of=5, batch=3))))
    dataset = Dataset(str(chosen))
    assert winners_of(other) == winners_of(dataset)[: spec.count]
    assert np.array_equal(other.samples(0, spec.count), dataset.samples(0, spec.count))
    assert other.below_min_score().tolist() == dataset.below_min_score(0, spec.count).tolist()


def test_scores_by_class_and_marks(chosen: Path) -> None:
    dataset = Dataset(str(chosen))
    made = StandIn(best_of=5).predict(dataset.rows(0, 100), dataset.labels())
    manifest, labels = dataset.manifest(), dataset.labels()
    assert isinstance(made, Chosen)
    assert manifest is not None
    assert manifest.scores is not None
    best = made.scored.max(axis=1)
    for label in range(4):
        mine = labels == label
        assert manifest.scores.candidates[label] == pytest.approx(made.scored[mine].mean())
        assert manifest.scores.winners[label] == pytest.approx(best[mine].mean())
    assert manifest.scores.candidates_below == tuple(int((made.scored[labels == k] < 0.1).sum()) for k in range(4))
    assert manifest.scores.winners_below == tuple(int((best[labels == k] < 0.1).sum()) for k in range(4))
    assert 0 < len(dataset.below_min_score()) < 100
    assert dataset.below_min_score().tolist() == np.flatnonzero(best < 0.1).tolist()


def test_without_classes_and_minimum(tmp_path: Path) -> None:
    spec = make_spec(**{**CHOICE, "min_score": None, "classes": None, "labels": None})
    dataset = Dataset(str(make_dataset(tmp_path / "out", spec)))
    manifest = dataset.manifest()
    assert manifest is not None
    assert manifest.scores is not None
    assert len(manifest.scores.winners) == 1
    assert manifest.scores.winners_below is None
    assert dataset.below_min_score().size == 0
    assert verify(dataset.url).sound


def test_a_job_without_candidates_has_no_word_of_them(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", make_spec())
    assert Dataset(str(folder)).winners(0, 3) is None
    assert "candidates" not in (folder / "receipts" / "00000000.json").read_text()
    assert "scores" not in json.loads((folder / "manifest.json").read_text())
    assert "candidates" not in json.loads((folder / "shards.jsonl").read_text().splitlines()[0])


def test_winners_are_unknown_until_the_shard_is_made(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", make_spec(**CHOICE), finished=False)
    (folder / "receipts" / "00000001.json").unlink()
    assert Dataset(str(folder)).latents(0, 30).shape == (30, 8)
    with pytest.raises(DatasetError, match="is known once shard 1 of"):
        Dataset(str(folder)).latents(25, 10)


@pytest.mark.parametrize("change", [
    {"winners": "AAAA"}, {"winners": "?"}, {"winners": 3}, {"below": None}, {"below": "AAAA"},
    {"winners": pack(np.full(30, 7, np.int32), 3)}, {"scores": {"candidates": [0.5]}},
    {"scores": {"candidates": [0.5], "winners": [0.5], "candidates_below": None, "winners_below": None}},
])  # fmt: skip
def test_damaged_candidates_are_refused(change: dict[str, Any], chosen: Path, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", make_spec(**CHOICE))
    path = folder / "receipts" / "00000000.json"
    receipt = json.loads(path.read_text())
    receipt["candidates"] |= change
    path.write_text(json.dumps(receipt))
    with pytest.raises(DatasetError):
        Dataset(str(folder)).receipt(0)
    del receipt["candidates"]
    path.write_text(json.dumps(receipt))
    with pytest.raises(DatasetError, match=r"other candidates than job\.json"):
        Dataset(str(folder)).receipt(0)


def test_other_winners_are_found_by_their_hash(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", make_spec(**CHOICE))
    assert verify(str(folder)).sound
    path = folder / "receipts" / "00000000.json"
    receipt = Receipt.from_json(path.read_bytes(), "r")
    assert receipt.candidates is not None
    other = replace(receipt.candidates, winners=pack(np.zeros(30, np.int32), 3))
    path.write_text(replace(receipt, candidates=other).to_json())
    assert any("the receipt of shard 0 is not the one" in problem for problem in verify(str(folder)).problems)


def test_verify_counts_what_is_below(chosen: Path) -> None:
    below = len(Dataset(str(chosen)).below_min_score())
    assert any(f"{below} samples are below the minimum score" in note for note in verify(str(chosen)).notes)


@pytest.mark.parametrize("shard_size", [30, 7])
def test_an_export_keeps_the_winners(shard_size: int, chosen: Path, tmp_path: Path) -> None:
    export(str(chosen), str(tmp_path / "out"), to="tar", dtype="uint8", shard_size=shard_size)
    dataset, out = Dataset(str(chosen)), Dataset(str(tmp_path / "out"))
    assert winners_of(out) == winners_of(dataset)
    assert np.array_equal(out.latents(3, 60), dataset.latents(3, 60))
    assert out.below_min_score().tolist() == dataset.below_min_score().tolist()
    assert verify(out.url).sound
    scores = [manifest.scores for manifest in (dataset.manifest(), out.manifest()) if manifest is not None]
    assert scores[1] == (scores[0] if shard_size == 30 else None)


def test_card_and_recipe_know_the_choice(chosen: Path) -> None:
    card = (chosen / "README.md").read_text()
    assert "| Best of | 5 candidates, by the judge judge.keras (sha256:aaaaaaaaaaaa), minimum score 0.1 |" in card
    assert "--best-of 5 --judge judge.keras" in card
    assert "--min-score 0.1" in card
    assert "| class | mean score of candidates | of samples | candidates below 0.1 | samples below |" in card
    recipe = recipe_of(Dataset(str(chosen)), judge="/other/judge.keras")
    assert recipe.spec.judge == "/other/judge.keras"
    assert recipe.spec.sha256 == Dataset(str(chosen)).spec.sha256


def test_scores_that_are_not_numbers() -> None:
    found = CandidateStatistics(2, 0.5, None)
    found.add(np.array([1, 0], np.int32), np.array([[np.nan, 0.7], [0.2, 0.1]]), None, first=10)
    assert found.result().scores == Scores(
        candidates=((0.7 + 0.15) / 2,), winners=((0.7 + 0.2) / 2,), candidates_below=(2,), winners_below=(1,)
    )
    with pytest.raises(SampleError, match="NaN to all candidates: sample 11 is the first"):
        found.add(np.array([0, 0], np.int32), np.array([[0.1, 0.2], [np.nan, np.nan]]), None, first=10)


def test_scores_of_shards_are_weighted_by_their_samples() -> None:
    def scores(mean: float, below: int) -> Scores:
        return Scores(candidates=(mean, 0.0), winners=(mean, 0.0), candidates_below=(below, 0), winners_below=(1, 0))

    merged = merged_scores([(scores(0.2, 3), (10, 0)), (scores(0.8, 4), (30, 0))])
    assert list(merged.candidates) == pytest.approx([0.65, 0.0])
    assert (merged.candidates_below, merged.winners_below) == ((7, 0), (2, 0))
