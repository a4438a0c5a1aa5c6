from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.common.settings import Settings
from pipeline.spec.job_spec import JobSpec
from pipeline.ui.app import create_app
from pipeline.ui.library import Library
from tests.making import make_dataset, make_spec

#: What the page's own requests carry.
OWN = {"x-noisemill": "1", "origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}

#: Starts a page of some datasets, and answers a client of it.
Open = Callable[..., TestClient]


@pytest.fixture
def page(settings: Settings) -> Iterator[Open]:
    clients = []

    def start(*datasets: Path, settings: Settings = settings, **options: Any) -> TestClient:
        app = create_app(settings, Library([str(folder) for folder in datasets]), **options)
        client = TestClient(app, base_url="http://127.0.0.1:8765", follow_redirects=False)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def spec() -> JobSpec:
    """350 grey images of 4 classes, in 4 shards."""
    return make_spec(count=350, shard_size=100, dtype="uint8", sample_shape=(6, 5, 1))


@pytest.fixture(scope="session")
def dataset(spec: JobSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Complete; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("whole") / "clothes", spec)


def cell(pixels: np.ndarray, place: int, width: int, height: int, columns: int) -> np.ndarray:
    """The pixels of a cell of a sprite, without its border."""
    top, left = place // columns * (height + 2) + 1, place % columns * (width + 2) + 1
    return pixels[top : top + height, left : left + width]
