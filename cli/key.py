"""`skd key`: a key pair to sign packages with."""

from __future__ import annotations

from pathlib import Path

import click

PASSPHRASE = "SKD_PASSPHRASE"


@click.command("key", short_help="Make a key pair for packages.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--encrypt", is_flag=True, help=f"Encrypt the private key by a passphrase, asked for or in {PASSPHRASE}.")
def key_command(file: Path, encrypt: bool) -> None:
    """Make an Ed25519 key pair: FILE, the private key, for `skd ship`; FILE.pub for the devices that check.

    Keep FILE secret: who has it can sign packages that your devices install. OpenSSL's keys serve as well.
    """
    from switchkd.export.shipping.signing import make_key

    key_id = make_key(file, ask_passphrase(confirm=True) if encrypt else None)
    click.echo(f"{file}      private{'' if encrypt else ', not encrypted'}: keep it secret")
    click.echo(f"{file}.pub  public: goes to the devices")
    click.echo(f"key id {key_id}")


def ask_passphrase(*, confirm: bool = False) -> str:
    """A passphrase out of the environment, else from the terminal."""
    import os

    given = os.environ.get(PASSPHRASE)
    return given or click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
