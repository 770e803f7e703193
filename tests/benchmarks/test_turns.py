"""Engines in turns: counted by a clock that the test moves."""

import importlib.util
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from switchkd.errors import DataError
from switchkd.runtime.engines.timings import Timings

spec = importlib.util.spec_from_file_location("turns", Path(__file__).parents[2] / "benchmarks" / "turns.py")
turns = importlib.util.module_from_spec(spec)
spec.loader.exec_module(turns)


class Clock:
    """Time that passes only when an engine works."""

    now = 0.0

    def perf_counter(self):
        return self.now


class SlowEngine:
    """Takes known times: its n-th request n times as long."""

    def __init__(self, name, clock, log, unit, context=64):
        self.clock, self.log, self.unit, self.name = clock, log, unit, name
        self.prompt = SimpleNamespace(image_token_id=3, length=10)
        self.language = SimpleNamespace(context=context)
        self.requests = 0

    def encode_image(self, picture):
        self.requests += 1
        self.log.append(self.name)
        self.timings = Timings(encode=self.requests * self.unit)
        return np.zeros((16, 4), np.float32)

    def prefill(self, ids, features):
        assert ids.count(3) == len(features) and len(ids) == 16 + 32 and set(ids) == {3, 4}
        self.timings.prefill = 2 * self.requests * self.unit
        return np.eye(10)[5]

    def next_token(self, token):
        assert token == 5
        self.clock.now += self.requests * self.unit / 8
        return np.eye(10)[5]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


def test_turns(clock):
    log = []
    engines = {name: SlowEngine(name, clock, log, unit) for name, unit in (("a", 1.0), ("b", 4.0), ("c", 2.0))}
    *_, times = islice(turns.take_turns(engines, tokens=16), 5)
    assert dict(times["a"]) == {
        "encode": [2, 3, 4, 5, 6],  # the first request warms up
        "prefill": [4, 6, 8, 10, 12],
        "first_token": [6, 9, 12, 15, 18],
        "decode": [2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8],
    }
    assert turns.medians(times)["b"] == {"encode": 16, "prefill": 32, "first_token": 48, "decode": 2}
    rounds = ["".join(log[start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds) and len(set(rounds)) > 1


def test_a_context_without_room(clock):
    engine = SlowEngine("a", clock, [], 1.0, context=63)
    with pytest.raises(DataError, match=r"context of 63 has no room for 48 \+ 16 tokens"):
        next(turns.take_turns({"a": engine}, tokens=16))
