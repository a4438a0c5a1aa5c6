"""Samples without a job, and the way between two: as a user calls them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import UsageError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.report import heatmap
from pipeline.generators import find_generator
from pipeline.generators.sampling import draw, interpolate, slerp
from tests.generators.suite import noisemill, save_keras

MODEL = str(Path(__file__).parent / "tfjs" / "sequential")
CONDITIONAL = str(Path(__file__).parent / "tfjs" / "conditional")


def test_a_sample_is_what_a_job_stores(tmp_path):
    noisemill("generate", CONDITIONAL, "out", "--count", 200, "--seed", 5, "--dtype", "float32", cwd=tmp_path)
    noisemill("sample", CONDITIONAL, "--index", 101, "--seed", 5, "-o", "sample.npy", cwd=tmp_path)
    stored = Dataset(tmp_path / "out").samples(101, 1)[0]
    sample = np.load(tmp_path / "sample.npy")
    assert sample.shape == stored.shape == (6, 6, 3)
    assert np.abs(sample - stored).max() <= 1e-6
    labels = Dataset(tmp_path / "out").labels(101, 1)
    assert labels is not None
    assert draw(find_generator(CONDITIONAL), 101, seed=5).labels == tuple(labels)


def test_labels():
    found = find_generator(CONDITIONAL)
    assert draw(found, 4, label="C").labels == (2,)
    for generator, label in ((found, "d"), (found, "3"), (find_generator(MODEL), "0")):
        with pytest.raises(UsageError):
            draw(generator, 0, label=label)


def test_interpolation_ends_at_its_samples():
    found = find_generator(MODEL)
    way = interpolate(found, 3, 14, 5, seed=2).samples
    assert way.shape == (5, 8, 4, 1)
    np.testing.assert_allclose(way[-1], draw(found, 14, seed=2).samples[0], atol=1e-5)


def test_slerp():
    a, b = np.array([2, 0], np.float32), np.array([0, 2], np.float32)
    np.testing.assert_allclose(slerp(a, b, np.array([0, 0.5, 1])), np.array([[2, 0], [2**0.5] * 2, [0, 2]]), atol=1e-6)
    for other in (a, -a, a * 0):
        ends = slerp(a, other, np.array([0.0, 1.0]))
        np.testing.assert_allclose(ends, np.stack([a, other]), atol=1e-6)


def picture_size(path):
    with Image.open(path) as picture:
        return picture.size


def test_command_line(tmp_path):
    shown = noisemill("sample", MODEL, "--json", "--output", "sample.png", cwd=tmp_path)
    told = json.loads(shown.stdout)
    assert (told["shape"], told["label"], told["output"]) == ([8, 4, 1], None, "sample.png")
    assert picture_size(tmp_path / "sample.png") == (4, 8)
    noisemill("interpolate", MODEL, 0, 1, "--steps", 3, cwd=tmp_path)
    assert picture_size(tmp_path / "interpolation.png") == (3 * 4 + 2 * 2, 8)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--output", "x.gif"), "must end in"),
        (("--output", "absent/x.png"), "no folder"),
        (("--label", "1"), "no classes"),
        (("--noise", "loud"), "unknown"),
    ],
)
def test_wrong_usage(tmp_path, arguments, reason):
    done = noisemill("sample", MODEL, *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["x.png", "x.npy", "x.html"])
def test_a_full_disk_is_told_in_a_line(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    done = noisemill("sample", MODEL, "-o", name, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == f"noisemill: {name} cannot be written: No space left on device\n"


def test_nan_is_never_shown(tmp_path):
    import keras

    z = keras.Input((3,))
    model = keras.Model(z, keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(float("nan")))(z))
    save_keras(tmp_path / "nan.keras", model)
    done = noisemill("sample", "./nan.keras", "-o", "x.npy", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "NaN or infinity" in done.stderr
    assert not (tmp_path / "x.npy").exists()


def test_nan_fails_the_shard_and_names_the_sample(tmp_path):
    import keras

    z = keras.Input((3,))
    model = keras.Model(z, keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(float("nan")))(z))
    save_keras(tmp_path / "nan.keras", model)
    done = noisemill("generate", "./nan.keras", "out", "--count", 10, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "sample 0" in done.stderr


def ramp(*shape):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_text_heatmap():
    lines = heatmap.text(ramp(4, 10, 1), (-1, 1), 80).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("  ")
    assert lines[-1].endswith("@@")
    assert max(map(len, heatmap.text(ramp(40, 100, 3), (-1, 1), 60).splitlines())) <= 60


def test_png():
    picture = Image.open(io.BytesIO(heatmap.png(ramp(4, 10, 3), (-1, 1))))
    assert (picture.size, picture.mode) == ((10, 4), "RGB")
    with pytest.raises(UsageError, match="are not images"):
        heatmap.png(ramp(7), None)


def test_html_is_interactive_and_self_contained():
    page = heatmap.html(ramp(4, 10, 1), (-1, 1), "a title")
    assert "Plotly.newPlot" in page
    assert "a title" in page
    assert "<script src=" not in page
    assert '"type":"image"' in heatmap.html(ramp(4, 10, 3), (-1, 1), "").replace(" ", "")
    with pytest.raises(UsageError, match="cannot be drawn as a heatmap"):
        heatmap.html(ramp(7), None, "")
