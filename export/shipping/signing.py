"""Private keys, on the building side: making them, reading them, signing with them. PEM files, as OpenSSL's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.errors import SkdError
from switchkd.runtime.packages.signature import PAYLOAD_TYPE, detached, key_of, read_key_file

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def make_key(path: Path, passphrase: str | None) -> str:
    """Writes a new Ed25519 key: the private half to `path`, readable by its owner alone, the public one to `path`.pub.

    Args:
        passphrase: encrypts the private half (PKCS #8); None leaves it plain.

    Returns:
        The key's id.

    Raises:
        SkdError: one of the files exists, or can't be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    public = path.with_name(f"{path.name}.pub")
    _write_new(public, private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    try:
        _write_new(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
    except SkdError:
        public.unlink()
        raise
    return str(key_of(private.public_key(), path).keyid)


def load_signer(path: Path, ask_passphrase: Callable[[], str]) -> CryptoSigner:
    """A private key to sign with: Ed25519, or ECDSA on P-256, P-384 or P-521.

    Args:
        ask_passphrase: called where the file is encrypted.

    Raises:
        SkdError: there is no such file, it holds none of these, or the passphrase is another.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    content = read_key_file(path)
    encrypted = b"ENCRYPTED" in content
    try:
        private = load_pem_private_key(content, ask_passphrase().encode() if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = (
            "isn't opened by this passphrase" if encrypted else "holds no private key in PEM form; `skd key` makes one"
        )
        raise SkdError(f"{path} {why}.") from error
    return CryptoSigner(private, key_of(private.public_key(), path))  # type: ignore[arg-type]


def sign(manifest: bytes, signer: CryptoSigner) -> bytes:
    """The signature file of a package's manifest. Ed25519 gives the same bytes every time, ECDSA doesn't."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(manifest, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return detached(envelope)


def _write_new(path: Path, content: bytes, permissions: int) -> None:
    """A file that wasn't there, whole and on the disk, or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file has the folder's name, or there is no permission
        raise SkdError(f"{path.parent} can't be made into a folder: {error.strerror or error}.") from error
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)
    except FileExistsError as error:
        raise SkdError(f"{path} is already there; a key is never replaced: choose another name.") from error
    except OSError as error:
        raise SkdError(f"{path} can't be written: {error.strerror or error}.") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SkdError(f"{path} can't be written: {error.strerror or error}.") from error
