"""Threads of this process that run, real and made-up."""

import sys
import threading
import time

import pytest

from switchkd.runtime.engines import idling


def test_waiting_ends_when_the_others_sleep(monkeypatch):
    """Threads that still spin keep it from ending, for a while."""
    clock, looks = [0.0], []

    def pass_time():
        clock[0] += 0.001
        return clock[0]

    def spins(until):
        return lambda: (looks.append(clock[0]), clock[0] < until)[1]

    monkeypatch.setattr(time, "monotonic", pass_time)
    monkeypatch.setattr(idling, "other_threads_run", spins(0.009))
    idling.wait_until_idle()
    assert 0.009 <= clock[0] < 0.012 and len(looks) > 5
    monkeypatch.setattr(idling, "other_threads_run", spins(10.0))
    idling.wait_until_idle()
    assert 0.1 < clock[0] < 0.12


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_run_are_seen(tmp_path):
    """The calling one isn't meant, and a name may be anything."""
    for number, state in ((1, "S (R) S"), (threading.get_native_id(), "R")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "stat").write_text(f"{number} (a) {state} 1 1")
    assert not idling.other_threads_run(tmp_path)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "stat").write_text("2 (b ) S) R 1 1")
    assert idling.other_threads_run(tmp_path)
    assert not all(idling.other_threads_run() for _ in range(1000))  # what runs the tests has threads too
    end, spinning = threading.Event(), threading.Event()

    def spin():
        while not end.is_set():
            spinning.set()

    thread = threading.Thread(target=spin)
    thread.start()
    assert spinning.wait(10) and any(idling.other_threads_run() for _ in range(1000))
    end.set()
    thread.join()
