"""Machine facts and warnings out of made-up /proc and /sys, and out of the real ones."""

import os

import pytest

from switchkd.runtime.bench.machine import Conditions, describe_conditions, machine_facts

CPU_INFO = """processor\t: 0
model name\t: Board CPU
Features\t: fp asimd asimddp i8mm

processor\t: 1
model name\t: Board CPU
Features\t: fp asimd asimddp i8mm
"""


@pytest.fixture
def board(tmp_path):
    """An ARM board that cools itself."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    write("proc/cpuinfo", CPU_INFO)
    write("proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB")
    write("proc/stat", "cpu  100 10 50 1000 40 5 5 20 0 0\nintr 5")
    write("sys/class/thermal/thermal_zone0/temp", 45500)
    write("sys/class/thermal/thermal_zone1/temp", 61000)
    write("sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0")
    write("sys/class/thermal/cooling_device0/cur_state", 2)
    write("sys/class/thermal/cooling_device1/type", "pwm-fan")
    write("sys/class/thermal/cooling_device1/cur_state", 3)
    for core in (0, 1):
        write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", "schedutil")
        write(f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", 4)
    return tmp_path


def test_facts(board):
    facts = machine_facts(board)
    assert facts["cpu"] == "Board CPU" and facts["isa"] == ["asimd", "asimddp", "i8mm"]
    assert facts["memory_bytes"] == 8000000 * 1024 and facts["governor"] == "schedutil"
    (board / "sys/fs/cgroup").mkdir(parents=True)
    (board / "sys/fs/cgroup/memory.max").write_text("1000000000\n")
    (board / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    facts = machine_facts(board)
    assert (facts["memory_bytes"], facts["usable_cores"]) == (10**9, 1)


def test_conditions(board):
    now = Conditions.now(board)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert (now.temperature, now.throttled, now.cooling) == (61.0, 8, 1)
    assert now.busy == pytest.approx(170 * tick) and now.stolen == pytest.approx(20 * tick)
    assert now.total == pytest.approx(1230 * tick) and now.stopped is None
    (board / "sys/fs/cgroup").mkdir(parents=True)
    (board / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nnr_periods 9\nnr_throttled 4\n")
    assert Conditions.now(board).stopped == 4


def test_only_cores_that_may_be_used_count(board, monkeypatch):
    """Of 64 cores, another program on the one that is left for the bench is not a small share."""
    rows = ["cpu  100 0 0 6300 0 0 0 0 0 0", *(f"cpu{core} 0 0 0 100 0 0 0 0 0 0" for core in range(63))]
    (board / "proc/stat").write_text("\n".join([*rows, "cpu63 100 0 0 0 0 0 0 0 0 0", "intr 1"]))
    tick = 1 / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {62, 63})
    now = Conditions.now(board)
    assert now.busy == pytest.approx(100 * tick) and now.total == pytest.approx(200 * tick)


QUIET = {
    "load": 0.1,
    "temperature": 40.0,
    "throttled": 4,
    "cooling": 0,
    "stopped": 2,
    "busy": 0.0,
    "stolen": 0.0,
    "total": 0.0,
    "own": 0.0,
}
FACTS = {"cores": 4, "governor": "performance"}


def warnings(before=(), after=(), facts=()):
    later = {"busy": 50.0, "own": 49.0, "total": 100.0}
    found = describe_conditions(
        Conditions(**QUIET | dict(before)), Conditions(**QUIET | later | dict(after)), FACTS | dict(facts)
    )
    return found["warnings"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"before": {"load": 2.5}}, "busy when the bench began: load 2.5 with 4 processor cores"),
        ({"after": {"own": 30.0}}, "Other programs used 20 %"),
        ({"after": {"stolen": 3.0}}, "host of this virtual machine took 3 %"),
        ({"after": {"throttled": 7}}, "throttled 3 times"),
        ({"after": {"cooling": 1}}, "slowed down to cool"),
        ({"after": {"stopped": 7}}, "quota of processor time ran out 5 times"),
        ({"after": {"temperature": 95.0}}, "hot: 95 °C"),
        ({"facts": {"governor": "powersave"}}, "governor is 'powersave'"),
    ],
)
def test_warnings(state, words):
    (line,) = warnings(**state)
    assert words in line


def test_a_quiet_machine_gives_no_warning():
    assert warnings() == []


def test_nothing_can_be_read(tmp_path):
    facts, now = machine_facts(tmp_path), Conditions.now(tmp_path)
    assert facts["governor"] is None and facts["isa"] == [] and facts["cpu"]
    assert (now.temperature, now.throttled, now.cooling, now.total) == (None, None, None, 0.0)
    report = describe_conditions(now, now, facts | {"cores": 10**6})
    assert report["others"] is None and report["throttled"] is None and report["warnings"] == []


def test_this_machine():
    facts = machine_facts()
    assert facts["usable_cores"] >= 1 and facts["versions"]["numpy"] and facts["versions"]["python"]
    before = Conditions.now()
    sum(range(10**6))
    after = Conditions.now()
    assert after.own > before.own and after.total >= before.total
