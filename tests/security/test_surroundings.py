"""The working folder and the user's environment reach neither code nor samples.

A dataset from somebody else may hold a file keras.py; many projects have a folder `pipeline`; and another project's
Keras or Celery settings lie in many a shell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.fleet import TINY, environment

NOISEMILL = Path(sys.executable).with_name("noisemill")

#: Names of ours, of libraries and of the standard library.
MODULES = ("celery", "keras", "numpy", "queue", "random", "redis", "tensorflow", "types", "pipeline", "sitecustomize")


def run(folder: Path, cache: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [NOISEMILL, *arguments],
        cwd=folder,
        env=environment("", "unused", cache, **variables),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def samples(folder: Path) -> bytes:
    return (folder / "out" / "shards" / "00000000.npy").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with the dataset `out`, made where nothing is in the way."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, cache, "generate", str(TINY), "out", "-n", "64", "--batch", "64")
    return folder


def test_no_code_of_the_working_folder_runs(tmp_path: Path, plain: Path, cache: Path) -> None:
    ran = tmp_path.with_name("ran")
    code = f"open({str(ran)!r}, 'a').write(__name__ + '\\n'); raise SystemExit('not ours')\n"
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text(code)
    run(tmp_path, cache, "generate", str(TINY), "out", "-n", "64", "--batch", "64")
    run(tmp_path, cache, "verify", "out", "--recompute", "5")
    run(tmp_path, cache, "sample", str(TINY), "--index", "3")
    assert not ran.exists(), ran.read_text()
    assert samples(tmp_path) == samples(plain)


def keras_settings(folder: Path) -> None:
    folder.mkdir()
    wrong = {"floatx": "float16", "epsilon": 1e-2, "backend": "torch", "image_data_format": "channels_first"}
    (folder / "keras.json").write_text(json.dumps(wrong))


@pytest.mark.parametrize("where", ["KERAS_HOME", "HOME"])
def test_settings_of_other_projects_change_nothing(tmp_path: Path, plain: Path, cache: Path, where: str) -> None:
    keras_settings(tmp_path / ".keras")
    variables = {
        "CELERY_BROKER_URL": "amqp://127.0.0.1:1",
        "CELERY_CONFIG_MODULE": "their_settings",
        "CELERY_LOADER": "their_loader",
        "CELERY_RESULT_BACKEND": "their_backend://",
        "DJANGO_SETTINGS_MODULE": "their_settings",
        "TF_USE_LEGACY_KERAS": "1",
        where: str(tmp_path / ".keras" if where == "KERAS_HOME" else tmp_path),
    }
    if where == "KERAS_HOME":
        variables["KERAS_BACKEND"] = "jax"
    run(tmp_path, cache, "generate", str(TINY), "out", "-n", "64", "--batch", "64", **variables)
    assert samples(tmp_path) == samples(plain)
    assert "KERAS_BACKEND" not in os.environ
