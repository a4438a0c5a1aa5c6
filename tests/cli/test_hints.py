"""Misspelt words get a hint; shells complete commands and options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import Run
from tests.cli.test_bad_input import assert_clear


@pytest.mark.parametrize(("words", "meant"), [
    ("exprot out x --to png", "'export'"), ("verfy out", "'verify'"), ("generators inspekt fashion", "'inspect'"),
    ("generate fashion out --cuont 10", "'--count'"), ("export a b --two png", "'--to'"),
    ("generate fasion out -n 10", "'fashion'"), ("sample articel", "'article'"), ("worker fashon", "'fashion'"),
    ("generate fashion out -n 10 --format pgn", "png"), ("generate fashion out -n 10 --labels class:Dres", "'Dress'"),
])  # fmt: skip
def test_misspelt(run: Run, words: str, meant: str) -> None:
    outcome = run(*words.split())
    assert_clear(outcome, 2, "id you mean", meant)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(run: Run, shell: str, tmp_path: Path) -> None:
    outcome = run("completion", shell)
    assert (outcome.code, outcome.err) == (0, "")
    assert "_NOISEMILL_COMPLETE" in outcome.out
    if shutil.which(shell):
        (tmp_path / "script").write_text(outcome.out)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=600)


@pytest.mark.parametrize(("typed", "offered"), [
    ("noisemill ext", {"extend"}), ("noisemill generators ins", {"inspect"}), ("noisemill rm --ye", {"--yes"}),
    ("noisemill export out x --lay", {"--layout"}), ("noisemill completion ", {"bash", "zsh", "fish"}),
])  # fmt: skip
def test_bash_completes(run: Run, tmp_path: Path, typed: str, offered: set[str]) -> None:
    """By real bash, with the script loaded and the words as readline hands them over."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    (tmp_path / "script").write_text(run("completion", "bash").out)
    words = typed.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    given = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _noisemill_completion noisemill"
    code = f'source ./script; {given}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", code], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) == offered, done.stderr


def test_an_unknown_shell(run: Run) -> None:
    assert_clear(run("completion", "bsh"), 2, "'bash', 'zsh', 'fish'")
