"""`skd install`: a package into a folder of releases, and back."""

from __future__ import annotations

from pathlib import Path

import click

from switchkd.cli.verify import trust_options


@click.command("install", short_help="Check a package and switch to its release.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[PACKAGE] FOLDER")
@trust_options
@click.option("--rollback", is_flag=True, help="Go back to the release before; give FOLDER alone.")
def install_command(paths: tuple[Path, ...], keys: tuple[Path, ...], target: str | None, rollback: bool) -> None:
    """Check PACKAGE while unpacking it to FOLDER/releases/N, then switch the link FOLDER/current to it.

    A power cut at any moment leaves the old or the new release, whole. The release before stays for --rollback. FOLDER/current/run
    starts the variant.
    """
    from switchkd.runtime.packages.install import Installation
    from switchkd.runtime.packages.signature import load_public_key

    if len(paths) != (1 if rollback else 2):
        wanted = "FOLDER alone" if rollback else "PACKAGE and FOLDER"
        raise click.UsageError(f"Give {wanted}.")
    trusted = [load_public_key(key) for key in keys]
    installation = Installation(paths[-1])
    if rollback:
        done = installation.roll_back(trusted, hardware_id=target)
    else:
        done = installation.install(paths[0], trusted, hardware_id=target)
    now, before = done.targets, done.before
    if before == now.release:
        state = "was damaged, and is whole again" if done.written else "was installed already, and is whole"
        click.echo(f"{paths[-1]}: release {now.release} of {now.name} {state}.")
        return
    what = "back from" if rollback else "in use instead of"
    change = "in use" if before is None else f"{what} release {before}"
    click.echo(f"{paths[-1]}: release {now.release} of {now.name} for {now.hardware_id}, {change}.")
