"""`rm`: asks, removes what belongs to the job and nothing else, from disk, S3 and Redis."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.common.settings import Settings
from pipeline.generators import find_generator
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.request import JobRequest
from pipeline.stores import open_store
from tests.cli.conftest import TINY
from tests.cli.running import Run, tree
from tests.cli.test_bad_input import assert_clear
from tests.making import make_dataset
from tests.servers import S3Server

FORMS = {
    "npy": {},
    "png": {"format": "png"},
    "class": {"format": "png", "layout": "class", "labels": "random"},
    "tar": {"format": "tar"},
    "tfrecord": {"format": "tfrecord"},
    "parquet": {"format": "parquet"},
    "null": {"format": "null"},
}


def made(folder: Path, **options: Any) -> Path:
    return make_dataset(folder, JobRequest(count=50, shard_size=20, **options).resolve(find_generator(str(TINY)))[0])


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Somebody sits at a terminal and answers this."""
    monkeypatch.setattr("sys.stdin", _Terminal(f"{text}\n"))


@pytest.mark.parametrize("form", FORMS)
def test_everything_of_the_job_goes_and_nothing_else(run: Run, tmp_path: Path, form: str):
    folder, kept = made(tmp_path / "out", **FORMS[form]), made(tmp_path / "kept", **FORMS[form])
    for name in ("report.html", "export.json", ".noisemill-0123/0"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("noisemill's")
    before = tree(kept)
    count = sum(path.is_file() for path in folder.rglob("*")) - 1
    document = json.loads(run("rm", folder, "--yes", "--json").out)
    assert (document["files"], document["others"], document["forgotten"]) == (count, 0, False)
    assert not folder.exists()
    assert tree(kept) == before


@pytest.mark.parametrize("form", FORMS)
def test_files_of_others_stay_whatever_they_are_called(run: Run, tmp_path: Path, form: str):
    folder = made(tmp_path / "out", **FORMS[form])
    mine = [
        "notes.txt", "shards/notes.txt", "shards/00000000.txt", "shards/00000009.npy", "shards/00000000.npy.bak",
        "shards/00000000/mine.png", "shards/00000009/000000000180.png", "images/mine.png", "images/circle/mine.png",
        "images/circle/000000000050.png", "images/other/000000000001.png", "receipts/00000003.json",
        "receipts/notes.json", "deep/er/job.json", "metadata.csv",
    ]  # fmt: skip
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "job.json").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    outcome = run("rm", folder, "-y")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[1] == f"{len(mine)} other files stay"
    left = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sorted(path.relative_to(folder).as_posix() for path in left) == sorted(mine)
    assert (tmp_path / "elsewhere" / "job.json").read_text() == "mine"


