"""Memory of real processes, and the verdict on made-up growth."""

import subprocess
import sys

import numpy as np
import pytest

from switchkd.runtime.bench.memory import judge_growth, peak_resident, process_tree, resident

MB = 1 << 20
CHILD = """
import subprocess, sys
block = bytearray(64 << 20); del block
child = subprocess.Popen([sys.executable, "-c", "block = bytearray(64 << 20); print('there', flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_counts_children_and_what_was_given_back():
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child = int(process.stdout.readline())
        assert set(process_tree(process.pid)) == {process.pid, child}
        assert peak_resident(process.pid) > 128 * MB  # both blocks, one of them gone
        assert 64 * MB < resident(process.pid) < peak_resident(process.pid) - 48 * MB
    finally:
        process.communicate(b"\n")


def test_a_process_that_is_gone_has_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert resident(process.pid) is None


def samples(sizes, seconds=60.0):
    return list(zip(np.linspace(0, seconds, len(sizes)), sizes, strict=True))


def noisy(base):
    return (np.asarray(base) + np.random.default_rng(0).normal(0, 0.05 * MB, len(base))).tolist()


def test_a_leak_is_told_and_measured():
    growth = judge_growth(samples(noisy(100 * MB + np.linspace(0, 12 * MB, 120))))
    assert growth["verdict"] == "leak"
    assert growth["growth"] == pytest.approx(9 * MB, rel=0.03)  # of the three quarters that count
    assert growth["growth_per_hour"] == pytest.approx(720 * MB, rel=0.03)
    assert growth["seconds"] == pytest.approx(45, rel=0.02)


@pytest.mark.parametrize(("at", "jump"), [(40, 45), (110, -45)])
def test_one_odd_sample_hides_no_leak(at, jump):
    """Such as pages of a mapped file that the system takes back for a while."""
    sizes = np.linspace(100 * MB, 140 * MB, 120)
    sizes[at] += jump * MB
    assert judge_growth(samples(noisy(sizes)))["verdict"] == "leak"


@pytest.mark.parametrize(
    "sizes",
    [
        [100 * MB] * 120,
        [*np.linspace(50 * MB, 100 * MB, 30), *[100 * MB] * 90],  # caches fill first
        [*[100 * MB] * 60, *[110 * MB] * 4, *[100 * MB] * 56],  # one peak
        [(100 + 10 * (step % 12) / 12) * MB for step in range(120)],  # grows and is given back
        np.linspace(100 * MB, 100.5 * MB, 120).tolist(),  # too little to tell from chance
    ],
)
def test_what_is_no_leak(sizes):
    assert judge_growth(samples(noisy(sizes)))["verdict"] == "steady"


def test_too_short():
    assert judge_growth([])["verdict"] == "unknown"  # no system that tells
    assert judge_growth(samples([1.0] * 100, seconds=5))["verdict"] == "too short to tell"
    assert judge_growth(samples([1.0] * 5))["verdict"] == "too short to tell"
