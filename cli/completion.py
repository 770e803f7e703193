"""`skd completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

_SHELLS = {each.name: each for each in (BashComplete, ZshComplete, FishComplete)}


@click.command("completion", short_help="Let a shell complete commands and options.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a script that lets SHELL complete commands, options and their choices.

    \b
    eval "$(skd completion bash)"               in ~/.bashrc
    eval "$(skd completion zsh)"                in ~/.zshrc
    skd completion fish | source                in ~/.config/fish/config.fish
    """
    click.echo(_SHELLS[shell](ctx.find_root().command, {}, "skd", "_SKD_COMPLETE").source())
