"""Interfaces that were learnt go to a cache of the tests' own; S3 as for the stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.conftest import s3, s3_environment

__all__ = ["s3", "s3_environment"]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        yield
