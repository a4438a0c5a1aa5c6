"""The figures move as they should: good samples, wrong labels, a generator that has collapsed. Real TensorFlow."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.errors import DatasetError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.real_data import Labelled, load_real
from pipeline.datasets.report import gather_findings
from pipeline.datasets.report import page as page_of
from tests.cli.running import Run
from tests.datasets.evaluation.conftest import dataset_of, pictures, write_npz
from tests.making import CLASSES, make_spec

# Keras' own: NumPy 2 warns about TensorFlow's variables while a model is saved.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def shuffled(images: np.ndarray, labels: np.ndarray) -> Labelled:
    return Labelled(images, labels).only(np.random.default_rng(0).permutation(len(labels)))


def test_good_samples_wrong_labels_and_collapse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.once.evaluation import classifier, figures  # TensorFlow: seconds.

    real = load_real(write_npz(tmp_path / "real.npz"), make_spec())
    images, labels = pictures(400, seed=2)
    told: list[str] = []

    def judge(images: np.ndarray, labels: np.ndarray):
        samples = shuffled(images, labels)
        return figures.compute_metrics(
            samples, real, CLASSES, seed=0, cache_dir=tmp_path / "cache", progress=told.append
        )

    good = judge(images, labels)
    assert told[0] == "a classifier of 500 real images"
    assert good.consistency > 0.95
    assert good.tstr > 0.95
    assert good.real > 0.95
    assert good.distinct_samples == good.samples == 400
    assert (good.real_training, good.real_test) == (500, 100)
    assert good.coverage > 0.7
    assert 0.8 < good.diversity < 1.2
    assert set(good.classes) == set(CLASSES)
    kept = list((tmp_path / "cache/classifiers").iterdir())
    assert len(kept) == 1

    # The classifier of the real images is taken from the cache: only the samples' is trained from here on.
    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", None)
    wrong = judge(images, (labels + 1) % 4)
    assert wrong.consistency < 0.05
    assert wrong.tstr < 0.05
    same = judge(np.repeat(images[:4], 100, axis=0), np.repeat(labels[:4], 100))
    assert same.distinct_samples == 4
    assert same.coverage < good.coverage / 2
    assert same.diversity < 0.05
    assert same.frechet > 1.2 * good.frechet
    kept[0].write_bytes(b"cut short")
    monkeypatch.setattr(classifier, "train_classifier", train)
    assert judge(images, labels).consistency == pytest.approx(good.consistency, abs=0.02)


def test_the_command(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    images, _ = pictures(400, seed=2)
    folder = dataset_of(tmp_path / "d", images, dtype="uint8", format="tar")
    real = write_npz(tmp_path / "real.npz")
    done = run("evaluate", folder, "--real", real, "--limit", "300", "--save", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["samples"], found["real_training"], found["real_test"]) == (300, 300, 100)
    assert found["consistency"] > 0.9
    assert found["tstr"] > 0.9
    assert found["seconds"] > 0
    told = done.err.splitlines()
    assert told[0] == "TensorFlow is starting"
    assert all(len(line) < 80 for line in told)
    near = found["near_copies"]
    # Compared with all training images, whatever the limit is.
    assert (near["examined"], near["training"]) == (300, 500)
    assert near["share"] < 0.1
    page = page_of(gather_findings(Dataset(folder)))
    assert f"{near['near']} of 300 samples" in page
    assert base64.b64encode((folder / "near_copies.png").read_bytes()).decode() in page
    (folder / "evaluation.json").write_text((folder / "evaluation.json").read_text().replace('"near": ', '"near": "x'))
    with pytest.raises(DatasetError, match=r"evaluation\.json"):
        gather_findings(Dataset(folder))
    (folder / "evaluation.json").write_text('{"spec_sha256": "of another job"}')
    assert "Near copies" not in page_of(gather_findings(Dataset(folder)))
    assert run("rm", folder, "--yes").code == 0
    assert not folder.exists()
