"""Train the built-in generator `fashion`: `python -m training.train --minutes 83 --seed 1 --run training/runs/NAME`.

The learning rates follow the share of the minutes that is over, so a run takes the given time, however fast the
machine is. Ctrl-C ends it early; the same command again goes on from the latest checkpoint.
"""

from pathlib import Path

from training.loop import run_command
from training.trainer import Recipe, Trainer


def main(arguments: list[str] | None = None) -> None:
    run_command(
        Trainer,
        Recipe,
        prog="python -m training.train",
        description=__doc__,
        minutes=83,
        run=Path("training/runs/fashion"),
        arguments=arguments,
    )


if __name__ == "__main__":
    main()
