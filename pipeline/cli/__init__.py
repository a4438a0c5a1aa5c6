"""The command `noisemill`: parses options, calls other packages, prints results.

Each command's module is loaded when the command is called, so that `--help` imports neither numpy nor redis.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from pipeline.common.errors import NoisemillError
from pipeline.common.processes import open_missing_streams
from pipeline.common.version import VERSION

EXIT_INTERRUPTED = 130

#: A longer line of an error is shortened to this many characters of its start and its end.
_LONGEST_LINE, _CUT = 600, 290

#: Section of `--help` -> its commands -> the module of each, and its line in `--help`.
_SECTIONS = {
    "Make datasets": {
        "generate": ("making", "Make a dataset on this machine."),
        "submit": ("making", "Queue a job in Redis; prints its id."),
        "resume": ("making", "Make what is missing of a job or destination."),
        "extend": ("making", "Add samples to a dataset."),
        "schedule": ("schedule", "Submit a job regularly."),
        "recipe": ("recipes", "Write a recipe, from which a dataset can be made."),
        "reproduce": ("recipes", "Make the dataset of a recipe and compare it."),
    },
    "Follow jobs": {
        "jobs": ("jobs", "List jobs."),
        "status": ("jobs", "Show one job."),
        "watch": ("jobs", "Follow jobs until they end."),
        "cancel": ("jobs", "Cancel a job; finished shards stay."),
        "top": ("top", "Watch jobs and workers, live."),
        "ui": ("ui", "Show jobs, workers and datasets on a web page."),
    },
    "Use datasets": {
        "verify": ("datasets", "Check every byte of a dataset; recompute samples."),
        "preview": ("datasets", "Draw a dataset's contact sheet."),
        "report": ("report", "Write one HTML page about a dataset."),
        "card": ("report", "Write a dataset's card and metadata again."),
        "export": ("exports", "Convert a dataset to another format."),
        "evaluate": ("evaluate", "Compare samples with real images."),
        "latents": ("datasets", "Show the latent and label of a sample."),
        "rm": ("removal", "Remove a dataset or a job, after a question."),
    },
    "Try generators": {
        "generators": ("generators", "List generators, or inspect one."),
        "sample": ("samples", "Make one sample."),
        "interpolate": ("samples", "Draw the steps between two samples."),
    },
    "Run workers": {
        "worker": ("workers", "Run a worker for one generator on one device."),
        "up": ("workers", "Run a worker per GPU, restarted if they die."),
        "workers": ("workers", "List the workers that are up."),
        "scheduler": ("workers", "Carry out the schedules."),
    },
    "Set up": {
        "doctor": ("doctor", "Check Redis, storage, devices and generators."),
        "completion": ("completion", "Complete commands in bash, zsh or fish."),
    },
}
_COMMANDS = {name: command for commands in _SECTIONS.values() for name, command in commands.items()}


class _LazyGroup(click.Group):
    """Loads a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"pipeline.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, _COMMANDS))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), line) for name, (_, line) in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.command(
    "noisemill",
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try: noisemill generate fashion out --count 10k",
)
@click.version_option(VERSION, prog_name="noisemill")
def noisemill() -> None:
    """Make datasets of any size from trained generators."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and exits: 0 done, 1 the job or check failed, 2 wrong usage, 130 interrupted."""
    open_missing_streams()
    code = _run(arguments)
    # Otherwise Python would search all that it has imported for garbage before it ends, for 0.1 s.
    gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result: Any = noisemill.main(args=arguments, prog_name="noisemill", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "noisemill"
        _say(f"{error.format_message()}\nTry '{command} --help'.")
        return error.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        return error.exit_code
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except NoisemillError as error:
        _say(str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("noisemill: interrupted", err=True)
        return EXIT_INTERRUPTED


def _say(message: str) -> None:
    """Prints an error in lines of limited length. A list that click has wrapped becomes one line."""
    lines = message.replace("\n\t", " ").splitlines()
    whole = [line if len(line) <= _LONGEST_LINE else f"{line[:_CUT]} ... {line[-_CUT:]}" for line in lines]
    # A file name need not be valid text: invalid bytes are shown as numbers.
    click.echo(("noisemill: " + "\n".join(whole)).encode(errors="backslashreplace"), err=True)
