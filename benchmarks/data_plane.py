"""All but the forward pass, with a generator that costs nothing, against what disk and encoder can do at most."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.figures import Effort, Figure, Result
from benchmarks.free_generator import FreeEngines, free_generator
from benchmarks.rig import Rig, folder, memory_folder, rig
from pipeline.common.limits import usable_cores
from pipeline.formats.image import encode_pngs
from pipeline.formats.png_file import CompressedPng
from pipeline.formats.values import to_stored
from pipeline.stores.flushing import flush_files

#: The largest batch that a calibration tries, which is what a fast device gets.
_BATCH = 512
_SMALL, _LARGE = (28, 28, 1), (64, 64, 3)
_SHARD = 8192
#: How often an encoder is given the same batch.
_PASSES = 4


@dataclass(frozen=True)
class _Case:
    name: str
    shape: tuple[int, int, int]
    request: dict[str, Any]
    where: str
    samples: int
    #: The highest possible rate, samples per second, measured over this number of samples.
    limit: Callable[[NDArray[np.float32], int, Path], float]
    against: str
    reach: float | None


def run(effort: Effort) -> Result:
    """Ratios of each case to its own limit, measured just before and just after it."""
    from workers.engine.calibration import Calibration

    with ExitStack() as stack:
        places = {"disk": stack.enter_context(folder())}
        if memory_folder() is not None:
            places["memory"] = stack.enter_context(folder(memory_folder()))
        calibration = Calibration(engine="tf", batch=_BATCH, rate=1e6)
        engines = {shape: FreeEngines(shape) for shape in (_SMALL, _LARGE)}
        images = {shape: engines[shape].engine("tf", _BATCH).images for shape in engines}
        roots = [str(path) for path in places.values()]
        rigs: dict[tuple[int, int, int], Rig] = {
            shape: stack.enter_context(rig(free_generator(shape), engines[shape], calibration, roots))
            for shape in engines
        }
        cases = [case for case in _cases() if case.where in places]
        ratios: dict[str, list[float]] = {case.name: [] for case in cases}
        rates: dict[str, list[float]] = {case.name: [] for case in cases}
        limits: dict[str, list[float]] = {case.name: [] for case in cases}
        for number in range(effort.rounds):
            for case in cases:
                samples, place = effort.samples(case.samples), places[case.where]
                os.sync()  # Otherwise the system writes what the case before has left, on the same cores.
                own = [case.limit(images[case.shape], samples, place / f"limit-{case.name}-{number}-before")]
                made = rigs[case.shape].run(str(place), samples, **case.request)
                own.append(case.limit(images[case.shape], samples, place / f"limit-{case.name}-{number}-after"))
                ratios[case.name].append(made.rate / (sum(own) / 2))
                rates[case.name].append(made.rate)
                limits[case.name] += own
                if case.where == "memory":
                    # On a virtual machine, memory that is used for the first time is slow. On disk the files stay:
                    # deleting them makes the next ones slower.
                    for path in place.iterdir():
                        shutil.rmtree(path)
    figures = [
        Figure(
            case=case.name, against=case.against, values=ratios[case.name], rates=rates[case.name], reach=case.reach,
            note=case.against,
        )
        for case in cases
    ]  # fmt: skip
    against = "; ".join(f"{case.name}: {case.against}" for case in cases)
    return Result(
        title="All but the forward pass, against the limit of disk or encoder",
        figures=figures,
        notes=[f"Limits: {against}."],
        details={"limits": limits, "cores": usable_cores()},
    )


def _cases() -> list[_Case]:
    raw, files = "the same bytes by a plain loop", "the same files by a plain loop"
    pillow, own = "Pillow's rate x cores", "own encoder's rate x cores"
    png, tar = {"format": "png"}, {"format": "tar"}
    return [
        _Case("npy float32 28x28, disk", _SMALL, {"format": "npy"}, "disk", 131_072, _disk_float32, raw, 0.65),
        _Case("tar 28x28, disk", _SMALL, tar, "disk", 131_072, _disk_tar, raw, None),
        _Case("png 28x28, disk", _SMALL, png, "disk", 16_384, _disk_files, files, None),
        _Case("png 28x28, memory", _SMALL, png, "memory", 32_768, _disk_files, files, None),
        _Case("png 28x28, memory, to Pillow", _SMALL, png, "memory", 32_768, _pillow, pillow, 0.85),
        _Case("tar 28x28, disk, to Pillow", _SMALL, tar, "disk", 131_072, _pillow, pillow, 0.85),
        _Case("png 64x64 RGB, memory, to Pillow", _LARGE, png, "memory", 16_384, _pillow, pillow, 0.85),
        _Case("png 64x64 RGB, disk, to Pillow", _LARGE, png, "disk", 16_384, _pillow, pillow, 0.85),
        _Case("tar 64x64 RGB, disk, to Pillow", _LARGE, tar, "disk", 16_384, _pillow, pillow, 0.85),
        _Case("tar 64x64 RGB, disk, to our own", _LARGE, tar, "disk", 16_384, _own_encoder, own, None),
    ]


def _disk_float32(images: NDArray[np.float32], samples: int, place: Path) -> float:
    return _written(images[:_BATCH].tobytes(), samples, place)


def _disk_tar(images: NDArray[np.float32], samples: int, place: Path) -> float:
    # A header, and an image that is padded to 1,024 bytes.
    return _written(bytes(_BATCH * (512 + 1024)), samples, place)


def _written(batch: bytes, samples: int, place: Path) -> float:
    """Writes a file a shard, batch by batch, and flushes it."""
    place.mkdir()
    start = time.perf_counter()
    for first in range(0, samples, _SHARD):
        with (place / str(first)).open("wb", buffering=0) as file:
            for begun in range(first, min(first + _SHARD, samples), _BATCH):
                file.write(batch[: len(batch) * min(_BATCH, samples - begun) // _BATCH])
            os.fsync(file.fileno())
    return samples / (time.perf_counter() - start)


def _disk_files(images: NDArray[np.float32], samples: int, place: Path) -> float:
    """Writes a file a sample, encoded before, and flushes them shard by shard as the store does."""
    encoded = list(encode_pngs(to_stored(images[:_BATCH], "uint8", (-1.0, 1.0))))
    place.mkdir()
    before = os.open(place, os.O_RDONLY)
    try:
        start = time.perf_counter()
        for first in range(0, samples, _SHARD):
            paths = [f"{place}/{index:012d}.png" for index in range(first, min(first + _SHARD, samples))]
            for index, path in enumerate(paths):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                os.write(descriptor, encoded[index % _BATCH])
                os.close(descriptor)
            flush_files(paths, before)
        return samples / (time.perf_counter() - start)
    finally:
        os.close(before)


def _pillow(images: NDArray[np.float32], samples: int, place: Path) -> float:
    """Pillow on one core, by the number of cores."""
    grey = images.shape[3] == 1

    def encode(pixels: NDArray[np.uint8]) -> None:
        for image in pixels:
            Image.fromarray(image[:, :, 0] if grey else image).save(io.BytesIO(), "PNG", compress_level=1)

    return _by_all_cores(encode, images)


def _own_encoder(images: NDArray[np.float32], samples: int, place: Path) -> float:
    """What the formats compress by, on one core, by the number of cores."""
    return _by_all_cores(CompressedPng(images.shape[1:]).encode, images)


def _by_all_cores(encode: Callable[[NDArray[np.uint8]], object], images: NDArray[np.float32]) -> float:
    pixels = to_stored(images[:_BATCH], "uint8", (-1.0, 1.0))
    start = time.perf_counter()
    for _ in range(_PASSES):
        encode(pixels)
    return _PASSES * len(pixels) / (time.perf_counter() - start) * usable_cores()
