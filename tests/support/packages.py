"""Small signed packages, and real ones made from an export, for tests of shipping."""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from switchkd.export.shipping.signing import load_signer, make_key
from switchkd.export.shipping.writer import Content, write_package
from switchkd.runtime.packages.format import RUN, PackageError, Targets
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.reader import verify_package
from switchkd.runtime.packages.signature import load_public_key


def key_pair(folder: Path, name: str = "key"):
    """(signer, public key); the files are folder/name and folder/name.pub."""
    make_key(folder / name, None)
    return load_signer(folder / name, lambda: ""), load_public_key(folder / f"{name}.pub")


def files(seed: int = 0, **sizes: int) -> dict[str, bytes]:
    """Names in the layout of a variant, "__" for a slash, with random contents."""
    rng = random.Random(seed)
    sizes = sizes or {
        "target.json": 300,
        "variant__manifest.json": 700,
        "variant__onnx__a.onnx": 5000,
        "variant__b": 512,
    }
    return {RUN: b"#!/bin/sh\necho hello\n", **{name.replace("__", "/"): rng.randbytes(n) for name, n in sizes.items()}}


def write(out: Path, signer, contents: dict[str, bytes], *, release: int = 1, hardware_id: str = "board") -> Path:
    """A package of these files."""
    entries = {name: Content.of_bytes(content) for name, content in contents.items()}
    targets = Targets("tiny", hardware_id, release, {name: content.entry for name, content in entries.items()})
    write_package(out, targets, entries, signer)
    return out


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: contents of files, targets of links, None for folders; without the lock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif name != ".lock":
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def refused(content: bytes, key, folder: Path) -> str:
    """The one-line reason why `verify` refuses these bytes; `install` refuses them too and leaves no release."""
    folder.mkdir(exist_ok=True)
    path = folder / "broken.tar"
    path.write_bytes(content)
    with pytest.raises(PackageError) as error:
        verify_package(path, [key])
    reason = str(error.value)
    assert "\n" not in reason and len(reason) < 600 and reason.isprintable(), reason
    device = folder / "device"
    with pytest.raises(PackageError):
        Installation(device).install(path, [key])
    assert set(tree(device)) <= {"releases"} and {each.name for each in folder.iterdir()} <= {
        "broken.tar",
        "device",
    }
    return reason


# Has loaded everything; for each line it forks a process that is `skd install` from here on.
_INSTALLER = """
import os, sys
from switchkd.cli.main import main
from switchkd.runtime.packages import install
from switchkd.runtime.packages import reader as package_reader
from switchkd.runtime.packages import signature
import securesystemslib.dsse, securesystemslib.signer

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main(["install", *line.rstrip("\\n").split("\\t")])
    print(child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print("ended", flush=True)
    sys.stdin.readline()  # until then the number stays the child's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Installer:
    """Starts processes of `skd install` and kills them, without the half second that an interpreter takes to start."""

    def __init__(self, package: Path, key: Path) -> None:
        self._package, self._key = package, key
        self._process = subprocess.Popen(
            [sys.executable, "-c", _INSTALLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def __enter__(self) -> "Installer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() == 0

    def install(self, device: Path, killed_after: float | None = None) -> int:
        """The exit status: 0, or −9 where it was killed after so many seconds."""
        self._tell("\t".join(map(str, (self._package, device, "--key", self._key, "--no-check"))))
        child = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], killed_after)[0]:
            os.kill(child, signal.SIGKILL)
        assert self._process.stdout.readline() == b"ended\n"
        self._tell("reap")
        return int(self._process.stdout.readline())

    def seconds(self, device: Path, copies: Path) -> float:
        """How long an install takes: the shortest of five, each in a copy of `device`."""
        times = []
        for number in range(5):
            copy = shutil.copytree(device, copies / str(number), symlinks=True)
            start = time.perf_counter()
            assert self.install(copy) == 0
            times.append(time.perf_counter() - start)
        return min(times)

    def _tell(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n".encode())


def links(device: Installation) -> tuple[int | None, int | None, set[str]]:
    """(current, previous, what lies in releases/)"""
    return device.current, device.previous, {path.name for path in (device.folder / "releases").iterdir()}
