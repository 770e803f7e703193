"""Small signed packages, and real ones made from an export, for tests of shipping."""

import random
import subprocess
import sys
import time
from pathlib import Path

from switchkd.export.package_writer import Content, write_package
from switchkd.export.signing import load_signer, make_key
from switchkd.runtime.package import RUN, Targets
from switchkd.runtime.signature import load_public_key


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
    targets = Targets("tiny", hardware_id, release, {name: entry.target for name, entry in entries.items()})
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


# The command line, up to the moment when everything is loaded.
_INSTALL = """
import sys
from switchkd.cli.main import main
from switchkd.runtime import install, package_reader, signature
import securesystemslib.dsse, securesystemslib.signer
print("ready", flush=True)
main(["install", *sys.argv[1:]])
"""


def _start_install(package: Path, device: Path, key: Path) -> subprocess.Popen:
    words = [sys.executable, "-c", _INSTALL, package, device, "--key", key]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def seconds_of_install(package: Path, device: Path, key: Path) -> float:
    """How long `skd install` takes once it is loaded."""
    with _start_install(package, device, key) as process:
        start = time.perf_counter()
        assert process.wait() == 0
    return time.perf_counter() - start


def kill_install(package: Path, device: Path, key: Path, seconds: float) -> None:
    """Starts `skd install` and kills it after so long, if it still runs."""
    with _start_install(package, device, key) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
