"""Commands that ship a variant, and looks into the packages that they make."""

import json
import tarfile
from pathlib import Path

from click.testing import CliRunner

from switchkd.cli.main import main

NAME = "student-onnx-fp32"


def skd(*arguments: object, status: int = 0) -> str:
    """What the command prints; with a status, the one line of its error."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    if status == 1:
        assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    return result.output


def ship(*options: object, release: int = 1, status: int = 0) -> Path:
    """The package that `skd ship` makes of the export for the smallest Jetson."""
    shown = skd(
        "ship", NAME, "--target", "jetson-orin-nano", "--key", "key", "--release", release, *options, status=status
    )
    return Path(shown.splitlines()[0])


def read(package: Path, name: str) -> dict:
    with tarfile.open(package) as archive:
        return json.load(archive.extractfile(name))


def names(package: Path) -> list[str]:
    with tarfile.open(package) as archive:
        return archive.getnames()
