"""`skd ship`: a variant as a signed package for a target computer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from switchkd.cli.options import RUN, find_named

if TYPE_CHECKING:
    from switchkd.export.shipping.ship import Shipped


@click.command("ship", short_help="Pack and sign an export.")
@click.argument("variant")
@click.option("--target", required=True, help="Computer it is for: a name of `skd hardware list`, or a TOML file.")
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="Private key to sign with; `skd key` makes one."
)
@click.option(
    "--release",
    type=click.IntRange(1, 2**31 - 1),
    default=1,
    show_default=True,
    help="Release counter: a device refuses a lower one than it has had.",
)
@click.option(
    "--bench", type=click.Path(path_type=Path), help="bench.json to put in. Default: the run's, if it is of VARIANT."
)
@click.option(
    "--license",
    "licenses",
    multiple=True,
    metavar="[COMPONENT=]SPDX",
    help="Licence of the model, or of a component of the bill of materials, e.g. data:finetune=CC-BY-4.0.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Package. Default: packages/VARIANT-TARGET-RELEASE.tar of the run."
)
@click.option(
    "--no-question", is_flag=True, help="Don't ask VARIANT, and pack no answer for devices to compare theirs with."
)
@click.option("--force", is_flag=True, help="Replace an existing package.")
@RUN
def ship_command(
    variant: str,
    target: str,
    key: Path,
    release: int,
    bench: Path | None,
    licenses: tuple[str, ...],
    out: Path | None,
    no_question: bool,
    force: bool,
    run_name: str | None,
) -> None:
    """Pack VARIANT, an export folder or the name of one of a run's exports (also as RUN/NAME), and sign it.

    The package holds the variant, its target's profile, the predicted fit, measurements where there are some, a bill of
    materials, a question with its answer, which a device asks it again, and a script that runs it. The passphrase of an encrypted
    key is asked for, or read from SKD_PASSPHRASE.
    """
    from rich.console import Console

    from switchkd.cli.key import ask_passphrase
    from switchkd.export.shipping.bill_of_materials import MODEL
    from switchkd.export.shipping.ship import ShipRequest, ship
    from switchkd.export.shipping.signing import load_signer
    from switchkd.run_page import refresh_page

    folder = find_named(variant, run_name)
    if out is None:
        place = folder.parent.parent if folder.parent.name == "exports" else Path()
        out = place / "packages" / f"{folder.resolve().name}-{Path(target).stem}-{release}.tar"
    signer = load_signer(key, ask_passphrase)
    named = {name or MODEL: identifier for name, _, identifier in (text.rpartition("=") for text in licenses)}
    request = ShipRequest(folder, target, signer, out, release, bench, named, not no_question, force)
    with Console(stderr=True).status("reading") as status:
        shipped = ship(request, progress=status.update)
    refresh_page(out)
    _show(out, shipped)


def _show(out: Path, shipped: Shipped) -> None:
    targets = shipped.targets
    click.echo(out)
    for name, value in (
        ("variant", targets.name),
        ("hardware id", targets.hardware_id),
        ("release", targets.release),
        ("fits (predicted)", shipped.fits),
        ("measurements", "bench.json" if shipped.bench else "none: there is no bench of this variant"),
        ("known question", "question.json" if shipped.question else "none: devices won't ask it"),
        ("files", len(targets.files)),
        ("length", f"{shipped.bytes} bytes"),
        ("SHA-256", shipped.sha256),
        ("signed with", shipped.key_id),
    ):
        click.echo(f"  {name:<17} {value}")
    if shipped.fits == "no":
        click.echo(
            f"By prediction it doesn't fit into the memory of {targets.hardware_id}; see fit.json in it.", err=True
        )
