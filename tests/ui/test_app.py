"""What the page is told: the fleet, datasets, errors; and what it may change."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import redis
from PIL import Image

from pipeline.common.settings import Settings
from pipeline.datasets.dataset import Dataset
from pipeline.jobs.ledger import Claim, Ledger, NewJob
from pipeline.schedules.book import ScheduleBook
from pipeline.schedules.recurrence import Recurrence
from pipeline.schedules.schedule import Schedule
from pipeline.ui.library import key_of
from tests.making import make_dataset, make_spec
from tests.servers import Valkey
from tests.ui.conftest import OWN, Open, cell

TINY = Path(__file__).parents[1] / "data" / "tiny.keras"
SPEC = make_spec(count=1000, shard_size=100)


def enter(ledger: Ledger, job_id: str, destination: str, spec=SPEC) -> None:
    ledger.enter(NewJob(job_id=job_id, spec=spec, destination=destination))


def test_jobs(page: Open, ledger: Ledger):
    enter(ledger, "runs-1", "/data/<b>r</b>")
    claim = ledger.claim("runs-1", "w")
    assert isinstance(claim, Claim)
    ledger.commit("runs-1", claim, samples=250, size_bytes=1, stage_seconds={"predict": 2.0})
    client = page()
    state = client.get("/api/state").json()
    job = state["jobs"][0]
    assert (job["id"], job["shown_state"], job["share"], job["live"]) == ("runs-1", "no worker", 0.25, True)
    assert job["stage_seconds"] == {"predict": 2.0}
    assert job["seconds_left"] > 0
    assert state["error"] is None
    assert state["control"] is False
    assert client.get("/api/jobs/runs-1").json()["dataset"] == key_of("/data/<b>r</b>")
    for wrong in ("nothing-1", "..", "a%2fb", "A", "x" * 200):
        assert client.get(f"/api/jobs/{wrong}").status_code == 404


def test_cancel(page: Open, ledger: Ledger):
    enter(ledger, "runs-1", "/data/r")
    refused = page().post("/api/jobs/runs-1/cancel", headers=OWN)
    assert refused.status_code == 403
    assert "--allow-control" in refused.json()["error"]
    assert ledger.job("runs-1").live
    done = page(allow_control=True).post("/api/jobs/runs-1/cancel", headers=OWN)
    assert done.json()["state"] == "cancelled"
    assert ledger.job("runs-1").state == "cancelled"


def test_schedules(page: Open, settings: Settings, raw: redis.Redis):
    book, now = ScheduleBook(settings), time.time()
    book.add(
        Schedule(
            name="nightly", generator="fashion", destination="/data/{run}", recurrence=Recurrence(cron="0 2 * * *"),
            added_at=now, since=now,
        )
    )  # fmt: skip
    raw.hset(f"{settings.key_prefix}:schedules", "broken", "{")
    client = page(allow_control=True)
    state = client.get("/api/state").json()
    schedule = state["schedules"][0]
    assert (schedule["name"], schedule["paused"], schedule["runs"]) == ("nightly", False, [])
    assert schedule["next_run_at"] > now
    assert "broken" in state["schedule_errors"][0]
    assert client.post("/api/schedules/nightly/pause", headers=OWN).status_code == 200
    assert book.get("nightly").paused
    assert client.get("/api/state").json()["schedules"][0]["paused"]
    assert client.post("/api/schedules/nightly/resume", headers=OWN).status_code == 200
    assert client.post("/api/schedules/nightly/run", headers=OWN).status_code == 200
    run = client.get("/api/state").json()["schedules"][0]["runs"][0]
    assert (run["state"], run["by_hand"]) == ("waiting", True)
    assert client.post("/api/schedules/nightly/remove", headers=OWN).status_code == 400
    assert client.post("/api/schedules/other/pause", headers=OWN).status_code == 400
    assert page().post("/api/schedules/nightly/pause", headers=OWN).status_code == 403


def test_redis_goes_away_and_comes_back(page: Open, settings: Settings, dataset, monkeypatch):
    monkeypatch.setattr("pipeline.ui.live._FRESH_S", 0)
    monkeypatch.setattr("pipeline.ui.live._AFTER_ERROR_S", 0)
    with Valkey(port=0) as server:
        there = Settings(redis_url=server.url, key_prefix="k", cache_dir=settings.cache_dir)
        enter(Ledger(there), "runs-1", "/data/r")
        client = page(dataset, settings=there)
        assert client.get("/api/state").json()["error"] is None
        server.stop()
        state = client.get("/api/state").json()
        assert "cannot be reached" in state["error"]
        assert [job["id"] for job in state["jobs"]] == ["runs-1"]  # The last known state.
        assert len(client.get("/api/datasets").json()) == 2
        assert client.get(f"/api/datasets/{key_of(str(dataset))}/page?page=0").status_code == 200
        assert client.get("/api/jobs/runs-1").status_code == 503
        server.start()
        state = client.get("/api/state").json()
        assert (state["error"], state["jobs"]) == (None, [])


def test_a_dataset(page: Open, dataset, spec):
    client, key = page(dataset), key_of(str(dataset))
    assert client.get("/api/datasets").json() == [{"key": key, "url": str(dataset), "given": True}]
    facts = client.get(f"/api/datasets/{key}").json()
    assert (facts["count"], facts["whole"], facts["page_size"]) == (350, True, 100)
    assert facts["per_class"] == [88, 88, 87, 87]
    assert facts["cell"] == [5, 6]
    second = client.get(f"/api/datasets/{key}/page?page=3").json()
    assert (second["indices"], second["pages"]) == (list(range(300, 350)), 4)
    stars = client.get(f"/api/datasets/{key}/page?page=0&class=2").json()
    assert stars["indices"] == list(range(2, 350, 4))
    assert set(stars["labels"]) == {2}
    assert all(stars["made"])
    sheet = client.get(f"/api/datasets/{key}/sheet").json()
    assert (sheet["rows"], len(sheet["indices"])) == ([0, 1, 2, 3], 40)
    assert sheet["labels"] == [label for label in range(4) for _ in range(10)]


def test_images_are_the_samples(page: Open, dataset):
    client, key, samples = page(dataset), key_of(str(dataset)), Dataset(dataset)
    indices = [7, 349, 8, 9, *range(100, 120)]
    response = client.get(f"/api/datasets/{key}/sprite?v=1&indices={','.join(map(str, indices))}")
    assert response.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(response.content)))
    for place, index in enumerate(indices):
        np.testing.assert_array_equal(cell(pixels, place, 5, 6, 16), samples[index][0][:, :, 0])
    picture = client.get(f"/api/datasets/{key}/picture?index=349").content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), samples[349][0][:, :, 0])


def test_a_sample(page: Open, dataset):
    client, key, samples = page(dataset), key_of(str(dataset)), Dataset(dataset)
    told = client.get(f"/api/datasets/{key}/sample?index=205").json()
    assert (told["index"], told["label"], told["class"], told["shard"], told["row"]) == (205, 1, "square", 2, 5)
    np.testing.assert_allclose(told["latent"], samples.latents(205)[0], atol=1e-4)
    assert told["file"] == "shards/00000002.npy"
    mine = samples[205][0].astype(float)
    distances = [(np.sqrt(np.mean((samples[i][0] - mine) ** 2)), i) for i in range(350) if i != 205]
    assert told["searched"] == 350
    assert [near["distance"] for near in told["neighbours"]] == pytest.approx([d for d, _ in sorted(distances)[:8]])
    assert all(near["label"] == near["index"] % 4 for near in told["neighbours"])


def test_bad_numbers(page: Open, dataset):
    client, key = page(dataset), key_of(str(dataset))
    for wrong in (
        "page", "page?page=-1", "page?page=x", "page?page=1e3", "page?page=0&class=4", "page?page=0&class=",
        "sample?index=350", "sample?index=999999999999999999",
        "sprite", "sprite?indices=", "sprite?indices=1,,2", "sprite?indices=350",
        f"sprite?indices={','.join(['1'] * 129)}", "picture?index=%C2%B2",
    ):  # fmt: skip
        response = client.get(f"/api/datasets/{key}/{wrong}")
        assert (wrong, response.status_code) == (wrong, 400)
        assert response.json()["error"]
    assert client.get(f"/api/datasets/{key}/page?page=9999999").json()["indices"] == []


def test_only_known_datasets(page: Open, dataset, ledger: Ledger, tmp_path, spec):
    other = make_dataset(tmp_path / "other", spec)
    client = page(dataset)
    for key in (key_of(str(other)), str(other).replace("/", "%2f"), "..", "0" * 16):
        assert client.get(f"/api/datasets/{key}").status_code == 404
    enter(ledger, "job-1", str(other), spec)
    enter(ledger, "job-2", "/relative/../other", spec)  # Which no command writes.
    enter(ledger, "job-3", str(tmp_path / "absent"), spec)
    client = page(dataset)
    urls = [each["url"] for each in client.get("/api/datasets").json()]
    assert (urls[0], set(urls[1:])) == (str(dataset), {str(other), str(tmp_path / "absent")})
    assert client.get(f"/api/datasets/{key_of(str(other))}").json()["count"] == 350
    assert client.get(f"/api/datasets/{key_of(str(tmp_path / 'absent'))}").status_code == 409


def test_an_unfinished_dataset_fills(page: Open, tmp_path, spec, monkeypatch):
    monkeypatch.setattr("pipeline.ui.open_dataset._LOOK_S", 0)
    folder = make_dataset(tmp_path / "part", spec, finished=False)
    receipt = folder / "receipts" / "00000001.json"
    text = receipt.read_bytes()
    receipt.unlink()
    client, key = page(folder), key_of(str(folder))
    assert client.get(f"/api/datasets/{key}").json()["whole"] is False
    one = client.get(f"/api/datasets/{key}/page?page=1").json()
    assert one["made"] == [False] * 100
    sheet = client.get(f"/api/datasets/{key}/sheet").json()
    assert [made for index, made in zip(sheet["indices"], sheet["made"], strict=True) if 100 <= index < 200] == [
        False
    ] * 12
    assert client.get(f"/api/datasets/{key}/sprite?indices=100").status_code == 409
    receipt.write_bytes(text)
    assert all(client.get(f"/api/datasets/{key}/sheet").json()["made"])
    assert client.get(f"/api/datasets/{key}/sprite?indices=100").status_code == 200


def test_a_playground_knows_its_generators(page: Open, ledger: Ledger, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    enter(ledger, "job-1", "/data/r", make_spec(generator=str(shutil.copy(TINY, tmp_path / "strange.keras"))))
    client = page()
    listed = {each["name"]: each["key"] for each in client.get("/api/generators").json()}
    assert {"fashion", "strange.keras"} <= set(listed)
    facts = client.get("/api/generators/fashion").json()
    assert (len(facts["classes"]), facts["sample_shape"], facts["sampler"]) == (10, [28, 28, 1], None)
    refused = client.get(f"/api/generators/{listed['strange.keras']}")
    assert refused.status_code == 409
    assert "named by the data alone" in refused.json()["error"]
    for wrong in ("nothing", "%2fmodels%2fstrange.keras", ".."):
        assert client.get(f"/api/generators/{wrong}").status_code in (400, 404)


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b"{", b'{"seed": -1}', b'{"seed": 1.5}', b'{"index": "1"}', b'{"count": 17, "last": 3}',
     b'{"truncation": 0}', b'{"guidance": 1e999}', b'{"label": 3}', b'{"label": "unknown"}', b'{"settings": {"a": 1}}',
     b'{"settings": [1]}', b'{"steps": 3}', b'{"method": "euler"}', b'{"attributes": "1"}'],
)  # fmt: skip
def test_bad_requests_to_the_playground(page: Open, body):
    response = page().post("/api/generators/fashion/draw", headers=OWN, content=body)
    assert response.status_code == 400
    assert len(response.json()["error"].splitlines()) <= 2


def test_a_large_request_is_not_read(page: Open):
    assert page().post("/api/generators/fashion/draw", headers=OWN, content=b" " * 10_000).status_code == 413
