"""The report tells what is there, of every format and shape, whole or growing; and what it tells is safe to show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.repair import withdraw_damaged
from pipeline.datasets.report import gather_findings, page
from pipeline.datasets.report.findings import Findings
from pipeline.datasets.verification import verify
from pipeline.spec.selection import parse_selection
from tests.cli.running import Run, runner
from tests.datasets.test_dataset import FORMS
from tests.making import make_dataset, make_spec
from tests.servers import S3Server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


class Reader(HTMLParser):
    """What a page consists of."""

    _VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def report(folder: Path) -> Reader:
    return Reader(page(gather_findings(Dataset(folder))))


@pytest.mark.parametrize("form", [*FORMS, "null"])
def test_every_format(form: str, tmp_path: Path) -> None:
    spec = make_spec(**FORMS.get(form, {"format": form}))
    read = report(make_dataset(tmp_path / "d", spec))
    assert "100 samples of tiny" in read.text
    assert spec.digest in read.text
    assert "whole" in read.text
    assert f"noisemill generate {spec.generator} again" in read.text
    assert ("No samples were written" in read.text) == (form == "null")
    assert all((attributes.get("src") or "data:").startswith("data:") for _, attributes in read.tags)
    assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in read.tags}


@pytest.mark.parametrize("changes", [
    {"sample_shape": (4, 6, 3)}, {"sample_shape": (6, 4, 4)}, {"sample_shape": (5, 7)}, {"sample_shape": (16,)},
    {"sample_shape": (1,)}, {"sample_shape": ()}, {"sample_shape": (2, 3, 4, 5)},
    {"sample_shape": (130, 100, 3), "count": 20},
    {"value_range": None}, {"dtype": "float16"},
    {"classes": None, "labels": None}, {"count": 1}, {"count": 2},
    {"labels": "class:2"}, {"labels": "counts:3=99,0=1"}, {"shard_size": 1, "count": 30},
    {"classes": tuple(f"k{n}" for n in range(60))},
])  # fmt: skip
def test_every_shape(tmp_path: Path, changes: dict[str, Any]) -> None:
    read = report(make_dataset(tmp_path / "d", make_spec(**changes)))
    shown = {tag for tag, _ in read.tags}
    assert ("img" in shown) == (len(changes.get("sample_shape", (4, 4, 1))) in (2, 3))
    assert "nan" not in read.text.lower().split()
    assert "inf" not in read.text.lower().split()


def test_a_growing_dataset(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "d", make_spec(), finished=False)
    (folder / "receipts/00000002.json").unlink()
    read = report(folder)
    assert "not whole: 70 of 100 samples, 70%" in read.text
    assert f"noisemill resume {folder}" in read.text
    found = gather_findings(Dataset(folder))
    assert not set(range(60, 90)) & set(found.indices)
    for path in (folder / "receipts").iterdir():
        path.unlink()
    assert "There are none yet" in report(folder).text
    (folder / "selection.json").write_text(parse_selection("1,3", make_spec().plan).to_json())
    assert "a part: shards 1,3 of 4" in report(folder).text


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    bad = ("<script>alert(1)</script>", "a&b", "\"'", "</style>")
    read = report(make_dataset(tmp_path / "d", make_spec(classes=bad, generator="/m/<b>.keras")))
    for name in bad:
        assert name in read.text
    assert "script" not in {tag for tag, _ in read.tags}
    assert "100 samples of <b>" in read.text


def found(tmp_path: Path, **changes: Any) -> Findings:
    return gather_findings(Dataset(make_dataset(tmp_path / "d", make_spec(**changes))))


def test_what_it_finds(tmp_path: Path) -> None:
    told = found(tmp_path, count=5000, shard_size=100)
    samples = Dataset(tmp_path / "d").samples(0, 5000)
    assert told.samples_made == 5000
    assert len(told.samples) == 1024
    assert len({index // 100 for index in told.indices}) == 16
    assert np.array_equal(told.samples, samples[list(told.indices)])
    counts, edges = told.histogram
    assert sum(counts) == told.samples.size
    assert (edges[0], edges[-1]) == (-1, 1)
    assert {label: len(each) for label, each in told.classes.items()} == dict.fromkeys(range(4), 20)
    assert told.statistics is not None
    assert told.statistics.classes == (1250,) * 4
    assert told.workers == {"host-1": (50, 5000)}
    for pair in told.nearest:
        true = np.sqrt(np.mean((samples[pair.first] - samples[pair.second]) ** 2)) / 2
        assert pair.distance == pytest.approx(true, abs=2e-4)
    assert told.nearest[0].distance <= told.nearest[-1].distance <= (told.nearest_median or 0)


def test_repeated_samples_are_found(tmp_path: Path) -> None:
    import hashlib

    from tests.datasets.test_dataset import npy

    rows = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    rows[71] = rows[3]
    data = npy(rows)
    spec = make_spec(latents=hashlib.sha256(data).hexdigest(), labels=None, classes=None)
    told = gather_findings(Dataset(make_dataset(tmp_path / "d", spec, uploads={"latents.npy": data})))
    assert (told.nearest[0].first, told.nearest[0].second, told.nearest[0].distance) == (3, 71, 0)
    assert told.nearest[1].distance > 0.01


def test_rate_over_time_leaves_pauses_out(tmp_path: Path) -> None:
    """Receipts of 40 shards, one a second, with an hour between two of them; times are made up."""
    from dataclasses import replace

    folder = make_dataset(tmp_path / "d", make_spec(count=400, shard_size=10), finished=False)
    for path in sorted((folder / "receipts").iterdir()):
        receipt = Dataset(folder).receipt(int(path.stem))
        assert receipt is not None
        at = 1e9 + receipt.shard + (3600 if receipt.shard >= 20 else 0)
        path.write_text(replace(receipt, finished_at=at, seconds={"predict": 1.0}).to_json())
    told = gather_findings(Dataset(folder)).rate
    assert told is not None
    assert told.working_s == pytest.approx(40)
    assert told.paused_s == pytest.approx(3600)
    assert told.overall == pytest.approx(10)
    assert np.mean(told.series) == pytest.approx(10)
    assert "pauses of 1 h 0 min are left out" in report(folder).text
    assert "predict 40 s" in report(folder).text


def test_the_command_and_what_verify_says_of_the_page(tmp_path: Path, run: Run) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    done = run("report", folder)
    assert done.code == 0, done.err
    assert re.fullmatch(rf"{folder}/report\.html \([0-9.]+ kB\)\n", done.out)
    assert verify(str(folder)).sound
    withdraw_damaged(str(folder))
    assert Dataset(folder).whole
    other = run("report", folder, "-o", tmp_path / "mine.html")
    assert other.code == 0
    assert (tmp_path / "mine.html").read_text().startswith("<!doctype html>")


def test_on_s3(s3: S3Server, run: Run) -> None:
    destination = s3.destination()
    make_dataset(destination, make_spec())  # type: ignore[arg-type]
    assert run("report", destination).code == 0
    body = s3.client.get_object(Bucket=s3.bucket, Key=f"{destination.removeprefix(f's3://{s3.bucket}/')}/report.html")[
        "Body"
    ].read()
    assert "100 samples of tiny" in Reader(body.decode()).text
    assert verify(destination).sound


def test_what_has_no_report(tmp_path: Path, run: Run) -> None:
    folder = make_dataset(tmp_path / "d", make_spec())
    damaged = make_dataset(tmp_path / "damaged", make_spec())
    (damaged / "shards/00000001.npy").unlink()
    for words, code, says in (
        (["report", tmp_path / "nothing"], 1, "holds no dataset"),
        (["report", damaged], 1, "00000001.npy is missing"),
        (["report", folder, "-o", tmp_path / "no" / "r.html"], 1, "cannot be written"),
        (["report"], 2, "Missing argument 'DEST'"),
    ):
        done = run(*words)
        assert done.code == code
        assert says in done.err
        assert 1 <= len(done.err.splitlines()) <= 2
        assert "Traceback" not in done.err