def test_it_asks(run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    before = tree(dataset)
    for no in ("n", "", "perhaps\nno"):
        answer(monkeypatch, no)
        outcome = run("rm", dataset)
        assert (outcome.code, outcome.out) == (1, "")
        assert f"Remove {os.path.realpath(dataset)}, 18 files, " in outcome.err
        assert outcome.err.endswith("noisemill: nothing is removed\n")
    assert tree(dataset) == before
    answer(monkeypatch, "y")
    assert run("rm", dataset).code == 0
    assert not dataset.exists()


def test_nobody_to_ask(run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    before = tree(dataset)
    assert_clear(run("rm", dataset), 2, "there is no terminal to ask: --yes removes")
    assert tree(dataset) == before


def test_what_is_no_dataset_is_left_alone(run: Run, dataset: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    shutil.copytree(dataset, tmp_path / "without")
    (tmp_path / "without" / "job.json").unlink()
    shutil.copytree(dataset, tmp_path / "damaged")
    (tmp_path / "damaged" / "job.json").write_text("{")
    before = tree(tmp_path)
    for place, code, says in (
        ("./nowhere", 1, "holds no dataset"), ("./full", 1, "holds no dataset"), ("/", 1, "holds no dataset"),
        ("./without", 1, "holds no dataset"), ("./damaged", 1, "not valid JSON"), ("ftp://x/y", 2, "ftp"),
    ):  # fmt: skip
        assert_clear(run("rm", place, "--yes"), code, says)
    assert_clear(run("rm", "./full", "--yes", "--data"), 2, "--data needs a job's id")
    assert tree(tmp_path) == before


def test_cut_short_it_can_be_repeated(run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline.stores.local import LocalStore

    delete = LocalStore.delete

    def fail(self: LocalStore, names: Any) -> None:
        for number, name in enumerate(names):
            if number == 3:
                raise KeyboardInterrupt
            delete(self, [name])

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", fail)
        assert run("rm", dataset, "--yes").code == 130
    assert not (dataset / "manifest.json").exists()
    assert (dataset / "job.json").exists()
    assert run("rm", dataset, "--yes").code == 0
    assert not dataset.exists()


# -- jobs -------------------------------------------------------------------------------------------------------


def submit(run: Run, folder: Path) -> str:
    outcome = run("submit", TINY, folder, "-n", "100", "--seed", "7", "--shard-size", "30")
    assert outcome.code == 0, outcome.err
    return outcome.out.strip()


def keys(settings: Settings) -> list[str]:
    import redis

    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        return sorted(key for key in client.scan_iter(f"{settings.key_prefix}:*") if ":job:" in key)


def test_a_jobs_entry_goes_and_its_data_stays(run: Run, redis: Settings, dataset: Path):
    job = submit(run, dataset)
    before = tree(dataset)
    assert run("rm", job).out == f"{job}: removed from Redis\n"
    assert run("jobs").out == "no jobs\n"
    # For a minute, whoever follows the job sees that it was deleted on purpose.
    assert [key.rpartition(":")[2] for key in keys(redis)] == ["forgotten"]
    assert tree(dataset) == before
    assert_clear(run("rm", job), 2, "is unknown")
    # It can be entered again from what lies there.
    assert run("resume", dataset).out == f"{job}\n"


def test_with_data(run: Run, redis: Settings, dataset: Path):
    job = submit(run, dataset)
    document = json.loads(run("rm", job[:8], "--data", "--yes", "--json").out)
    assert (document["job"], document["files"], document["forgotten"]) == (job, 18, True)
    assert not dataset.exists()
    assert Ledger(redis).jobs() == []


def test_a_destination_takes_its_job_along(run: Run, redis: Settings, dataset: Path):
    submit(run, dataset)
    assert "removed from Redis" in run("rm", dataset, "--yes").out
    assert Ledger(redis).jobs() == []


def test_a_live_job_is_refused_or_cancelled_first(run: Run, redis: Settings, tmp_path: Path):
    job = submit(run, tmp_path / "out")
    before = tree(tmp_path)
    for words in ([job], [job, "--data", "--yes"], [tmp_path / "out", "--yes"]):
        assert_clear(run("rm", *words), 2, f"job {job} is still in progress: cancel it first, or add --cancel")
    assert tree(tmp_path) == before
    assert Ledger(redis).job(job).live
    assert run("rm", tmp_path / "out", "--yes", "--cancel").code == 0
    assert not (tmp_path / "out").exists()
    assert Ledger(redis).jobs() == []
    assert Ledger(redis).live_jobs() == []


def test_data_that_has_gone_or_is_anothers(run: Run, redis: Settings, dataset: Path, tmp_path: Path):
    job = submit(run, dataset)
    grown = run("extend", dataset, "-n", "200").out.strip()
    before = tree(dataset)
    assert_clear(run("rm", job, "--data", "--yes"), 1, f"holds another job now, {grown}: leave out --data")
    assert tree(dataset) == before
    assert run("rm", job).code == 0
    shutil.rmtree(dataset)
    outcome = run("rm", grown, "--data", "--yes", "--cancel")
    assert outcome.code == 0
    assert "only the job is removed" in outcome.err
    assert Ledger(redis).jobs() == []


def test_misspelt_jobs(run: Run, redis: Settings, tmp_path: Path):
    job = submit(run, tmp_path / "out")
    wrong = job.replace("tiny", "tyni")
    for command in ("rm", "status", "cancel", "watch"):
        assert_clear(run(command, wrong), 2, f"job {wrong!r} is unknown: did you mean {job!r}?")


# -- S3 ---------------------------------------------------------------------------------------------------------


def test_in_s3(run: Run, plain_s3: S3Server, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in plain_s3.environment.items():
        monkeypatch.setenv(name, value)
    place = plain_s3.destination()
    store, beside = open_store(place), open_store(f"{place}-2")
    for path in dataset.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(dataset).as_posix(), path.read_bytes())
    store.write("shards/mine.npy", b"mine")
    beside.write("job.json", b"another's")
    assert run("rm", place, "--yes").code == 0
    assert [entry.name for entry in store.list()] == ["shards/mine.npy"]
    assert beside.exists("job.json")
