"""What a package for a target computer is: one uncompressed tar file, of which every byte follows from what is signed.

    targets.json      what is signed: name, hardware id, release counter, and of every other file length and SHA-256
    targets.json.sig  the signature
    …                 the other files, sorted by name

Headers are plain ustar with one fixed owner, time and mode, so a reader that trusts targets.json knows all of them before
it sees them. It compares instead of parsing, and nothing that tar files can hold beyond that (links, devices, pax records,
sparse files, repeated names) has to be recognized to be refused. docs/shipping.md tells the format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from switchkd.errors import SkdError

SCHEMA = 1
MANIFEST = "targets.json"
SIGNATURE = "targets.json.sig"
RUN = "run"  # starts the variant
QUESTION = "question.json"  # a question with the answer where the package was made
VARIANT = "variant"  # folder of the exported files
FOLDER_MODE = 0o755  # permissions of installed folders
BLOCK = 512  # bytes; tar's unit
END = bytes(2 * BLOCK)  # of the archive

MAX_FILES = 4096
MAX_NAME = 100  # bytes; ustar's name field
MAX_FILE = 8**11 - 1  # bytes, 8 GiB; ustar's size field
MAX_RELEASE = 2**31 - 1
MAX_MANIFEST = 1 << 20  # bytes
MAX_SIGNATURE = 1 << 12  # bytes

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PackageError(SkdError):
    """A package, or an installed release, that can't be trusted or understood."""


@dataclass(frozen=True)
class Entry:
    """One file of a package."""

    length: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Targets:
    """What is signed, in the terms of Uptane's targets metadata."""

    name: str  # of the variant
    hardware_id: str  # of the computer that it is made for: a profile's name
    release: int  # the release counter, which only grows
    files: dict[str, Entry]  # path in the package, with "/" → file; without the manifest and its signature

    def to_bytes(self) -> bytes:
        """The one spelling of it, which is signed."""
        value = {
            "_type": "targets",
            "schema": SCHEMA,
            "name": self.name,
            "hardware_id": self.hardware_id,
            "release_counter": self.release,
            "targets": {
                name: {"length": entry.length, "hashes": {"sha256": entry.sha256}}
                for name, entry in sorted(self.files.items())
            },
        }
        return (json.dumps(value, indent=1) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, content: bytes) -> Targets:
        """Reads and checks it.

        Raises:
            PackageError: it is newer than this reader, beyond a limit, names a file that no package may hold, or isn't
                spelled as `to_bytes` does.
        """
        try:
            value = json.loads(content)
            if isinstance(value, dict) and isinstance(value.get("schema"), int) and value["schema"] > SCHEMA:
                raise PackageError(
                    f"{MANIFEST} has schema {value['schema']}, newer than {SCHEMA}, which this skd reads: update it."
                )
            files = {
                name: Entry(entry["length"], entry["hashes"]["sha256"]) for name, entry in value["targets"].items()
            }
            targets = cls(value["name"], value["hardware_id"], value["release_counter"], files)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PackageError(f"{MANIFEST} is torn: {type(error).__name__}.") from error
        targets.check()
        if targets.to_bytes() != content:
            raise PackageError(f"{MANIFEST} holds something that a package of schema {SCHEMA} doesn't.")
        return targets

    def check(self) -> None:
        """Holds every value to its limits. Raises PackageError."""
        for what, word in (("name", self.name), ("hardware id", self.hardware_id)):
            if not (isinstance(word, str) and _WORD.fullmatch(word)):
                raise PackageError(f"The {what} {word!r:.90} can't be used: take letters, digits, dots, dashes.")
        if not _is_count(self.release, 1, MAX_RELEASE):
            raise PackageError(f"The release counter {self.release!r:.20} isn't between 1 and {MAX_RELEASE}.")
        if len(self.files) > MAX_FILES:
            raise PackageError(f"The package names {len(self.files)} files; {MAX_FILES} is the most.")
        for name, entry in self.files.items():
            _check_name(name)
            if not _is_count(entry.length, 0, MAX_FILE):
                raise PackageError(f"{name} has a length beyond 0 to {MAX_FILE} bytes.")
            if not (isinstance(entry.sha256, str) and _SHA256.fullmatch(entry.sha256)):
                raise PackageError(f"{name} has no SHA-256.")
        self._check_tree()

    def require(self, *, hardware_id: str | None, installed: int | None) -> None:
        """Holds the package to a computer's name and to the highest release that it has had, where these are given.

        Raises:
            PackageError: it is for another computer, or older.
        """
        if hardware_id is not None and hardware_id != self.hardware_id:
            raise PackageError(f"The package is for {self.hardware_id}, not for {hardware_id}.")
        if installed is not None and self.release < installed:
            raise PackageError(
                f"The package is release {self.release}, older than release {installed}, which was installed: refused."
            )

    @property
    def folders(self) -> set[str]:
        """Every folder that a file lies in, without the top one."""
        parents = (PurePosixPath(name).parents for name in self.files)
        return {str(folder) for folders in parents for folder in folders} - {"."}

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.length for entry in self.files.values())

    def archive_bytes(self, manifest: bytes, signature: bytes) -> int:
        """Size of the package."""
        lengths = [len(manifest), len(signature), *(entry.length for entry in self.files.values())]
        return sum(BLOCK + length + padding(length) for length in lengths) + len(END)

    def _check_tree(self) -> None:
        """No file is another one's folder, and none differs by upper and lower case alone."""
        names = [*self.files, *self.folders, MANIFEST, SIGNATURE]
        if len({name.lower() for name in names}) != len(names):
            raise PackageError("Two names of the package would be the same file.")


def header(name: str, length: int) -> bytes:
    """The 512 bytes before a file: a ustar header (POSIX.1-1988), owner and group 0, 1970, mode 644, or 755 for `run`."""
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"%07o\0" % mode(name),
        b"%07o\0" % 0,  # user
        b"%07o\0" % 0,  # group
        b"%011o\0" % length,
        b"%011o\0" % 0,  # time
        b" " * 8,  # where the checksum comes
        b"0",  # an ordinary file
        bytes(100),  # link
        b"ustar\00000",
        bytes(64),  # names of user and group
        b"%07o\0" % 0,  # device
        b"%07o\0" % 0,
        bytes(167),  # prefix, padding
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def mode(name: str) -> int:
    """A file's permissions."""
    return 0o755 if name == RUN else 0o644


def padding(length: int) -> int:
    """Zero bytes that follow a file of `length` bytes."""
    return -length % BLOCK


def declared_length(block: bytes, name: str, most: int) -> int:
    """The length in a header that has to be `name`'s, before anything of it is trusted.

    Raises:
        PackageError: it is another file's header, or the length is beyond `most`.
    """
    digits = block[124:135]
    if not re.fullmatch(rb"[0-7]{11}", digits) or block != header(name, int(digits, 8)):
        raise PackageError(f"It isn't a package that `skd ship` made: no {name} where one has to be{_hint(block)}.")
    length = int(digits, 8)
    if length > most:
        raise PackageError(f"{name} takes {length} bytes; {most} is the most.")
    return length


def _hint(block: bytes) -> str:
    magic = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
    found = next((kind for start, kind in magic.items() if block.startswith(start)), None)
    return f"; it is compressed by {found}, and packages aren't" if found else ""


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise PackageError(f"The name {name!r:.120} can't be used: a path inside, of at most {MAX_NAME} plain letters.")


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
