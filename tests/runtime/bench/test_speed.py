"""Engines in turns: counted by a clock that the test moves; strengths: worked out by hand."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from switchkd.errors import DataError
from switchkd.manifest import FileEntry, ImageTokens, Manifest, ManifestError, Source
from switchkd.runtime.bench import speed
from switchkd.runtime.bench.speed import medians, siblings, strengths, take_turns
from switchkd.runtime.engines.engine import Timings


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
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_turns(clock):
    log = []
    engines = {name: SlowEngine(name, clock, log, unit) for name, unit in (("a", 1.0), ("b", 4.0), ("c", 2.0))}
    *_, times = islice(take_turns(engines, tokens=16), 5)
    assert dict(times["a"]) == {
        "encode": [2, 3, 4, 5, 6],  # the first request warms up
        "prefill": [4, 6, 8, 10, 12],
        "first_token": [6, 9, 12, 15, 18],
        "decode": [2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8],
    }
    assert medians(times)["b"] == {"encode": 16, "prefill": 32, "first_token": 48, "decode": 2}
    rounds = ["".join(log[start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds) and len(set(rounds)) > 1


def test_a_context_without_room(clock):
    engine = SlowEngine("a", clock, [], 1.0, context=63)
    with pytest.raises(DataError, match=r"context of 63 has no room for 48 \+ 16 tokens"):
        next(take_turns({"a": engine}, tokens=16))


def manifest(first_token, decode, size, kl, *, source="ab", threads=2):
    ratios = {"first_token": first_token, "decode": decode}
    return Manifest(
        format="onnx",
        quant="q8",
        vision_quant="q8",
        source=Source("student", source * 32),
        tools={},
        files={"weights": FileEntry("", size, "0")},
        image=ImageTokens(16, "<|image_pad|>", 7),
        prompt_template="",
        end_tokens=[],
        context=64,
        parity={"loss": {"kl_mean": kl}},
        measured={"machine": {"cpu": "some", "threads": threads}, "to_checkpoint": ratios},
    )


def test_strengths():
    variants = {
        "q8": manifest(0.30, 0.20, 500, 1e-4),
        "q4": manifest(0.70, 0.15, 300, 1e-3),
        "mixed": manifest(0.31, 0.30, 400, 1e-3),  # as fast to the first token, within what times differ by
        "fp32": manifest(1.00, 0.90, 2000, 1e-12),
    }
    # Older exports were judged by their answers alone; "closeness" is that to the worst of all evidence.
    variants["q4"].parity["judged"] = {"questions": {"kl_mean": 1e-15}, "text": {"kl_mean": 0.02}}
    assert strengths(variants) == {
        "q8": ["first token"],
        "q4": ["tokens after it", "size"],
        "mixed": ["first token"],
        "fp32": ["closeness"],
    }
    assert strengths({"q8": variants["q8"]}) == {"q8": []}


def test_only_what_can_be_compared(tmp_path):
    def save(name, value):
        path = tmp_path / name
        path.mkdir()
        (path / "weights").write_bytes(bytes(10))
        value.save(path)

    for name, others in (("one", {}), ("two", {}), ("another", {"source": "cd"}), ("threads", {"threads": 4})):
        save(name, manifest(1, 1, 10, 0, **others))
    save("older", replace(manifest(1, 1, 10, 0), measured={}))
    save("torn", manifest(1, 1, 11, 0))
    (tmp_path / "nothing").mkdir()
    assert list(siblings(tmp_path / "one")) == ["one", "two"]
    assert list(siblings(tmp_path / "another")) == ["another"]
    assert siblings(tmp_path / "older") == {}
    with pytest.raises(ManifestError, match="11"):
        siblings(tmp_path / "torn")
