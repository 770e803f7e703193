"""How requests arrive: one after another, or as a camera's frames at a fixed rate.

MLPerf Inference calls them SingleStream and, in its automotive form, ConstantStream: frames arrive whether or not the last
answer is done, and each has to be answered before the next one arrives.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from switchkd.runtime.bench.statistics import summarise


def question_order(count: int, asked: int, seed: int) -> Iterator[int]:
    """`asked` numbers of questions below `count` in a random order; each is asked once before one is asked again."""
    order = random.Random(seed)
    left = asked
    while left > 0:
        once = order.sample(range(count), count)
        yield from once[:left]
        left -= count


class Clock(Protocol):
    """Time, which a test may make up."""

    def now(self) -> float:
        """Seconds from any moment on."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Returns when `now()` has reached the moment."""
        ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.perf_counter()

    def sleep_until(self, moment: float) -> None:
        """See `Clock.sleep_until`."""
        while (left := moment - time.perf_counter()) > 0:
            time.sleep(left)


@dataclass
class CameraLog:
    """What became of a camera's frames. Frame n arrives n / rate seconds after the start."""

    rate: float  # frames a second
    answered: list[tuple[int, float, float]] = field(default_factory=list)  # frame, seconds of its start and of its end
    dropped: int = 0  # frames that a newer one replaced in the queue

    def ages(self) -> list[float]:
        """How old each answered frame was when its answer was there, seconds."""
        return [end - frame / self.rate for frame, _, end in self.answered]

    def summary(self) -> dict[str, Any]:
        """ "frames" that came, "answered", "dropped", "late" (answered after the next frame came), "missed" (dropped or
        late) and its share "missed_share"; "deadline", seconds; "age" and "service" (start to end) as `summarise` has
        them; "answers_per_second"."""
        deadline, ages = 1 / self.rate, self.ages()
        frames = len(self.answered) + self.dropped
        late = sum(age > deadline for age in ages)
        return {
            "rate": self.rate,
            "deadline": deadline,
            "frames": frames,
            "answered": len(self.answered),
            "dropped": self.dropped,
            "late": late,
            "missed": late + self.dropped,
            "missed_share": (late + self.dropped) / frames if frames else None,
            "answers_per_second": len(self.answered) / self.answered[-1][2] if self.answered else None,
            "age": summarise(ages),
            "service": summarise([end - start for _, start, end in self.answered]),
        }


def run_camera(
    answer: Callable[[int], object],
    log: CameraLog,
    *,
    seconds: float,
    clock: Clock,
    after: Callable[[], object] | None = None,
) -> None:
    """Answers a camera's frames with a queue of one: whenever the engine is free, it takes the newest frame that has come.

    Args:
        answer: answers frame n; called one at a time.
        log: written as frames are answered, so that an interrupted run leaves what it had; also tells the rate.
        seconds: of frames. No answer begins later: a real camera's newer frames would have taken the place of the last ones.
        clock: what time it is.
        after: called when an answer stands in the log, so that what it takes is no part of that answer's time.
    """
    frames = max(1, round(seconds * log.rate))
    start = clock.now()
    following = 0  # the frame after the last one that was taken
    while following < frames:
        clock.sleep_until(start + following / log.rate)
        begun = clock.now() - start
        # A billionth of a frame: times near 0.3 aren't 3 × 0.1 to the last bit.
        newest = max(following, int(begun * log.rate + 1e-9))
        if newest >= frames:
            log.dropped += frames - following
            return
        answer(newest)
        log.dropped += newest - following
        log.answered.append((newest, begun, clock.now() - start))
        if after:
            after()
        following = newest + 1
