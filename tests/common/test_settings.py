"""Settings come from arguments, then the environment, then defaults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.common.errors import UsageError
from pipeline.common.settings import DEFAULT_REDIS_URL, load_settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("NOISEMILL_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.redis_url, settings.key_prefix) == (DEFAULT_REDIS_URL, "noisemill")
    assert (settings.slice_s, settings.lease_s, settings.reconcile_s) == (20, 30, 5)
    assert settings.cache_dir == Path.home() / ".cache/noisemill"


def test_arguments_before_environment_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_REDIS_URL", "redis://environment")
    monkeypatch.setenv("NOISEMILL_LEASE_S", "1.5")
    monkeypatch.setenv("NOISEMILL_KEY_PREFIX", "mine")
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", "~/cache")
    monkeypatch.setenv("NOISEMILL_SLICE_S", "")
    settings = load_settings(redis_url="redis://argument", lease_s=None)
    assert settings.redis_url == "redis://argument"
    assert (settings.lease_s, settings.slice_s, settings.key_prefix) == (1.5, 20, "mine")
    assert settings.cache_dir == Path.home() / "cache"
    assert load_settings().redis_url == "redis://environment"


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf", "1e9", "5 s", "1,5"])
@pytest.mark.parametrize("name", ["SLICE_S", "LEASE_S", "RECONCILE_S"])
def test_numbers_that_are_none(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"NOISEMILL_{name}", text)
    with pytest.raises(UsageError, match=f"NOISEMILL_{name}='{text}' is not a number of seconds above 0"):
        load_settings()
