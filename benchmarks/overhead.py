"""What a user waits for beside the forward pass: `--help`, and `generate` end to end."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 5


def run() -> dict[str, Any]:
    """Seconds of `--help` and of `generate fashion --count 10k`, the first of which calibrates; prints them."""
    helps = [_seconds("--help")[0] for _ in range(ROUNDS + 1)][1:]
    with tempfile.TemporaryDirectory(prefix="noisemill-bench-") as folder:
        runs = []
        for number in range(3):
            arguments = ["generate", "fashion", str(Path(folder) / str(number)), "--count", "10k", "--json"]
            seconds, out = _seconds(*arguments)
            job = json.loads(out)["job"]
            making = job["ended_at"] - job["running_at"]
            runs.append({"seconds": seconds, "making": making, "predict": job["stage_seconds"]["predict"]})
        again = _seconds(*arguments)[0]
    print(f"--help: {statistics.median(helps):.3f} s ({min(helps):.3f} to {max(helps):.3f})")
    for number, one in enumerate(runs):
        told = "first, with calibration" if number == 0 else "again"
        beside = one["seconds"] - one["predict"]
        print(f"generate, {told}: {one['seconds']:.1f} s, of which predict {one['predict']:.1f} s, else {beside:.1f} s")
    print(f"generate, all there already: {again:.2f} s")
    return {"help_s": helps, "generate": runs, "already_there_s": again}


def _seconds(*arguments: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stdout
