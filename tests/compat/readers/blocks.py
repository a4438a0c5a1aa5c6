"""The code of docs/datasets.md and docs/generators.md, and how the tests of readers run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
_PAGE = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("datasets.md", "generators.md"))
_SCRIPT = Path(__file__).with_name("run_blocks.py")

#: Libraries that would ask the network, tell them not to; the home folder is a fresh one.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def block(kind: str, word: str) -> str:
    """The one piece of code of a kind (`keras`, `readers`) in which a word occurs."""
    [found] = [code for code in re.findall(rf"```python {kind}\n(.*?)```", _PAGE, re.DOTALL) if word in code]
    return found


def blocks_of(kind: str) -> list[str]:
    """All pieces of a kind."""
    return re.findall(rf"```python {kind}\n(.*?)```", _PAGE, re.DOTALL)


def answers(python: Path, folder: Path, pieces: list[tuple[str, str]], home: Path) -> list[Any]:
    """Runs pieces of code in a folder, with an interpreter that finds noisemill; answers their expressions' values."""
    environment = {**os.environ, **_OFFLINE, "PYTHONPATH": str(ROOT), "HOME": str(home), "HF_HOME": str(home)}
    done = subprocess.run(
        [str(python), str(_SCRIPT)],
        input=json.dumps(pieces),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
