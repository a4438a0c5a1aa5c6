"""What one shard of 10 GB adds to the memory of a worker, without its engine: in a process without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Effort, Figure, Result
from benchmarks.free_generator import FreeEngines, free_generator
from benchmarks.rig import folder, rig

_SHAPE = (28, 28, 1)
_BATCH = 256
_SAMPLE_BYTES = 4 * 28 * 28
#: As one shard of npy, 10 GB.
_SAMPLES = 10**10 // _SAMPLE_BYTES


def run(effort: Effort) -> Result:
    """Peak memory above that of a small shard, MB."""
    samples = effort.samples(_SAMPLES)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(samples)], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found = json.loads(done.stdout)
    figure = Figure(
        case=f"one shard of {samples * _SAMPLE_BYTES / 1e9:.1f} GB, npy on disk", unit="MB", values=[found["peak_mb"]],
        rates=[found["rate"]], reach=300, smaller_is_better=True,
    )  # fmt: skip
    note = f"{samples:,} samples of 28x28 by a generator that costs nothing; what a large file takes on S3 is below."
    return Result(title="Memory beyond the engine", figures=[figure], notes=[note])


def _resident_mb(which: str) -> float:
    """Memory of this process, MB of 10^6 bytes: "VmRSS", or its peak "VmHWM" (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / 1e6


def main(samples: int) -> None:
    """Makes the shard; prints what it took as JSON."""
    from workers.engine.calibration import Calibration

    with ExitStack() as stack:
        place = stack.enter_context(folder())
        calibration = Calibration(engine="tf", batch=_BATCH, rate=1e6)
        runs = stack.enter_context(rig(free_generator(_SHAPE), FreeEngines(_SHAPE), calibration, [str(place)]))
        runs.run(str(place), 4 * _BATCH)
        Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here on.
        before = _resident_mb("VmRSS")
        made = runs.run(str(place), samples, shard_size=samples)
        print(json.dumps({"peak_mb": _resident_mb("VmHWM") - before, "rate": made.rate}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
