"""Every example runs, small: as a program, with real workers and real servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.evaluation.real_data import FASHION_MNIST
from pipeline.generators import find_generator
from pipeline.spec.sampler import Sampler
from tests.end_to_end.conftest import cache, s3, valkey
from tests.end_to_end.fleet import TINY, Fleet, environment, one_worker
from tests.servers import S3Server, Valkey

EXAMPLES = Path(__file__).parents[2] / "examples"

__all__ = ["cache", "s3", "valkey"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, s3: S3Server, cache: Path) -> Iterator[Fleet]:
    """One worker that holds `tiny`."""
    variables = environment(valkey.url, "examples", cache, **s3.environment)
    with one_worker(tmp_path_factory.mktemp("fleet"), variables) as fleet:
        yield fleet


def run_example(name: str, folder: Path, *arguments: str, variables: dict[str, str], timeout_s: float = 600) -> str:
    """Runs an example in a folder; answers what it printed."""
    own = {"PYTHONPATH": str(EXAMPLES.parent), "EXAMPLE_SMALL": "1", **variables}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    """And tells what it needs, in cells."""
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in text
        assert path.read_text().count("\n# %%") >= 4
        assert f"python examples/{path.name}" in path.read_text()


def test_a_million_to_s3(fleet: Fleet, s3: S3Server, tmp_path: Path) -> None:
    destination = s3.destination()
    told = run_example(
        "million_to_s3.py", tmp_path, destination, variables={**fleet.environment, "EXAMPLE_GENERATOR": TINY}
    )
    assert "done: 2,000 samples" in told
    assert "sound" in told
    assert Dataset(destination).whole
    assert (tmp_path / "clothes.recipe.json").stat().st_size < 4000
    assert "2,000 samples of tiny" in (tmp_path / "clothes.html").read_text()


def test_the_article(tmp_path: Path, cache: Path) -> None:
    told = run_example("the_article.py", tmp_path, variables={"NOISEMILL_CACHE_DIR": str(cache)})
    assert "article: (100,) -> (56, 56, 1)" in told
    for name in ("article.html", "fashion.html"):
        page = (tmp_path / name).read_text()
        assert "Plotly.newPlot" in page
        assert '"type":"heatmap"' in page.replace(" ", "")
    samples, _ = Dataset(tmp_path / "article-samples")[:]
    assert samples.shape == (256, 28, 28, 1)
    assert np.abs(samples).max() < 0.1  # Untrained.


def test_train_on_a_stream(tmp_path: Path, cache: Path) -> None:
    told = run_example("train_on_a_stream.py", tmp_path, variables={"NOISEMILL_CACHE_DIR": str(cache)})
    assert "stopped at sample 1,024" in told
    assert "trained on 1,920 samples, none of them stored" in told
    assert not list(tmp_path.iterdir())


needs_fashion_mnist = pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="no dataset-fashion-mnist of Debian's")


def gains(told: str) -> list[tuple[int, float, float]]:
    """Rows of the table: real images, accuracy with them alone, accuracy with samples too."""
    rows = re.findall(r"^ +(\d+) +([0-9.]+) ± [0-9.]+ +([0-9.]+) ±", told, flags=re.MULTILINE)
    return [(int(images), float(alone), float(both)) for images, alone, both in rows]


@needs_fashion_mnist
def test_diffusion(tmp_path: Path, cache: Path) -> None:
    told = run_example("diffusion.py", tmp_path, variables={"NOISEMILL_CACHE_DIR": str(cache)})
    assert "20 samples of (28, 28, 1)" in told
    assert "made by dpm++2m:steps=3" in told
    samples, labels = Dataset(tmp_path / "diffusion-samples")[:]
    assert labels is None
    assert samples.std(axis=0).mean() > 5, "the samples differ"
    assert find_generator(str(tmp_path / "diffusion")).sampler == Sampler(method="ddim", steps=20)


@needs_fashion_mnist
def test_augment_a_small_set(tmp_path: Path, cache: Path) -> None:
    told = run_example("augment_small_set.py", tmp_path, variables={"NOISEMILL_CACHE_DIR": str(cache)})
    [(images, alone, both)] = gains(told)
    assert images == 100
    assert 0.5 < alone < 0.85
    assert both > 0.6


@needs_fashion_mnist
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_augment_as_it_is(tmp_path: Path) -> None:
    """Full size: with 5 images of each class samples help, whoever measures."""
    rows = gains(run_example("augment_small_set.py", tmp_path, timeout_s=1700, variables={"EXAMPLE_SMALL": ""}))
    assert [images for images, _, _ in rows] == [50, 200, 1000]
    assert rows[0][2] > rows[0][1] + 0.05
