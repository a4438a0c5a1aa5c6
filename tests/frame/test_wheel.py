"""The wheel, built and installed somewhere else, where this checkout cannot help it out."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = ["build", "--wheel", "--offline", "--quiet", "--no-build-isolation"]
    subprocess.run([uv.find_uv_bin(), *build, "--python", sys.executable, "--out-dir", out, ROOT], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` of an environment with the wheel and, by a path alone, the packages of this one.

    A path file names this environment's packages without reading its path files, so the editable install of the
    checkout stays out of reach.
    """
    env = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(env, symlinks=True)
    install = ["pip", "install", "--offline", "--quiet", "--no-deps", "--python", env / "bin" / "python"]
    subprocess.run([uv.find_uv_bin(), *install, wheel], check=True)
    packages = next((env / "lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return env / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NOISEMILL_"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "noisemill/py.typed",
        "pipeline/py.typed",
        "workers/py.typed",
        "pipeline/jobs/ledger/ledger.lua",
        "pipeline/ui/static/index.html",
        "pipeline/ui/static/main.js",
        "pipeline/generators/builtin/article/untrained.json",
        "pipeline/generators/builtin/fashion/generator.toml",
        "pipeline/generators/builtin/fashion/model.keras",
        "pipeline/generators/builtin/fashion-flow/generator.toml",
        "pipeline/generators/builtin/fashion-flow/model.keras",
        "pipeline/generators/judges/fashion-judge/judge.toml",
        "pipeline/generators/judges/fashion-judge/model.keras",
    ],
)
def test_wheel_contains(wheel, name):
    assert name in zipfile.ZipFile(wheel).namelist()


def test_wheel_contains_the_packages_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"noisemill", "pipeline", "workers"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_installed_elsewhere_it_runs_its_own_code(installed, tmp_path):
    code = (
        "import noisemill, pipeline, workers; print(noisemill.__file__, pipeline.__file__, workers.__file__, sep='\\n')"
    )
    files = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(installed.parent) for file in files)


def test_version(installed, tmp_path, wheel):
    assert wheel.name.split("-")[1] in run(installed / "noisemill", "--version", cwd=tmp_path)


def test_generators(installed, tmp_path):
    listed = json.loads(run(installed / "noisemill", "generators", "--json", cwd=tmp_path))
    assert "fashion" in [generator["name"] for generator in listed]


def test_generate(installed, tmp_path):
    run(installed / "noisemill", "generate", "fashion", "out", "--count", "20", "--shard-size", "10", cwd=tmp_path)
    assert (tmp_path / "out" / "manifest.json").is_file()
    run(installed / "noisemill", "verify", "out", cwd=tmp_path)
