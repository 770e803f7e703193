"""The order of questions, and a camera with a clock that the test moves."""

from collections import Counter

import pytest

from switchkd.runtime.bench.scenario import CameraLog, WallClock, question_order, run_camera


class FakeClock:
    """Time that passes only while the engine works or the camera waits."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def sleep_until(self, moment):
        self.time = max(self.time, moment)


def film(delays, *, rate=10.0, seconds=1.0):
    """A camera in front of an engine that takes delays[n] for its n-th answer; the last delay repeats."""
    clock, log, asked = FakeClock(), CameraLog(rate), []

    def answer(frame):
        asked.append(frame)
        clock.time += delays[min(len(asked), len(delays)) - 1]

    run_camera(answer, log, seconds=seconds, clock=clock)
    assert asked == [frame for frame, _, _ in log.answered]
    return asked, log.summary(), log


def test_a_fast_engine_answers_every_frame_in_time():
    asked, summary, log = film([0.03])
    assert asked == list(range(10))
    assert log.ages() == pytest.approx([0.03] * 10)
    assert (summary["frames"], summary["dropped"], summary["late"], summary["missed"]) == (10, 0, 0, 0)
    assert summary["deadline"] == pytest.approx(0.1) and summary["age"]["max"] == pytest.approx(0.03)
    # The last frame comes after 0.9 s and is answered at 0.93 s.
    assert summary["answers_per_second"] == pytest.approx(10 / 0.93)


def test_a_slow_engine_takes_the_newest_frame_and_drops_the_others():
    # 0 at 0 → 0.25; then 2 (came at 0.2) → 0.5; then 5 → 0.75; 7 → 1.0, when a frame 10 would take the place of 8 and 9.
    asked, summary, log = film([0.25])
    assert asked == [0, 2, 5, 7]
    assert log.ages() == pytest.approx([0.25, 0.3, 0.25, 0.3])
    assert (summary["answered"], summary["dropped"], summary["late"], summary["missed"]) == (4, 6, 4, 10)
    assert summary["missed_share"] == 1.0
    assert summary["service"]["max"] == pytest.approx(0.25)


def test_one_slow_answer_makes_the_queued_frame_late_too():
    # Frame 0 takes 0.18 s. Frame 1 waited since 0.1 and is done at 0.21: 0.11 old. Frame 2 comes at 0.2, done at 0.24.
    asked, summary, log = film([0.18, 0.03], seconds=0.5)
    assert asked == [0, 1, 2, 3, 4]
    assert log.ages() == pytest.approx([0.18, 0.11, 0.04, 0.03, 0.03])
    assert (summary["dropped"], summary["late"]) == (0, 2)


@pytest.mark.parametrize("rate", [3.0, 7.0, 10.0, 30.0])
@pytest.mark.parametrize("delay", [0.001, 0.05, 0.1, 0.37, 2.0])
def test_frames_are_answered_or_dropped_and_never_too_early(rate, delay):
    _, summary, log = film([delay], rate=rate, seconds=5.0)
    assert summary["answered"] + summary["dropped"] == summary["frames"] == 5 * rate
    assert summary["late"] <= summary["answered"] and summary["age"]["max"] <= delay + 1 / rate + 1e-6
    for frame, start, end in log.answered:
        assert start >= frame / rate - 1e-6 and end == pytest.approx(start + delay)
    for (first, _, end), (second, start, _) in zip(log.answered, log.answered[1:], strict=False):
        assert second > first and start >= end
        if second + 1 < summary["frames"]:  # no newer frame had come
            assert (second + 1) / rate > start - 1e-6


def test_what_comes_after_an_answer_is_not_in_its_time():
    clock, log = FakeClock(), CameraLog(10.0)
    seen = []

    def after():
        seen.append(len(log.answered))
        clock.time += 0.02

    run_camera(lambda frame: clock.sleep_until(clock.time + 0.01), log, seconds=0.5, clock=clock, after=after)
    assert seen == [1, 2, 3, 4, 5]
    assert log.ages() == pytest.approx([0.01] * 5)


def test_an_interrupted_camera_keeps_what_it_had():
    clock, log = FakeClock(), CameraLog(10.0)

    def answer(frame):
        if frame == 3:
            raise KeyboardInterrupt
        clock.time += 0.01

    with pytest.raises(KeyboardInterrupt):
        run_camera(answer, log, seconds=1.0, clock=clock)
    assert log.summary()["answered"] == 3
    assert CameraLog(5.0).summary()["missed_share"] is None


def test_every_question_is_asked_once_before_one_is_asked_again():
    order = list(question_order(7, 17, seed=3))
    assert Counter(order[:7]) == Counter(order[7:14]) == Counter(range(7)) and len(order) == 17
    assert order[:7] != order[7:14] != sorted(order[7:14])
    assert order == list(question_order(7, 17, seed=3)) != list(question_order(7, 17, seed=4))


def test_the_wall_clock_doesnt_return_early():
    clock = WallClock()
    moment = clock.now() + 0.002
    clock.sleep_until(moment)
    assert clock.now() >= moment
