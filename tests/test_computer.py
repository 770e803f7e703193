"""Limits of containers in a made-up /proc and /sys, and this computer's own."""

import os
import platform
import subprocess
import sys

import pytest

from switchkd.computer import free_bytes, memory_bytes, usable_processors

GB = 10**9


@pytest.fixture
def root(tmp_path):
    """A computer of 8 GB, 6 of them free."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {8 * GB // 1024} kB\nMemAvailable: {6 * GB // 1024} kB\n")
    return tmp_path


def limit(root, **files):
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name.replace("_", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("quota", "processors"), [("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1), ("torn", 64)]
)
def test_a_quota_of_processors(root, monkeypatch, quota, processors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    assert usable_processors(root) == 64
    limit(root, cpu_max=quota)
    assert usable_processors(root) == processors


def test_memory_of_the_computer_and_of_a_container(root):
    assert (memory_bytes(root), free_bytes(root)) == (pytest.approx(8 * GB, abs=1024), pytest.approx(6 * GB, abs=1024))
    limit(root, memory_max="max", memory_current=GB)
    assert free_bytes(root) == pytest.approx(6 * GB, abs=1024)
    limit(root, memory_max=4 * GB, memory_current=3 * GB)
    assert (memory_bytes(root), free_bytes(root)) == (4 * GB, GB)
    limit(root, memory_stat=f"anon {GB}\ninactive_file {GB}")  # can be had by whoever needs it
    assert free_bytes(root) == 2 * GB
    limit(root, memory_max=20 * GB)
    assert (memory_bytes(root), free_bytes(root)) == (pytest.approx(8 * GB, abs=1024), pytest.approx(6 * GB, abs=1024))


def test_a_system_that_tells_nothing(tmp_path):
    assert memory_bytes(tmp_path) is free_bytes(tmp_path) is None


def test_this_computer():
    assert 1 <= usable_processors() <= os.cpu_count() and 0 < free_bytes() < memory_bytes()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone can be told")
def test_freed_memory_goes_back():
    """In a process of its own, whose allocator nothing has told otherwise."""
    program = """
import os
from pathlib import Path
from switchkd.computer import return_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks = [bytearray(100_000) for _ in range(1000)]
last = blocks[-1]  # holds the end of the heap, so that nothing goes back by itself
full = resident()
del blocks
freed = resident()
return_freed_memory()
print(full - freed, freed - resident())
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    by_itself, told = map(int, output.split())
    assert by_itself < 20e6 and told > 80e6
