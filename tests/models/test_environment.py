"""Memory that stays with the process: what is freed and asked for again is not cleared anew by the system."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import torch
from switchkd.models.environment import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    torch.full((16_000_000,), 1.0)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "usual")
    }
    pages_of_one = 64_000_000 // 4096
    assert faults["usual"] - faults["keep"] > 10 * pages_of_one
