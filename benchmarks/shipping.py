"""How long writing, verifying and installing a package of a given size take, and how much memory.

python benchmarks/shipping.py --megabytes 1000
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from switchkd.export.shipping.signing import load_signer, make_key
from switchkd.export.shipping.writer import Content, write_package
from switchkd.files import file_sha256
from switchkd.runtime.packages.format import Entry, Targets

_FILES = 4


def main() -> None:
    """Prints a line for each step: seconds, processor seconds, peak memory of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        _measure(Path(name), options.megabytes)


def _measure(folder: Path, megabytes: int) -> None:
    make_key(folder / "key", None)
    signer = load_signer(folder / "key", lambda: "")
    contents = {}
    for number in range(_FILES):  # on disk, because a process's peak counts what its parent held
        path, rng = folder / f"{number}.bin", random.Random(number)
        with path.open("wb") as stream:
            for _ in range(megabytes // _FILES):
                stream.write(rng.randbytes(1_000_000))
        contents[f"variant/{path.name}"] = Content(path, Entry(path.stat().st_size, file_sha256(path)))
    targets = Targets("bench", "board", 1, {name: each.entry for name, each in contents.items()})
    start = time.perf_counter()
    write_package(folder / "package.tar", targets, contents, signer)
    print(f"write and check     {time.perf_counter() - start:6.2f} s")
    for arguments in (["verify", "package.tar"], ["install", "package.tar", "device"], ["verify", "device/current"]):
        command = [sys.executable, "-m", "switchkd.cli", *arguments, "--key", "key.pub"]
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, arguments
        seconds = time.perf_counter() - start
        title = f"{arguments[0]} {Path(arguments[-1]).name}"
        processor, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1000
        print(f"{title:<20}{seconds:6.2f} s, processor {processor:.2f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
