"""`skd status`: what is installed in a folder, what runs, and where going back leads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from switchkd.runtime.packages.status import ReleaseStatus, Status


@click.command("status", short_help="Tell what is installed, what runs, and where going back leads.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def status_command(folder: Path, as_json: bool) -> None:
    """Tell which releases FOLDER, a folder of `skd install`, holds, which of them is in use, from which a process runs, when
    `skd verify` last checked each, and where --rollback leads.

    Nothing is checked or written: names and hashes are those that each release states.
    """
    from switchkd.runtime.packages.status import Status

    status = Status.of(folder)
    if as_json:
        click.echo(json.dumps(status.to_json(), indent=1))
    else:
        _show(status)


def _show(status: Status) -> None:
    running = ", ".join(f"release {each.release}{_processes(each)}" for each in status.releases if each.running)
    click.echo(status.folder)
    for name, value in (
        ("in use", "nothing" if status.current is None else f"release {status.current}"),
        ("running", running or "nothing"),
        ("highest ever", f"release {status.highest}; no lower one is installed after it"),
        ("rollback", ", then ".join(f"release {each}" for each in status.way_back) or "impossible: none is kept"),
    ):
        click.echo(f"  {name:<13} {value}")
    for each in status.releases:
        click.echo(f"release {each.release}")
        for name, value in _lines(each):
            click.echo(f"  {name:<13} {value}")


def _processes(release: ReleaseStatus) -> str:
    return f" (process {', '.join(map(str, release.processes))})" if release.processes else ""


def _lines(release: ReleaseStatus) -> list[tuple[str, str]]:
    if release.targets is None:
        described = [("damaged", "its targets.json can't be read; install it again")]
    else:
        described = [
            ("name", release.targets.name),
            ("target", release.targets.hardware_id),
            ("manifest", release.manifest_sha256 or "none"),
        ]
    check = release.check
    found = "never" if check is None else f"{check.time}, {check.refused or 'right'}"
    return [*described, ("last check", found)]
