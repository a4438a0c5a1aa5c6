"""A clean environment for every command, a Valkey of its own keys, and one small dataset that nobody changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.common.settings import Settings
from pipeline.generators import find_generator
from pipeline.jobs.request import JobRequest
from tests.cli.cases import TRIED
from tests.cli.running import Run, runner
from tests.making import make_dataset

TINY = Path(__file__).parents[1] / "data" / "tiny.keras"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the user's counts: no Redis, no AWS account, no cache, no terminal."""
    for name in [name for name in os.environ if name.startswith(("NOISEMILL_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""
    return runner(capsys)


@pytest.fixture
def redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty ledger that commands find by their environment."""
    monkeypatch.setenv("NOISEMILL_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", settings.key_prefix)
    return settings


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples of `tiny` in 4 shards, as `generate` would leave them; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "dataset"
    spec, _ = JobRequest(count=100, shard_size=30, seed=7).resolve(find_generator(str(TINY)))
    return make_dataset(folder, spec)


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole`, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "dataset"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many bad inputs were tried in this process."""
    if TRIED:
        told = ", ".join(f"{count:,} with {kind}" for kind, count in sorted(TRIED.items()))
        terminalreporter.write_line(f"bad inputs: {told}; {sum(TRIED.values()):,} in all")
