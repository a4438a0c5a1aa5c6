"""That benchmarks run and say what they found, not how fast: at a tiny size, in a process of their own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.__main__ import KNOWN
from benchmarks.figures import Figure, Result, markdown, plain
from benchmarks.page import BEGIN, END, read_results, update_page
from benchmarks.plot import plot

ROOT = Path(__file__).parents[2]

_SLOW = ("end_to_end", "data_plane", "samplers", "against_peers", "overhead", "fairness", "scale", "elastic", "stream")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in KNOWN]
)
def test_it_runs_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--results", str(tmp_path), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    [(_, result)] = read_results(tmp_path, [name])
    assert result.title in done.stdout
    assert result.figures
    for figure in result.figures:
        assert figure.case in done.stdout
        # Not their sign: a difference of two short times may be less than nothing on a busy machine.
        assert all(map(math.isfinite, figure.values))
        assert figure.values


def test_an_unknown_benchmark_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 2
    assert "nonsense" in done.stderr


RESULTS = [
    Result(
        title="One & two",
        figures=[
            Figure(case="npy <here>", values=[0.9, 1.1, 0.97], rates=[1990.0, 2010.0, 2000.0], reach=0.95),
            Figure(case="png", values=[0.5], reach=0.9),
            Figure(case="wait", unit="s", values=[0.2, 0.1], reach=0.25, smaller_is_better=True),
        ],
        notes=["A note."],
        details={"device": "a processor"},
    ),
    Result(title="Times", figures=[Figure(case="peer", values=[3.0, 12.5], against="peer")]),
]


def test_a_table_has_a_row_a_figure() -> None:
    assert markdown(RESULTS[0]).splitlines()[2:7] == [
        "| case | samples/s | median | least to most | reach |",
        "| --- | --- | --- | --- | --- |",
        "| npy <here> | 2,000 | 0.970 | 0.900 to 1.100 | 0.950 |",
        "| png |  | 0.500 |  | 0.900 |",
        "| wait |  | 0.15 s | 0.1 s to 0.2 s | at most 0.25 s |",
    ]
    assert "A note." in plain(RESULTS[0])


def test_a_plot_has_a_dot_a_run() -> None:
    drawing = ET.fromstring(plot(RESULTS))
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}circle"))) == 3 + 1 + 2
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"One & two", "npy <here>", "png", "Times", "peer"} <= set(texts)
    assert "wait" not in texts


def test_the_page_takes_the_latest_results(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        update_page([("2026-01-02T03:04:05Z", result) for result in RESULTS], tmp_path)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("### One & two") == 1
    assert "2026-01-02" in text
    assert "a processor" in text
    assert (tmp_path / "performance.svg").exists()


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text(json.dumps({"at": "2026-01-02T03:04:05Z", **asdict(RESULTS[1])}))
    assert read_results(tmp_path, ["absent", "times"]) == [("2026-01-02T03:04:05Z", RESULTS[1])]
