"""`optimum-cli export skd`, optimum's own command line."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

OPTIMUM_CLI = Path(sys.executable).with_name("optimum-cli")


def ask(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([OPTIMUM_CLI, "export", *map(str, words)], capture_output=True, text=True)


def test_it_is_among_the_exporters():
    assert "skd" in ask("--help").stdout
    told = ask("skd", "--help").stdout
    assert all(option in told for option in ("--model", "--format", "--quant", "--calibrate", "--force", "q4_k_m"))


@pytest.mark.long
def test_the_same_bytes_as_skd_export(shelf, tmp_path):
    usual = shelf.export("gguf", "q8")
    result = ask(
        "skd", "--model", shelf.checkpoint(), "--format", "gguf", "--quant", "q8", "--threads", 1, tmp_path / "out"
    )
    assert result.returncode == 0, result.stderr
    weights = {path.name: sha256(path.read_bytes()).hexdigest() for path in usual.glob("*.gguf")}
    assert len(weights) == 2
    assert weights == {path.name: sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").glob("*.gguf")}


def test_errors_are_one_line(tmp_path):
    result = ask("skd", "--model", tmp_path / "nowhere", "--format", "gguf", tmp_path / "out")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ") and "nowhere" in result.stderr
    assert not (tmp_path / "out").exists()
