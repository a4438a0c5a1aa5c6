"""What commands print, where, and with which exit code; the documents of `--json` keep their keys."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from pipeline.cli import noisemill
from pipeline.common.settings import Settings
from pipeline.common.version import VERSION
from pipeline.generators import find_generator
from pipeline.jobs.connection import connect
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.worker_info import WorkerInfo
from pipeline.spec.latents import latents
from tests.cli.conftest import TINY
from tests.cli.help_pages import commands, help_text
from tests.cli.running import Run, tree

JOB_KEYS = {
    "id", "state", "destination", "generator", "digest", "schedule", "priority", "count", "shards", "shards_done",
    "shards_leased",
    "samples_done", "samples_found", "samples_in_flight", "samples_made", "bytes_done", "failed", "errors", "error",
    "leases_lost", "engine", "batch", "queued_at", "running_at", "ended_at", "stage_seconds", "verdict", "rate",
}  # fmt: skip
WORKER_KEYS = {
    "id", "host", "pid", "generator", "digest", "latent_shape", "sample_shape", "classes", "device", "engine", "batch",
    "rate", "output_roots", "started_at", "version", "job", "samples",
}  # fmt: skip
GENERATOR_KEYS = {
    "name", "reference", "digest", "summary", "model", "size_bytes", "latent_input", "latent_shape", "latent_dim",
    "label_input", "label_encoding", "classes", "sample_shape", "value_range",
}  # fmt: skip
SIZING_KEYS = {"count", "shards", "shard_size", "size_bytes", "estimated", "seconds", "workers"}
VERIFY_KEYS = {
    "sound", "destination", "count", "shards", "shards_sound", "samples_sound", "bytes_checked", "problems", "damaged",
    "notes", "recomputed",
}  # fmt: skip
EXTENSION_KEYS = {
    "destination", "count_before", "count", "shards", "shards_kept", "samples_to_make", "size_bytes", "estimated",
}  # fmt: skip
EXPORT_KEYS = {
    "source", "out", "form", "dtype", "count", "shards", "size_bytes", "count_found", "seconds", "rate",
}  # fmt: skip
RESULT_KEYS = {
    "destination", "count", "shards", "size_bytes", "made", "seconds", "rate", "verdict", "preview", "job",
    "manifest_sha256",
}  # fmt: skip


def _json(run: Run, *words: Any, code: int = 0, keys: set[str] | None = None) -> Any:
    """The one document on stdout. `keys` are the least that it has: new ones may come, none may go."""
    outcome = run(*words, "--json")
    assert outcome.code == code, outcome.err
    document = json.loads(outcome.out)
    for each in document if isinstance(document, list) else [document]:
        assert keys is None or keys <= set(each), keys - set(each)
    return document


def _submit(run: Run, folder: Path, *options: Any) -> str:
    outcome = run("submit", TINY, folder, "-n", "100", "--seed", "7", "--shard-size", "30", *options)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 1
    return outcome.out.strip()


def _announce(settings: Settings, root: Path, **changes: Any) -> WorkerInfo:
    """A worker that says that it is up, and does nothing."""
    tiny = find_generator(str(TINY))
    info = WorkerInfo(
        id="host-1",
        host="host",
        pid=1,
        generator=tiny.name,
        digest=tiny.digest,
        latent_shape=tiny.interface.latent_shape,
        sample_shape=tiny.interface.sample_shape,
        classes=tiny.interface.classes,
        device="cpu",
        engine="xla",
        batch=64,
        rate=50.0,
        output_roots=(os.path.realpath(root),),
        started_at=time.time() - 75,
        up_s=75.0,
        version=VERSION,
    )
    info = replace(info, **changes)
    Ledger(settings).announce(info)
    return info


# -- queued jobs --------------------------------------------------------------------------------------------


def test_submit_without_a_worker(run: Run, redis: Settings, tmp_path: Path):
    outcome = run("submit", TINY, tmp_path / "out", "-n", "100")
    assert outcome.code == 0
    assert re.fullmatch(r"tiny-[0-9a-f]{10}\n", outcome.out)
    warning, command = outcome.err.splitlines()
    assert warning == "noisemill: queued, but no worker holds 'tiny': start one with"
    assert shlex.split(command) == ["noisemill", "worker", str(TINY), "--output-root", os.path.realpath(tmp_path)]
    assert (tmp_path / "out" / "job.json").is_file()


def test_submit_with_a_worker(run: Run, redis: Settings, tmp_path: Path):
    _announce(redis, tmp_path)
    outcome = run("submit", TINY, tmp_path / "out", "-n", "100")
    assert (outcome.code, outcome.err) == (0, "")


def test_submit_where_no_worker_may_write(run: Run, redis: Settings, tmp_path: Path):
    _announce(redis, tmp_path / "elsewhere")
    outcome = run("submit", TINY, tmp_path / "out", "-n", "100")
    assert outcome.code == 0
    warning = outcome.err.splitlines()[0]
    assert f"no worker that is up may write to {os.path.realpath(tmp_path / 'out')}" in warning
    assert f"(output roots: {os.path.realpath(tmp_path / 'elsewhere')})" in warning


def test_submit_through_a_link_that_leads_elsewhere_for_the_worker(run: Run, redis: Settings, tmp_path: Path):
    for node in ("here", "there"):
        (tmp_path / node).mkdir()
    (tmp_path / "scratch").symlink_to(tmp_path / "here")
    _announce(redis, tmp_path / "there")  # Where its /scratch leads.
    warning = run("submit", TINY, tmp_path / "scratch" / "out", "-n", "100").err.splitlines()[0]
    assert (
        f"{os.path.realpath(tmp_path / 'here' / 'out')} (output roots: {os.path.realpath(tmp_path / 'there')})"
        in warning
    )


def test_submit_json(run: Run, redis: Settings, tmp_path: Path):
    document = _json(run, "submit", TINY, tmp_path / "out", "-n", "100", "--priority", 3, keys=JOB_KEYS | {"warning"})
    assert (document["state"], document["count"], document["priority"]) == ("queued", 100, 3)
    assert "no worker holds 'tiny'" in document["warning"]


def test_submit_twice_is_one_job(run: Run, redis: Settings, tmp_path: Path):
    first = _submit(run, tmp_path / "out")
    before = tree(tmp_path)
    assert _submit(run, tmp_path / "out") == first
    assert _submit(run, tmp_path / "link" / ".." / "out") == first
    assert [job["id"] for job in _json(run, "jobs")] == [first]
    assert tree(tmp_path) == before


def test_submit_of_a_whole_dataset_is_done(run: Run, redis: Settings, dataset: Path):
    before = tree(dataset)
    job = _submit(run, dataset)
    state = _json(run, "status", job)
    assert (state["state"], state["samples_made"], state["shards_done"]) == ("done", 100, 4)
    assert tree(dataset) == before


@pytest.mark.parametrize(
    ("name", "data", "done"),
    [
        ("manifest.json", None, 4),
        ("manifest.json", b"{", 4),
        ("receipts/00000001.json", b"{", 3),
        ("receipts/00000001.json", None, 3),
        ("shards/00000001.npy", b"x", 3),
    ],
)
def test_what_is_damaged_is_to_be_made_again(
    run: Run, redis: Settings, dataset: Path, name: str, data: bytes | None, done: int
):
    (dataset / name).unlink()
    if data is not None:
        (dataset / name).write_bytes(data)
    job = _submit(run, dataset)
    state = _json(run, "status", job)
    assert (state["state"], state["shards_done"]) == ("queued", done)


def test_jobs(run: Run, redis: Settings, tmp_path: Path):
    assert run("jobs").out == "no jobs\n"
    assert _json(run, "jobs") == []
    first, second = _submit(run, tmp_path / "one"), _submit(run, tmp_path / "two", "--priority", "0")
    assert [job["id"] for job in _json(run, "jobs", keys=JOB_KEYS)] == [second, first]
    outcome = run("jobs")
    assert (outcome.code, outcome.err) == (0, "")
    header, *rows = outcome.out.splitlines()
    assert header.split() == ["JOB", "STATE", "SAMPLES", "RATE", "PRIORITY", "SCHEDULE", "DESTINATION"]
    assert rows[0].split() == [second, "queued", "0/100", "-", "0", "-", os.path.realpath(tmp_path / "two")]


def test_jobs_reads_only_what_it_shows(run: Run, redis: Settings, tmp_path: Path):
    first, second, third = (_submit(run, tmp_path / name) for name in ("one", "two", "three"))
    # A job whose entry is gone leaves the list when it is read.
    connect(redis.redis_url).delete(f"{redis.key_prefix}:job:{first}")
    outcome = run("jobs", "--limit", "2", "--json")
    assert [job["id"] for job in json.loads(outcome.out)] == [third, second]
    assert (outcome.code, outcome.err) == (0, "noisemill: these are the latest 2 of 3 jobs: --limit shows more\n")
    assert Ledger(redis).job_count() == 3
    outcome = run("jobs", "--limit", "3")
    assert (len(outcome.out.splitlines()), outcome.err) == (1 + 2, "")
    assert Ledger(redis).job_count() == 2


def test_status(run: Run, redis: Settings, tmp_path: Path):
    job = _submit(run, tmp_path / "out")
    document = _json(run, "status", job[:8], keys=JOB_KEYS)
    assert (document["id"], document["state"], document["rate"]) == (job, "queued", None)
    outcome = run("status", job)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{job}: queued\n")
    assert re.search(r"^  samples: +0 of 100$", outcome.out, re.M)


def test_cancel(run: Run, redis: Settings, tmp_path: Path):
    job = _submit(run, tmp_path / "out")
    outcome = run("cancel", job)
    kept = f"{job}: cancelled, 0 of 4 shards are kept in {os.path.realpath(tmp_path / 'out')}\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, kept, "")
    assert run("cancel", job).out == kept
    document = _json(run, "cancel", job, keys=JOB_KEYS)
    assert document["state"] == "cancelled"
    assert document["ended_at"] >= document["queued_at"]
    assert run("status", job).code == 1
    assert _json(run, "status", job, code=1)["state"] == "cancelled"


def test_cancel_of_a_job_that_is_done(run: Run, redis: Settings, dataset: Path):
    job = _submit(run, dataset)
    outcome = run("cancel", job)
    assert (outcome.code, outcome.out) == (0, f"{job}: had ended already, it is done\n")


def test_watch_of_a_cancelled_job(run: Run, redis: Settings, tmp_path: Path):
    job = _submit(run, tmp_path / "out")
    run("cancel", job)
    outcome = run("watch", job)
    assert (outcome.code, outcome.out) == (1, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"noisemill: job {job} was cancelled; 0 of 4 shards are kept")
    assert f"noisemill resume {os.path.realpath(tmp_path / 'out')}" in last


def test_watch_of_jobs_that_have_ended(run: Run, redis: Settings, tmp_path: Path, dataset: Path):
    done, cancelled = _submit(run, dataset), _submit(run, tmp_path / "out")
    assert run("watch", done).out == f"{done}: done, 100 samples in {os.path.realpath(dataset)}\n"
    run("cancel", cancelled)
    documents = _json(run, "watch", cancelled, done, cancelled[:8], done, code=1, keys=JOB_KEYS)
    assert [document["state"] for document in documents] == ["cancelled", "done"]


def test_resume_queues_a_cancelled_job_again(run: Run, redis: Settings, tmp_path: Path):
    job = _submit(run, tmp_path / "out", "--priority", "2")
    run("cancel", job)
    assert run("resume", tmp_path / "out").out == f"{job}\n"
    assert (_json(run, "status", job)["state"], _json(run, "status", job)["priority"]) == ("queued", 2)
    run("cancel", job)
    assert _json(run, "resume", job, keys=JOB_KEYS | {"warning"})["state"] == "queued"


def test_extend_takes_the_place_of_a_queued_job(run: Run, redis: Settings, dataset: Path, tmp_path: Path):
    old = _submit(run, tmp_path / "out", "--priority", "2")
    document = _json(run, "extend", tmp_path / "out", "-n", 200, keys=JOB_KEYS | {"warning"})
    assert document["id"] != old
    assert (document["state"], document["count"], document["priority"]) == ("queued", 200, 2)
    assert _json(run, "status", old, code=1)["state"] == "cancelled"
    assert run("extend", tmp_path / "out", "-n", 200).out == f"{document['id']}\n"
    assert run("resume", tmp_path / "out").out == f"{document['id']}\n"
    grown = _json(run, "extend", dataset, "-n", 205, keys=JOB_KEYS)
    assert (grown["shards"], grown["shards_done"], grown["samples_found"]) == (7, 3, 90)
    assert not (dataset / "manifest.json").exists()


def test_workers(run: Run, redis: Settings, tmp_path: Path):
    assert run("workers").out == "no workers are up: start one with 'noisemill worker GENERATOR'\n"
    assert _json(run, "workers") == []
    info = _announce(redis, tmp_path)
    [document] = _json(run, "workers", keys=WORKER_KEYS)
    assert (document["id"], document["job"], document["batch"]) == (info.id, None, 64)
    row = run("workers").out.splitlines()[1]
    assert "host-1" in row
    assert "50/s" in row
    assert "1 min 15 s" in row


# -- dry runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "submit"])
def test_dry_run_makes_nothing(run: Run, redis: Settings, tmp_path: Path, command: str):
    _announce(redis, tmp_path)
    before = tree(tmp_path)
    outcome = run(command, TINY, tmp_path / "new", "-n", "10k", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("10,000 samples in 2 shards of up to 8,192\n")
    document = _json(run, command, TINY, tmp_path / "new", "-n", "10k", "--dry-run", keys=SIZING_KEYS)
    assert (document["count"], document["shards"], document["workers"]) == (10_000, 2, int(command == "submit"))
    assert document["seconds"] == (200.0 if command == "submit" else None)
    assert tree(tmp_path) == before
    assert _json(run, "jobs") == []


def test_dry_run_is_exact(run: Run, whole: Path, tmp_path: Path):
    document = _json(run, "generate", TINY, tmp_path / "new", "-n", 100, "--shard-size", 30, "--dry-run")
    made = sum(path.stat().st_size for path in (whole / "shards").iterdir())
    assert (document["size_bytes"], document["estimated"]) == (made, False)


@pytest.mark.parametrize("format_", ["png", "tar"])
def test_dry_run_of_images_is_an_estimate(run: Run, tmp_path: Path, format_: str):
    outcome = run("generate", TINY, tmp_path / "new", "-n", 100, "--format", format_, "--dry-run")
    assert "\nabout " in outcome.out


# -- datasets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["generate", TINY], ["resume"], ["extend", "--count", 100]], ids=["generate", "resume", "extend"]
)
def test_what_is_whole_is_not_made_again(run: Run, dataset: Path, command: list):
    options = ["-n", 100, "--seed", 7, "--shard-size", 30] if command[0] == "generate" else []
    before = tree(dataset)
    outcome = run(*command, dataset, *options)
    assert (outcome.code, outcome.err) == (0, "")
    first, second, sheet = outcome.out.splitlines()
    assert first == f"100 samples in 4 shards, 27.0 kB: {os.path.realpath(dataset)}"
    assert second == "everything existed already"
    assert sheet == f"contact sheet: {os.path.realpath(dataset)}/preview.png"
    document = _json(run, *command, dataset, *options, keys=RESULT_KEYS)
    assert (document["made"], document["job"]) == (0, None)
    assert tree(dataset) == before


def test_extend_tells_what_it_would_make(run: Run, dataset: Path):
    before = tree(dataset)
    outcome = run("extend", dataset, "--count", "205", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    first, second = outcome.out.splitlines()
    assert first == "115 samples to make in 4 shards; 3 shards stay"
    assert second.startswith("205 samples in all, exactly 5")
    document = _json(run, "extend", dataset, "--count", "205", "--dry-run", keys=EXTENSION_KEYS)
    assert (document["count_before"], document["samples_to_make"]) == (100, 115)
    assert run("extend", dataset, "--count", "100", "--dry-run").out.endswith(": nothing to make\n")
    assert tree(dataset) == before


def test_export(run: Run, dataset: Path, tmp_path: Path):
    outcome = run("export", dataset, tmp_path / "pictures", "--to", "png", "--layout", "class")
    assert (outcome.code, outcome.err) == (0, "")
    first, second = outcome.out.splitlines()
    assert re.fullmatch(rf"100 samples in 4 shards, [0-9.]+ kB: {os.path.realpath(tmp_path / 'pictures')}", first)
    assert re.fullmatch(r"[0-9,]+/s; [0-9.]+ s in all", second)
    assert run("verify", tmp_path / "pictures").code == 0
    again = run("export", dataset, tmp_path / "pictures", "--to", "png", "--layout", "class")
    assert again.out.splitlines()[1] == "everything existed already"
    document = _json(run, "export", dataset, tmp_path / "a.npz", "--to", "npz", keys=EXPORT_KEYS)
    assert (document["count"], document["shards"], document["form"]) == (100, 1, "npz")
    assert document["size_bytes"] == (tmp_path / "a.npz").stat().st_size


def test_an_export_that_is_interrupted_says_how_to_go_on(
    run: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.stores.local import LocalDraft

    def interrupt(_draft: LocalDraft) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalDraft, "commit", interrupt)
        outcome = run("export", dataset, tmp_path / "o ut", "--to", "png", "--shard-size", "25")
    assert (outcome.code, outcome.out) == (130, "")
    command = f"noisemill export {dataset} '{tmp_path / 'o ut'}' --to png --shard-size 25"
    assert outcome.err == f"noisemill: interrupted; '{command}' continues\n"
    assert run(*shlex.split(command)[1:]).code == 0


def test_verify(run: Run, dataset: Path):
    before = tree(dataset)
    outcome = run("verify", dataset)
    told = f"{os.path.realpath(dataset)}: sound; 100 samples in 4 shards, 27.0 kB hashed\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, told, "")
    document = _json(run, "verify", dataset, keys=VERIFY_KEYS)
    assert (document["sound"], document["samples_sound"], document["problems"]) == (True, 100, [])
    assert tree(dataset) == before


def test_verify_tells_what_is_damaged(run: Run, dataset: Path):
    path = dataset / "shards" / "00000002.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    outcome = run("verify", dataset)
    assert (outcome.code, outcome.out) == (1, "")
    assert "shard 2: shards/00000002.npy is damaged" in outcome.err
    document = _json(run, "verify", dataset, code=1, keys=VERIFY_KEYS)
    assert (document["sound"], document["damaged"], document["shards_sound"]) == (False, [2], 3)


def _assert_png(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_preview(run: Run, dataset: Path, tmp_path: Path):
    (dataset / "preview.png").unlink()
    outcome = run("preview", dataset)
    sheet = os.path.join(os.path.realpath(dataset), "preview.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{sheet}\n", "")
    _assert_png(Path(sheet))
    before = tree(dataset)
    outcome = run("preview", dataset, "-o", tmp_path / "sheet.png")
    assert outcome.out == f"{tmp_path / 'sheet.png'}\n"
    _assert_png(tmp_path / "sheet.png")
    assert tree(dataset) == before


def test_latents(run: Run, dataset: Path, tmp_path: Path):
    before = tree(dataset)
    documents = _json(run, "latents", dataset, "--index", 5, "--count", 3, keys={"index", "label", "class", "latent"})
    expected = latents(7, 5, 3, 8)
    np.testing.assert_array_equal(np.array([each["latent"] for each in documents], np.float32), expected)
    assert [(each["index"], each["label"], each["class"]) for each in documents] == [
        (5, 1, "square"),
        (6, 2, "star"),
        (7, 3, "cross"),
    ]
    assert run("latents", dataset, "--index", "5").out.startswith("sample 5: label 1 (square), latent [")
    run("latents", dataset, "--index", 5, "--count", 3, "-o", tmp_path / "rows.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)
    assert tree(dataset) == before


# -- generators, doctor ----------------------------------------------------------------------------------------


def test_generators(run: Run):
    documents = _json(run, "generators", keys=GENERATOR_KEYS)
    assert "fashion" in [document["name"] for document in documents]
    header, *rows = run("generators").out.splitlines()
    assert header.split()[:3] == ["GENERATOR", "SAMPLE", "CLASSES"]
    assert any(row.split()[:3] == ["fashion", "28x28x1", "10"] for row in rows)


def test_inspect(run: Run):
    document = _json(run, "generators", "inspect", TINY, keys=GENERATOR_KEYS)
    assert (document["latent_dim"], document["sample_shape"]) == (8, [8, 8, 1])
    outcome = run("generators", "inspect", TINY)
    assert outcome.code == 0
    assert "circle, square, star, cross" in outcome.out


def test_doctor(run: Run, redis: Settings, tmp_path: Path):
    _announce(redis, tmp_path)
    before = tree(tmp_path)
    outcome = run("doctor", tmp_path / "new" / "place")
    assert (outcome.code, outcome.err) == (0, "")
    checks = [line for line in outcome.out.splitlines() if not line.startswith(" ")]
    assert [line.split()[:2] for line in checks] == [
        ["warning" if name == "redis" else "ok", f"{name}:"]
        for name in ("redis", "workers", "jobs", "schedules", "limits", "devices", "generators", "storage")
    ]
    assert "1 up, tiny on cpu" in outcome.out
    assert "WARNING: it keeps no append-only file" in outcome.out
    documents = _json(run, "doctor", tmp_path / "new", keys={"check", "state", "works", "says", "warnings"})
    assert all(document["works"] for document in documents)
    assert tree(tmp_path) == before


def test_doctor_tells_what_does_not_work(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    outcome = run("doctor", tmp_path / "file", "--redis", "unix:///nowhere")
    assert (outcome.code, outcome.err) == (1, "")
    assert "problem redis:      Redis at unix:///nowhere cannot be reached" in outcome.out
    assert "problem workers:    unknown" in outcome.out
    assert (
        f"problem storage:    {os.path.realpath(tmp_path / 'file')}: a file lies where a folder should be"
        in outcome.out
    )
    documents = _json(run, "doctor", "ftp://x", "--redis", "unix:///nowhere", code=1)
    assert [each["check"] for each in documents if not each["works"]] == [
        "redis",
        "workers",
        "jobs",
        "schedules",
        "storage",
    ]


# -- the command itself ----------------------------------------------------------------------------------------


COMMANDS = commands()


@pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_help(run: Run, words: tuple[str, ...], command: click.Command):
    outcome = run(*words, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"Usage: noisemill {' '.join(words)} ")
    assert len(lines) <= 72
    assert max(map(len, lines)) <= 80
    assert run(*words, "-h").out == outcome.out
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_help_ends_with_examples_that_can_be_pasted(words: tuple[str, ...], command: click.Command):
    """Where one has none: `epilog=examples(...)` of pipeline.cli.options."""
    end = re.split(r"^  Examples?:", help_text(words), flags=re.MULTILINE)
    assert len(end) == 2
    lines = [shlex.split(line.strip())[1:] for line in end[1].splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert tuple(line[: len(words)]) == words
        rest = line[len(words) :]
        if not isinstance(command, click.Group):
            # click keeps the help option that it makes first, so its names must be those of the real command.
            context = click.Context(noisemill, **noisemill.context_settings)
            command.make_context(words[-1], list(rest), parent=context)


def test_help_lists_every_command(run: Run):
    outcome = run("--help")
    listed = re.findall(r"^  ([a-z]+) +\S", outcome.out.partition("Make datasets:")[2], re.M)
    assert listed == [words[0] for words, _ in COMMANDS if len(words) == 1]
    assert len(outcome.out.splitlines()) <= 52


@pytest.mark.parametrize("words", [["--version"], ["--help"], []], ids=["version", "help", "bare"])
def test_as_a_module(words: list[str]):
    done = _process(*words)
    assert done.returncode == (0 if words else 2)
    assert "noisemill" in done.stdout + done.stderr
    if words == ["--version"]:
        assert done.stdout == f"noisemill, version {VERSION}\n"


def test_reader_that_leaves_early():
    """As `noisemill generators --json | head -1` does: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pipeline.cli", "generators", "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=600)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_settings_of_the_environment(run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """The option counts before the environment, and key prefixes keep jobs apart."""
    monkeypatch.setenv("NOISEMILL_REDIS_URL", "unix:///nowhere")
    assert run("jobs").code == 1
    assert run("jobs", "--redis", settings.redis_url).code == 0


def _process(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
