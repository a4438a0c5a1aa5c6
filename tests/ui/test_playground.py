"""The playground's samples are those of a job, made by one process that stays."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.common.errors import WorkerError
from pipeline.generators import find_generator
from pipeline.generators.sampling import REQUEST, SamplingProcess, draw
from pipeline.ui.playground import BusyError, Playground
from tests.ui.conftest import OWN, Open, cell

CONDITIONAL = str(Path(__file__).parents[1] / "generators" / "tfjs" / "conditional")


@pytest.fixture
def process():
    process = SamplingProcess(600)
    yield process
    process.close()


def test_one_process_makes_many(process: SamplingProcess, tmp_path):
    found = find_generator(CONDITIONAL)
    assert not process.warm
    first = draw(found, 3, seed=5, predict=process.predict)
    assert process.warm
    running = process._process
    assert running is not None
    again = draw(found, 3, seed=5, predict=process.predict)
    np.testing.assert_array_equal(first.samples, again.samples)
    other = draw(found, 4, seed=5, label="C", predict=process.predict)
    assert other.labels == (2,)
    assert process._process is running
    np.testing.assert_array_equal(first.samples, draw(found, 3, seed=5).samples)  # Of a process of its own.
    # An error does not end it; its death is an error, and the next call starts another.
    asked = {"generator": "/nowhere/model.keras", "digest": "", "settings": {}, "sampler": None}
    (tmp_path / REQUEST).write_text(json.dumps(asked))
    with pytest.raises(WorkerError, match="no such file"):
        process.predict(tmp_path)
    running.kill()
    running.wait()
    np.testing.assert_array_equal(first.samples, draw(found, 3, seed=5, predict=process.predict).samples)


def test_a_page_draws_samples(page: Open):
    client = page()
    body = {"seed": 1, "index": 2, "label": "Bag", "truncation": 0.7}
    one = client.post("/api/generators/fashion/draw", headers=OWN, json=body)
    assert (one.status_code, one.headers["content-type"], one.headers["x-labels"]) == (200, "image/png", "8")
    way = client.post("/api/generators/fashion/draw", headers=OWN, json={**body, "last": 9, "count": 3})
    pixels = np.asarray(Image.open(io.BytesIO(way.content)))
    assert pixels.shape == (30, 3 * 30)
    first = np.asarray(Image.open(io.BytesIO(one.content)))
    np.testing.assert_array_equal(cell(pixels, 0, 28, 28, 3), cell(first, 0, 28, 28, 1))
    assert client.get("/api/generators/fashion").json()["warm"] is True


def test_too_many_requests_are_refused(monkeypatch):
    playground, begun, go_on = Playground(), threading.Semaphore(0), threading.Event()

    def slow(_folder: Path) -> None:
        begun.release()
        go_on.wait(600)
        raise WorkerError("enough")

    monkeypatch.setattr(playground._process, "predict", slow)
    outcomes: list[type[Exception]] = []

    def ask() -> None:
        try:
            playground.draw("fashion", {})
        except (BusyError, WorkerError) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    begun.acquire(timeout=600)
    while len(outcomes) < 4:
        threading.Event().wait(0.01)
    assert outcomes == [BusyError] * 4
    go_on.set()
    for thread in threads:
        thread.join(600)
    assert outcomes.count(WorkerError) == 5
