"""Real mounts for a test: Python code in a process that has a mount table of its own, where this computer allows that."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest


@functools.cache
def _allowed() -> bool:
    try:
        return (
            subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode
            == 0
        )
    except FileNotFoundError:
        return False


def with_mounts(
    commands: list[list[str]], code: str, *arguments: object, check: bool = True
) -> subprocess.CompletedProcess:
    """Runs `mount` with each list of arguments, then Python code in that process; skips the test where that isn't allowed."""
    if not _allowed():
        pytest.skip("mounting isn't allowed here")
    steps = "".join("mount " + " ".join(f'"{word}"' for word in words) + "\n" for words in commands)
    script = f'set -e\n{steps}exec "$@"\n'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or process.returncode == 0, process.stderr
    return process


def small_disk(place: Path, size: str) -> list[str]:
    """A file system of its own that holds so much ("2m")."""
    place.mkdir(exist_ok=True)
    return ["-t", "tmpfs", "-o", f"size={size}", "none", str(place)]


def layers(lower: Path) -> tuple[list[str], Path]:
    """(mount's arguments, the folder): an overlay whose lower layer holds what is in `lower`, as a container's image does."""
    upper, work, merged = (lower.with_name(f"{lower.name}-{name}") for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    return ["-t", "overlay", "-o", options, "overlay", str(merged)], merged
