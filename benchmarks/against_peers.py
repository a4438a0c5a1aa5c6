"""`noisemill generate` against what people write today (`benchmarks.peers`), as processes, interleaved."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.generators import find_generator

GENERATOR = "fashion"
_SAMPLES = 10_000
#: Each run is a process that starts TensorFlow.
_ROUNDS = 2
#: Of what takes a batch of its own, as the worker does; Keras' own default is 32.
_BATCH = 256


@dataclass(frozen=True)
class _Peer:
    name: str
    module: str
    #: What noisemill is asked for beside it.
    request: tuple[str, ...]
    batch: tuple[str, ...] = ()
    #: Share of the samples: what is slow makes fewer.
    share: float = 1.0
    reach: float | None = None
    #: The same, start-up included.
    reach_started: float | None = None


_NPY, _PNG = ("--format", "npy"), ("--format", "png")
PEERS = [
    _Peer("Keras predict + np.save", "keras_numpy", _NPY, reach=1.3),
    _Peer(
        f"Keras predict in batches of {_BATCH} + np.save",
        "keras_numpy",
        _NPY,
        batch=(str(_BATCH),),
        reach=1.3,
        reach_started=1.3,
    ),
    _Peer("Keras predict + Pillow", "keras_pillow", _PNG, reach=1.3),
    _Peer("Ray Data map_batches + write_numpy", "ray_data", _NPY, batch=(str(_BATCH),), reach=2.5),
    _Peer("one image at a time", "one_at_a_time", _PNG, share=0.125),
]


def run(effort: Effort) -> Result:
    """How many times as fast as each peer, with start-up and without; Ray Data where `ray` is installed."""
    model = find_generator(GENERATOR).model
    peers = [peer for peer in PEERS if peer.module != "ray_data" or ray_python() is not None]
    whole = effort.samples(_SAMPLES)
    ours: dict[tuple[str, ...], list[dict[str, float]]] = {_NPY: [], _PNG: []}
    theirs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    with folder() as place:
        _noisemill(place / "warm-up", 512, _NPY)  # Calibrates, so that it is done once and for all.
        for number in range(min(effort.rounds, _ROUNDS)):
            for request, runs in ours.items():
                runs.append(_noisemill(place / f"ours-{request[-1]}-{number}", whole, request))
            for peer in peers:
                out = place / f"{peer.module}{''.join(peer.batch)}-{number}"
                theirs[peer.name].append(_peer(peer, model, out, effort.samples(round(_SAMPLES * peer.share))))
    figures = []
    for peer in peers:
        pairs = list(zip(ours[peer.request], theirs[peer.name], strict=True))
        without = [mine["rate"] / other["rate"] for mine, other in pairs]
        rates = [other["rate"] for _, other in pairs]
        figures.append(Figure(case=peer.name, values=without, rates=rates, reach=peer.reach, against=peer.name))
        started = [_in_all(other, whole) / _in_all(mine, whole) for mine, other in pairs]
        case = f"{peer.name}, with start-up"
        figures.append(Figure(case=case, values=started, reach=peer.reach_started, against=peer.name))
    details: dict[str, Any] = {"ours": {request[-1]: runs for request, runs in ours.items()}, "theirs": theirs}
    note = (
        f"`{GENERATOR}`; samples/s are the peer's own. Without start-up: from the first sample to the last, "
        "for noisemill from the first claim until the dataset is whole. With it: from the command to its end, for "
        f"{effort.samples(_SAMPLES):,} samples (reckoned from an eighth of them for one at a time)."
    )
    return Result(title="Times as fast as what people write today", figures=figures, notes=[note], details=details)


def ray_python() -> str | None:
    """A Python that has Ray: $NOISEMILL_BENCH_RAY_PYTHON, or this one; None if there is none."""
    other = os.environ.get("NOISEMILL_BENCH_RAY_PYTHON")
    if other:
        return other
    return sys.executable if importlib.util.find_spec("ray") else None


def _peer(peer: _Peer, model: Path, out: Path, samples: int) -> dict[str, float]:
    out.mkdir()
    python = ray_python() if peer.module == "ray_data" else sys.executable
    module = f"benchmarks.peers.{peer.module}"
    seconds, printed = _run([str(python), "-m", module, str(model), str(out), str(samples), *peer.batch])
    inner = json.loads(printed.strip().splitlines()[-1])["seconds"]
    return {"samples": samples, "seconds": seconds, "rate": samples / inner}


def _noisemill(out: Path, samples: int, request: tuple[str, ...]) -> dict[str, float]:
    arguments = ["generate", GENERATOR, str(out), "--count", str(samples), *request, "--json"]
    seconds, printed = _run([sys.executable, "-m", "pipeline.cli", *arguments])
    job = json.loads(printed)["job"]
    return {"samples": samples, "seconds": seconds, "rate": samples / (job["ended_at"] - job["running_at"])}


def _run(command: list[str]) -> tuple[float, str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - start, done.stdout


def _in_all(run: dict[str, float], samples: int) -> float:
    """Seconds of the whole command for this number of samples."""
    return run["seconds"] + (samples - run["samples"]) / run["rate"]
