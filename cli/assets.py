"""`skd assets`: small stand-ins for public checkpoints, made from a recipe and a seed."""

from __future__ import annotations

from pathlib import Path

import click

from switchkd.cli.options import open_run


@click.command("assets", short_help="Make the built-in task's parts anew.", hidden=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("switchkd/assets"), show_default=True, help="Where."
)
@click.option("--run", "run_name", default="assets", show_default=True, help="Run folder that they are made in.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe.")
def assets_command(out: Path, run_name: str, overrides: tuple[str, ...]) -> None:
    """Make a tower, two language models and a teacher for the built-in task, by the recipe `assets`.

    Takes hours on two cores, can be interrupted and started again; each gets a card with its accuracy. Recipes refer to
    those under switchkd/assets as asset:NAME.
    """
    from switchkd.analysis.assets import make_assets

    run = open_run("assets", overrides, run_name, None, True)
    make_assets(run, out)
    run.succeeded()
