"""Every command of the tree, with words that nobody would write: a line or two and the right code, never a traceback.

Programs that a command would start are stood in for, at the one place where Python starts any: what is tried here is
what is looked at before. NOISEMILL_FUZZ_EXAMPLES=200 tries more, NOISEMILL_FUZZ_SEED others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from pipeline.cli import noisemill
from pipeline.common.errors import WorkerError
from tests.cli.cases import TRIED
from tests.cli.running import Run
from tests.cli.test_damaged_files import check

EXAMPLES = int(os.environ.get("NOISEMILL_FUZZ_EXAMPLES", "10"))

#: Words that mean nothing anywhere: with one of them no command can have done what was asked.
NONSENSE = [
    "~zebra/x", "1e400", "9" * 400, "a" * 5000, "s3://", "s3:///x", "s3://bucket/../x", "redis://[::1", "./pipe",
    "./loop", "gpu:9", "61 * * * *", "--zebra", "--cuont=5", "ftp://u:p@h/x", "/dev/zero", "counts:0=", "normal:nan",
]  # fmt: skip

#: Bytes that are no text come as lone surrogates; zero bytes the system keeps out. No generator that exists and no
#: server that answers are among them.
WORDS = [
    *NONSENSE,
    "\udcff", "", " ", "-", "--", "-1", "0", "1", "7", "10k", "1" + "0" * 18, "nan", "\u0661", "\x1b[2J", "x\ny", "..",
    "../..", "/", "/dev/null", "./nowhere", "./bare", "./file", "./other", "./other/job.json", "./file/x",
    "zebra", "s3://bucket/x", "file:x", "unix:///nowhere", "auto", "npy", "png", "all", "class:x", "* * * * *", "{}",
    "[]", "{", "{run}", "=", "a=b", "%s", "$(true)", "\U0001f600", "true", "null", "latest", "2026-02-30",
]  # fmt: skip


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below one, with the words that call them."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))
        if not command.invoke_without_command:
            return
    yield path, command


#: Without the web page, whose server would run in this process: `tests/ui/test_command.py` starts it as users do.
TREE = {path: command for path, command in commands(noisemill) if path != ("ui",)}


@st.composite
def lines(draw: st.DrawFn, command: click.Command) -> list[str]:
    """Words for a command: mostly as many as it takes, and some of its options, not all of them whole."""
    word = st.sampled_from(WORDS) | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
    )
    words: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            # Half of the time the dataset, so that what comes after it is looked at too.
            places = [draw(st.just("./other") | word) for _ in range(draw(st.sampled_from([1] * 9 + [0, 2])))]
            words += places
    options = [each for each in command.params if isinstance(each, click.Option)]
    for option in draw(st.lists(st.sampled_from(options), max_size=3, unique_by=id)) if options else []:
        name = draw(st.sampled_from(option.opts))
        words += [name] if option.is_flag else [name, draw(word)]
    return words


def _start_nothing(*_: Any, **__: Any) -> NoReturn:
    raise WorkerError("here a program would start")


@pytest.fixture
def odd_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the words lead: an empty folder, a file, a pipe, a link to itself; no server, no program."""
    Path("bare").mkdir()
    Path("file").write_text("x")
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NOISEMILL_REDIS_URL", "unix:///nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(subprocess, "Popen", _start_nothing)
    monkeypatch.setattr(os, "execve", _start_nothing)


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_any_words(run: Run, whole: Path, odd_places: None, path: tuple[str, ...]):
    @seed(int(os.environ.get("NOISEMILL_FUZZ_SEED", "1")))
    @settings(
        max_examples=EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @example(["--zebra"])
    @given(lines(TREE[path]))
    def try_(words: list[str]) -> None:
        if not Path("other/manifest.json").exists():
            shutil.rmtree("other", ignore_errors=True)
            shutil.copytree(whole, "other")
        TRIED["odd words"] += 1
        told = repr([*path, *words])[:300]
        outcome = run(*path, *words)
        if path == ("doctor",) and outcome.code == 1 and not outcome.err:
            assert "problem" in outcome.out or '"works": false' in outcome.out, told  # What it finds is its output.
            return
        check(outcome, told, lines=3)
        # A file to be written may have any name.
        read = {word for before, word in pairwise(["", *words]) if before not in ("-o", "--output")}
        assert outcome.code or not read & set(NONSENSE), told

    try_()


def test_every_command_is_tried():
    """The tree that is tried has all that `--help` lists."""
    assert {path[0] for path in TREE} | {"ui"} == set(noisemill.list_commands(click.Context(noisemill)))
