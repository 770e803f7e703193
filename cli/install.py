"""`skd install`: a package into a folder of releases, and back; and a service that serves the one in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from switchkd.cli.options import POSITIVE
from switchkd.cli.verify import trust_options

if TYPE_CHECKING:
    from switchkd.runtime.packages.install import Installed


@click.command("install", short_help="Check a package and switch to its release.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[PACKAGE] FOLDER")
@trust_options(required=False)
@click.option("--rollback", is_flag=True, help="Go back to the release before, repeated further; give FOLDER alone.")
@click.option("--to", type=int, metavar="N", help="With --rollback: go back to release N, one of those kept.")
@click.option(
    "--keep",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Releases that stay, the new one and those that --rollback leads to.",
)
@click.option(
    "--hook", metavar="COMMAND", help="Run after the switch, by the shell; where it fails, the switch is undone."
)
@click.option("--no-check", is_flag=True, help="Don't ask the new release its known question before the switch.")
@click.option(
    "--check-seconds", type=POSITIVE, default=300, show_default=True, help="Time to answer it, loading included."
)
@click.option("--service", is_flag=True, help="Write a systemd unit that serves FOLDER/current; give FOLDER alone.")
@click.option(
    "--unit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --service. Default: /etc/systemd/system/skd-FOLDER.service.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="With --service: of 127.0.0.1."
)
def install_command(
    paths: tuple[Path, ...],
    keys: tuple[Path, ...],
    target: str | None,
    rollback: bool,
    to: int | None,
    keep: int,
    hook: str | None,
    no_check: bool,
    check_seconds: float,
    service: bool,
    unit: Path | None,
    port: int,
) -> None:
    """Check PACKAGE while unpacking it to FOLDER/releases/N, ask it its known question, then switch the link FOLDER/current to
    it.

    A power cut at any moment leaves the old or the new release, whole. The release before stays for --rollback. FOLDER/current/run
    starts the variant.
    """
    alone = rollback or service
    if len(paths) != (1 if alone else 2) or (rollback and service):
        wanted = "FOLDER alone, with --rollback or --service" if alone else "PACKAGE and FOLDER"
        raise click.UsageError(f"Give {wanted}.")
    for value, option, owner, given in ((to, "--to", "--rollback", rollback), (unit, "--unit", "--service", service)):
        if value is not None and not given:
            raise click.UsageError(f"{option} belongs to {owner}.")
    folder = paths[-1]
    if service:
        _write_service(folder, unit, port)
        return
    if not keys:
        raise click.UsageError("Missing option '--key'; only --service needs none.")

    from switchkd.runtime.packages.hook import CommandHook
    from switchkd.runtime.packages.install import Installation
    from switchkd.runtime.packages.signature import load_public_key
    from switchkd.runtime.packages.trial import Trial

    trusted, installation = [load_public_key(key) for key in keys], Installation(folder)
    after = None if hook is None else CommandHook(hook, folder)
    if rollback:
        _show(folder, installation.roll_back(trusted, hardware_id=target, to=to, hook=after))
        return
    trial = None if no_check else Trial(check_seconds)
    _show(
        folder,
        installation.install(paths[0], trusted, hardware_id=target, keep=keep, check=trial, hook=after),
    )
    if trial is not None and trial.lacked:
        click.echo("It holds no known question, so it wasn't asked; `skd ship` puts one in.")


def _show(folder: Path, done: Installed) -> None:
    now, before = done.targets, done.before
    if before == now.release:
        state = "was damaged, and is whole again" if done.written else "was installed already, and is whole"
        click.echo(f"{folder}: release {now.release} of {now.name} {state}.")
        return
    what = "back from" if before is not None and before > now.release else "in use instead of"
    change = "in use" if before is None else f"{what} release {before}"
    click.echo(f"{folder}: release {now.release} of {now.name} for {now.hardware_id}, {change}.")


def _write_service(folder: Path, path: Path | None, port: int) -> None:
    from switchkd.runtime.packages.service import unit, unit_path, write_unit

    text, path = unit(folder, port=port), path or unit_path(folder)
    try:
        write_unit(text, path)
    except OSError as error:
        click.echo(text, nl=False)
        click.echo(f"{path} can't be written ({error.strerror}); put these lines there.", err=True)
        return
    click.echo(f"{path}: systemctl daemon-reload && systemctl enable --now {path.name}")
