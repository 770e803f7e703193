"""Limits of containers in a made-up /proc and /sys, and this computer's own."""

import os
import platform
import subprocess
import sys

import pytest

from switchkd.computer import free_bytes, memory_bytes, times_stopped, usable_processors

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


def tree(root, cgroup, mounts, **files):
    """A computer whose /proc tells of control groups; `files` by their path, "__" for a slash."""
    (root / "proc/self").mkdir(exist_ok=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mounts)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
UNLIMITED = 9223372036854771712


@pytest.mark.parametrize("own", ["/a.slice/b.service", "/a.slice/b.service/worker", "/a.slice"])
def test_the_groups_above_limit_too(root, monkeypatch, own):
    """Version 2, as systemd's services and pods are nested: the limits stand above the process's own group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    for name, content in {
        "cpu.max": "300000 100000",
        "cpu.stat": "usage_usec 5\nnr_throttled 4",
        "memory.max": 4 * GB,
        "memory.current": GB,
    }.items():
        tree(root, f"0::{own}\n", V2, **{f"a.slice__{name}": content})
    assert (usable_processors(root), memory_bytes(root), free_bytes(root)) == (3, 4 * GB, 3 * GB)
    assert times_stopped(root) == 4
    below = {"cpu.max": "max 100000", "memory.max": 2 * GB, "memory.current": GB, "cpu.stat": "nr_throttled 1"}
    tree(root, f"0::{own}\n", V2, **{f"a.slice__b.service__{name}": content for name, content in below.items()})
    inside = "b.service" in own
    assert (memory_bytes(root), free_bytes(root)) == ((2 * GB, GB) if inside else (4 * GB, 3 * GB))
    assert (usable_processors(root), times_stopped(root)) == (3, 5 if inside else 4)


@pytest.mark.parametrize(
    ("top", "place"),
    [
        ("/", "docker/1/"),  # no namespace: the whole tree is seen
        ("/docker/1", ""),  # a container without a namespace of its own: its group is mounted as the top
        ("/", ""),  # another namespace: the path isn't one of the mount's
    ],
)
def test_version_1(root, monkeypatch, top, place):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    own = "/docker/1" if place or top != "/" else "/../../docker/1"
    cgroup = f"9:name=systemd:/\n4:memory:{own}\n3:cpu,cpuacct:{own}\n0::/\n"
    files = {
        f"cpu,cpuacct/{place}cpu.cfs_quota_us": 150000,
        f"cpu,cpuacct/{place}cpu.cfs_period_us": 50000,
        f"cpu,cpuacct/{place}cpu.stat": "nr_periods 9\nnr_throttled 7\nthrottled_time 3",
        f"memory/{place}memory.limit_in_bytes": 5 * GB,
        f"memory/{place}memory.usage_in_bytes": 3 * GB,
        f"memory/{place}memory.stat": f"inactive_file 5\ntotal_inactive_file {GB}",
    }
    tree(root, cgroup, V1.format(top=top), **files)
    assert (usable_processors(root), memory_bytes(root), free_bytes(root)) == (3, 5 * GB, 3 * GB)
    assert times_stopped(root) == 7
    files = {f"cpu,cpuacct/{place}cpu.cfs_quota_us": -1, f"memory/{place}memory.limit_in_bytes": UNLIMITED}
    tree(root, cgroup, V1.format(top=top), **files)
    assert usable_processors(root) == 64 and memory_bytes(root) == pytest.approx(8 * GB, abs=1024)


def test_version_1_whose_groups_stand_alone(root):
    """Without its hierarchy a group above doesn't count the memory of those below."""
    files = {"memory/a/memory.limit_in_bytes": GB, "memory/a/memory.use_hierarchy": 0}
    files |= {"memory/a/b/memory.limit_in_bytes": 3 * GB, "memory/a/b/memory.use_hierarchy": 0}
    tree(root, "4:memory:/a/b\n", V1.format(top="/"), **files)
    assert memory_bytes(root) == 3 * GB
    tree(root, "4:memory:/a/b\n", V1.format(top="/"), **{"memory/a/b/memory.use_hierarchy": 1})
    assert memory_bytes(root) == GB


def test_a_place_with_a_blank(root):
    mounts = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/with\\040blank")
    tree(root, "0::/a\n", mounts, **{"with blank__a__memory.max": GB})
    assert memory_bytes(root) == GB


@pytest.mark.parametrize("torn", ["", "0::\n", "nonsense", "0:::\n1", "4:memory\n"])
def test_torn_lines(root, torn):
    tree(root, torn, f"{torn}\n31 23 / - cgroup2\n - \n", **{"memory.max": GB})
    assert memory_bytes(root) in (GB, pytest.approx(8 * GB, abs=1024))


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
