"""`skd verify`: whether a package, or an installed release, is what was signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def trust_options(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--key`, `--target`: what a package is held to."""
    key = click.option(
        "--key",
        "keys",
        required=required,
        multiple=True,
        type=click.Path(path_type=Path),
        help="Public key; where it is given several times, one of them has to have signed.",
    )
    target = click.option("--target", help="What this computer is called; the package has to be for it.")
    return lambda command: key(target(command))


@click.command("verify", short_help="Check a package or an installed release.")
@click.argument("package", type=click.Path(path_type=Path))
@trust_options(required=True)
@click.option(
    "--installed",
    type=click.Path(path_type=Path),
    help="Folder of `skd install`: refuse a package older than what was installed there.",
)
def verify_command(package: Path, keys: tuple[Path, ...], target: str | None, installed: Path | None) -> None:
    """Check PACKAGE, or the folder of an installed release: signature, every hash, no file more or less.

    Ends with status 0 where all is right, else with 1 and the reason in one line. Of an installed release it is noted for
    `skd status`, in FOLDER/.checks.json; nothing else is written.
    """
    from switchkd.runtime.packages.checks import note_check
    from switchkd.runtime.packages.format import PackageError
    from switchkd.runtime.packages.install import installed_release
    from switchkd.runtime.packages.reader import verify_folder, verify_package
    from switchkd.runtime.packages.signature import load_public_key

    trusted = [load_public_key(key) for key in keys]
    floor = None if installed is None else installed_release(installed)
    verify = verify_folder if package.is_dir() else verify_package
    try:
        head = verify(package, trusted)
        head.targets.require(hardware_id=target, installed=floor)
    except PackageError as error:
        note_check(package, str(error))
        raise
    noted = note_check(package, None)
    targets = head.targets
    click.echo(
        f"{package}: right. {targets.name} for {targets.hardware_id}, release {targets.release}, "
        f"{len(targets.files)} files, {targets.total_bytes / 1e6:.1f} MB, signed with {head.key_id[:16]}…."
    )
    if not noted:
        click.echo("This check isn't noted for `skd status`: the folder can't be written.", err=True)
