"""Threads on processors: a caller comes back to where it was, and an engine's threads have one each."""

import os
from pathlib import Path

import pytest
from support.llava_models import picture, question

from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.pinning import pinned, places

if not hasattr(os, "sched_getaffinity"):
    pytest.skip("the system doesn't tell which processors a thread may use", allow_module_level=True)
ALLOWED = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two processors")


def threads():
    """The processors of each thread of this process, by the thread's id."""
    return {task.name: sorted(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()}


def test_only_one_thread_for_each_processor_is_placed():
    assert places(len(ALLOWED)) == (tuple(ALLOWED) if len(ALLOWED) > 1 else ())
    assert places(len(ALLOWED) + 1) == places(len(ALLOWED) - 1) == places(1) == ()


@several
def test_the_caller_comes_back_also_from_an_error():
    with pytest.raises(ZeroDivisionError), pinned(tuple(ALLOWED[::-1])):
        assert os.sched_getaffinity(0) == {ALLOWED[-1]}
        raise ZeroDivisionError
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@several
def test_a_thread_that_may_run_elsewhere_only_stays_there():
    os.sched_setaffinity(0, {ALLOWED[-1]})
    try:
        with pinned(tuple(ALLOWED)):
            assert os.sched_getaffinity(0) == {ALLOWED[-1]}
        assert os.sched_getaffinity(0) == {ALLOWED[-1]}
    finally:
        os.sched_setaffinity(0, ALLOWED)


def test_no_places_and_processors_that_are_gone_leave_the_caller_where_it_is():
    for where in ((), (100_000,)):
        with pinned(where):
            assert sorted(os.sched_getaffinity(0)) == ALLOWED
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@several
def test_an_onnx_engine_has_a_thread_on_each_further_processor(shelf):
    variant = shelf.export("onnx", "fp32")
    before = threads()
    with open_engine(variant, threads=len(ALLOWED)) as engine:
        new = sorted(where for thread, where in threads().items() if thread not in before)
        assert new == sorted([[at] for at in ALLOWED[1:]] * 2)  # of the vision part and of the decoder
        seen = engine.answer(question("how many cars ?"), picture(0), max_new_tokens=4)
    with open_engine(variant, threads=1) as engine:
        assert threads().keys() <= before.keys()
        assert engine.answer(question("how many cars ?"), picture(0), max_new_tokens=4) == seen
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@several
def test_the_caller_gets_the_fastest_processor(tmp_path):
    for at in ALLOWED:
        folder = tmp_path / f"sys/devices/system/cpu/cpu{at}"
        folder.mkdir(parents=True)
        (folder / "cpu_capacity").write_text("1024\n" if at == ALLOWED[-1] else "414\n")
    assert places(len(ALLOWED), tmp_path) == (ALLOWED[-1], *ALLOWED[:-1])
