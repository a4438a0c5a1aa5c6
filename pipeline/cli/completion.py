"""Shell completion, by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pipeline.cli.options import examples


@click.command("completion", epilog=examples("noisemill completion bash"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell. Write it to

    \b
      bash  ~/.local/share/bash-completion/completions/noisemill
      zsh   _noisemill, in a folder of $fpath
      fish  ~/.config/fish/completions/noisemill.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "noisemill", "_NOISEMILL_COMPLETE").source())
