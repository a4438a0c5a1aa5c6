"""The loop around a trainer: the clock, checkpoints, samples on the way, an end at any time."""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import keras
import tensorflow as tf

from training.data import DEFAULT_DATA, DataMissingError, LabelledImages, load_training

_REPORT_S, _SAVE_S, _SHEET_S = 10.0, 120.0, 240.0


class Trainer(Protocol):
    """The state of a run, as the loop uses it."""

    #: Steps taken, and seconds spent in all calls.
    step: tf.Variable
    elapsed_s: tf.Variable

    @property
    def batch(self) -> int:
        """Images per step."""

    def checkpoint(self) -> tf.train.Checkpoint:
        """All that a run needs to go on as if it had never stopped."""

    def set_progress(self, progress: float) -> None:
        """Set learning rates for the share `progress` of the run that is over, 0 to 1."""

    def round(self) -> dict[str, tf.Tensor]:
        """Take a few steps; return losses to print."""

    def write_sheet(self, path: Path) -> None:
        """Draw samples of the averaged network."""


def cosine_decay(progress: float, decay_from: float) -> float:
    """The factor of learning rates: 1 up to the share `decay_from` of the run, then to 0 along a cosine."""
    over = max(0.0, min(1.0, progress) - decay_from) / (1.0 - decay_from)
    return 0.5 * (1.0 + math.cos(math.pi * over))


class Timer:
    """Says when something is due that is done every `interval_s` seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s, self._last = interval_s, time.monotonic()

    def due(self) -> bool:
        if time.monotonic() - self._last < self._interval_s:
            return False
        self._last = time.monotonic()
        return True


class Interruption:
    """Turns SIGINT and SIGTERM into a request that is read between steps, so that a checkpoint is always whole."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def train(trainer: Trainer, run: Path, budget_s: float, most_steps: int | None = None) -> None:
    """Train until `budget_s` seconds, those of earlier calls included, or `most_steps` steps are spent.

    SIGINT and SIGTERM end it early, after a checkpoint.
    """
    checkpoints = tf.train.CheckpointManager(trainer.checkpoint(), str(run), max_to_keep=2)
    checkpoints.restore_or_initialize()
    with Interruption() as interruption:
        _loop(trainer, run, checkpoints, budget_s, most_steps or sys.maxsize, interruption)
    checkpoints.save()
    _write_sheet(trainer, run)


def _loop(
    trainer: Trainer,
    run: Path,
    checkpoints: tf.train.CheckpointManager,
    budget_s: float,
    goal: int,
    interruption: Interruption,
) -> None:
    report, save, sheet = Timer(_REPORT_S), Timer(_SAVE_S), Timer(_SHEET_S)
    last_time, last_step = time.monotonic(), int(trainer.step)
    while trainer.elapsed_s < budget_s and trainer.step < goal and not interruption.requested:
        trainer.set_progress(float(trainer.elapsed_s) / budget_s)
        losses = trainer.round()
        now = time.monotonic()
        trainer.elapsed_s.assign_add(now - last_time)
        last_time = now
        if report.due():
            speed = (int(trainer.step) - last_step) * trainer.batch / _REPORT_S
            last_step = int(trainer.step)
            _print_progress(trainer, losses, speed, budget_s)
        if save.due():
            checkpoints.save()
        if sheet.due():
            _write_sheet(trainer, run)


def _write_sheet(trainer: Trainer, run: Path) -> None:
    trainer.write_sheet(run / f"samples-{int(trainer.step):06d}.png")


def _print_progress(trainer: Trainer, losses: dict[str, tf.Tensor], speed: float, budget_s: float) -> None:
    left_min = (budget_s - float(trainer.elapsed_s)) / 60
    values = " ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
    line = f"step {int(trainer.step):6d}  {speed:5.0f} images/s  {values}  {left_min:5.1f} min left"
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def run_command(
    make_trainer: Callable[[Any, LabelledImages, int], Trainer],
    recipe: type[Any],
    *,
    prog: str,
    description: str | None,
    minutes: float,
    run: Path,
    arguments: list[str] | None,
) -> None:
    """The command line of a recipe: `recipe` is the dataclass of its choices, each of which becomes an option."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--minutes", type=float, default=minutes, help="wall-clock budget, of all calls for this run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, default=run, help="folder of checkpoints")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the data set's four idx files")
    parser.add_argument("--float32", action="store_true", help="don't compute in bfloat16")
    for name, value in asdict(recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    if not options.float32:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        data = load_training(options.data)
    except DataMissingError as error:
        sys.exit(str(error))
    choices = {name: getattr(options, name) for name in asdict(recipe())}
    options.run.mkdir(parents=True, exist_ok=True)
    (options.run / "recipe.json").write_text(json.dumps(choices | {"seed": options.seed}, indent=1) + "\n")
    train(make_trainer(recipe(**choices), data, options.seed), options.run, options.minutes * 60)
