"""`make check` runs where neither torch nor llama.cpp is, and hides no other failure."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_light_runs_skip_what_reaches_for_torch_and_nothing_else():
    files = ["tests/losses/test_kneedle.py", "tests/architecture/test_references.py", "tests/test_vqa.py"]
    command = [sys.executable, "-m", "pytest", "--light", "--quiet", "-p", "no:cacheprovider", "-rs", *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout
    skipped = [line for line in result.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) > 1 and all("needs torch" in line for line in skipped)
