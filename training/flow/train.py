"""Train the built-in generator `fashion-flow`: `python -m training.flow.train --minutes 92 --seed 1 --run RUN`.

The learning rate follows the share of the minutes that is over, so a run takes the given time, however fast the
machine is. Ctrl-C ends it early; the same command again goes on from the latest checkpoint.
"""

from pathlib import Path

from training.flow.trainer import Recipe, Trainer
from training.loop import run_command


def main(arguments: list[str] | None = None) -> None:
    run_command(
        Trainer,
        Recipe,
        prog="python -m training.flow.train",
        description=__doc__,
        minutes=92,
        run=Path("training/runs/fashion-flow"),
        arguments=arguments,
    )


if __name__ == "__main__":
    main()
