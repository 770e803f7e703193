"""Public keys, and signatures made with their other halves: DSSE (Dead Simple Signing Envelope) by securesystemslib.

The signature lies beside what is signed: an envelope without its payload. Its pre-authentication encoding ties a payload
type to the bytes, so no signature over something else, made by the same key, can pass as a package's.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.errors import SkdError
from switchkd.runtime.packages.format import MANIFEST, SIGNATURE, PackageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

PAYLOAD_TYPE = "application/vnd.switchkd.targets+json"
MAX_KEY = 1 << 14  # bytes of a key file
_KEY_ID = re.compile(r"[0-9a-f]{64}")


def load_public_key(path: Path) -> SSlibKey:
    """A public key from a PEM file: Ed25519, or ECDSA on P-256, P-384 or P-521.

    Raises:
        SkdError: there is no such file, or it holds none of these.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = read_key_file(path)
    if b"PRIVATE KEY" in content:
        raise SkdError(f"{path} is a private key, which no device should hold; give its public half, {path.name}.pub.")
    try:
        return key_of(load_pem_public_key(content), path)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SkdError(f"{path} holds no public key in PEM form.") from error


def key_of(public: PublicKeyTypes, path: Path) -> SSlibKey:
    """securesystemslib's form of a key. Raises SkdError for kinds that aren't used here."""
    from securesystemslib.signer import SSlibKey

    try:
        key = SSlibKey.from_crypto(public)
    except ValueError:
        key = None
    if key is None or key.keytype not in ("ed25519", "ecdsa"):
        raise SkdError(f"{path} isn't an Ed25519 or ECDSA key (P-256, P-384, P-521); `skd key` makes one.")
    return key


def read_key_file(path: Path) -> bytes:
    """A key file's bytes. Raises SkdError where it can't be read or is far too long for one."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_KEY + 1)
    except OSError as error:
        raise SkdError(f"The key {path} can't be read: {error.strerror or error}.") from error
    if len(content) > MAX_KEY:
        raise SkdError(f"{path} is too long for a key.")
    return content


def detached(envelope: Envelope) -> bytes:
    """An envelope's signature without its payload; the one spelling of it."""
    value = envelope.to_dict()
    del value["payload"]
    return (json.dumps(value, indent=1) + "\n").encode("ascii")


def verify_signature(manifest: bytes, signature: bytes, keys: Sequence[SSlibKey]) -> str:
    """Checks that `manifest` was signed with one of the keys.

    Returns:
        That key's id.

    Raises:
        PackageError: it wasn't, or the signature isn't one.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        value = json.loads(signature)
        value["payload"] = b64encode(manifest).decode("ascii")
        envelope = Envelope.from_dict(value)
        (each,) = envelope.signatures.values()
        known = envelope.payload_type == PAYLOAD_TYPE and not each.unrecognized_fields
        if not (known and _KEY_ID.fullmatch(each.keyid) and detached(envelope) == signature):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Error) as error:
        raise PackageError(f"{SIGNATURE} is no signature of a package.") from error
    if each.keyid not in {key.keyid for key in keys}:
        raise PackageError(f"{MANIFEST} is signed with another key, {each.keyid[:16]}….")
    try:
        return next(iter(envelope.verify(list(keys), 1)))
    except Error as error:
        raise PackageError(f"{MANIFEST} isn't what was signed: the signature doesn't fit it.") from error
