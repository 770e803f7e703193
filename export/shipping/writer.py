"""Writing a package: headers, contents and end as `switchkd.runtime.packages.format` has them, signed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.errors import SkdError
from switchkd.export.shipping.signing import sign
from switchkd.runtime.packages.format import END, MANIFEST, SIGNATURE, Entry, PackageError, Targets, header, padding
from switchkd.runtime.packages.reader import verify_package

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file on its way into a package."""

    source: bytes | Path
    entry: Entry  # what it has to be

    @classmethod
    def of_bytes(cls, content: bytes) -> Content:
        """A file that exists only here."""
        return cls(content, Entry(len(content), hashlib.sha256(content).hexdigest()))

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in pieces."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        with self.source.open("rb") as stream:
            while block := stream.read(_CHUNK):
                yield block


def write_package(
    out: Path, targets: Targets, contents: Mapping[str, Content], signer: CryptoSigner, *, replace: bool = True
) -> None:
    """Writes a package beside its place, reads it as a device would, and moves it there.

    Args:
        targets: what is signed, of just these contents.
        replace: false: a package that somebody else has made there meanwhile is left.

    Raises:
        SkdError: the package can't be written, breaks a limit, or a file changed meanwhile. Nothing is left then.
    """
    targets.check()
    manifest = targets.to_bytes()
    signed = {MANIFEST: manifest, SIGNATURE: sign(manifest, signer)}
    everything = {name: Content.of_bytes(content) for name, content in signed.items()} | dict(sorted(contents.items()))
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        partial = Path(temporary)
        with os.fdopen(descriptor, "wb") as stream:
            for name, content in everything.items():
                stream.write(header(name, content.entry.length))
                for block in content.blocks():
                    stream.write(block)
                stream.write(bytes(padding(content.entry.length)))
            stream.write(END)
            stream.flush()
            os.fsync(stream.fileno())
        verify_package(partial, [signer.public_key])
        partial.chmod(0o644)
        if replace:
            partial.replace(out)
        else:
            _move_to_nothing(partial, out)
    except OSError as error:
        raise SkdError(f"{out} can't be written: {error.strerror or error}.") from error
    except PackageError as error:
        raise SkdError(f"{out} came out wrong; did a file change meanwhile? {error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _move_to_nothing(partial: Path, out: Path) -> None:
    """Gives a file a name that nothing has. Raises SkdError where something has it."""
    try:
        out.hardlink_to(partial)
    except FileExistsError as error:
        raise SkdError(f"{out} was made by somebody else meanwhile; it is left as it is.") from error
    except OSError:  # a file system without hard links
        partial.replace(out)
