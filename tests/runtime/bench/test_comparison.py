"""Two benches against each other, on made-up figures."""

import copy

import pytest

from switchkd.runtime.bench.comparison import changes_between, compare
from switchkd.runtime.bench.tables import _text
from switchkd.scoring import Score


def phase(p50, noise):
    return {"p50": p50, "p50_noise": noise, "n": 100}


def summary(p50=0.010, noise=0.02, right=80):
    score = Score(right, 100)
    quality = {"accuracy": {"all": {"accuracy": score.accuracy, "interval": list(score.interval())}}}
    latency = {name: phase(p50, noise) for name in ("first_token", "decode_token", "answer")}
    return {
        "machine": {
            "cpu": "x",
            "versions": {"onnxruntime": "1.0", "numpy": "2.0"},
        },
        "settings": {"scenario": "single", "context": 4096},
        "variants": {
            "a": {
                "files": {"manifest_sha256": "1"},
                "latency": latency,
                "memory": {"peak": 10**8},
                "quality": quality,
            }
        },
    }


def test_multiples_of_the_reference_need_the_same_one():
    """A computer that is slower by half is in both of a multiple's times."""
    old, new = summary(), summary(0.015)
    for each, value in ((old, 0.5), (new, 0.52)):
        each["settings"]["reference"] = "r"
        each["variants"]["a"]["latency"]["beside"] = {"first_token": phase(value, 0.01)}
    row = next(row for row in compare(old, new).rows if "beside" in row[0])
    assert row == ("a, first token beside r", "0.5 ×", "0.52 ×", "1.040 ±0.015", "differs")
    new["settings"]["reference"] = "another"
    assert not any("beside" in row[0] for row in compare(old, new).rows)


@pytest.mark.parametrize(("p50", "verdict"), [(0.0102, "within noise"), (0.0104, "differs"), (0.0090, "differs")])
def test_a_ratio_is_told_with_its_uncertainty(p50, verdict):
    """Two noises of 2 % make 2.83 %."""
    row = next(row for row in compare(summary(), summary(p50)).rows if row[0] == "a, first token, p50")
    ratio = p50 / 0.010
    assert row[1:] == ("10 ms", f"{1e3 * p50:.4g} ms", f"{ratio:.3f} ±{ratio * 0.02828:.3f}", verdict)


def test_a_difference_of_right_answers_has_newcombes_interval():
    """Newcombe's own example: 56 of 70 against 48 of 80 differ by 0.2, from 0.0524 to 0.3339."""
    old, new = summary(), summary()
    for each, score in ((old, Score(48, 80)), (new, Score(56, 70))):
        plain = {"accuracy": score.accuracy, "interval": list(score.interval())}
        each["variants"]["a"]["quality"]["accuracy"]["all"] = plain
    row = next(row for row in compare(old, new).rows if row[0] == "a, right, %")
    assert row[3:] == ("+20.0 (+5.2 to +33.4)", "differs")
    assert compare(old, old).rows[-1][3:] == ("+0.0 (-14.9 to +14.9)", "within noise")


@pytest.mark.parametrize(("can_read", "cells"), [(True, ["12.4", "0.01", "0.0931", "93.2", "1,566"]), (False, None)])
def test_text_is_told_where_the_reference_can_read_it(can_read, cells):
    new = summary()
    new["settings"]["reference"] = "r"
    new["variants"]["r"] = copy.deepcopy(new["variants"]["a"])
    assert _text(new["variants"], "r") == []  # an older bench
    own = {"perplexity": 12.25 if can_read else 5e6, "counting_perplexity": 1000.0, "can_read": can_read}
    nothing = {"positions": 0, "kl_mean": None, "kl_p99": None, "top1": None, "perplexity": None}
    read = {"positions": 1566, "kl_mean": 0.0102, "kl_p99": 0.0931, "top1": 0.932, "perplexity": 12.4}
    new["variants"]["r"]["quality"]["text"] = own
    new["variants"]["a"]["quality"]["text"] = read if can_read else nothing
    (grid,) = _text(new["variants"], "r")
    assert grid.rows[0][:2] == ("r", "12.2" if can_read else "5,000,000")
    assert [list(row[1:]) for row in grid.rows[1:]] == ([cells] if cells else [])
    assert ("can't read it" in grid.note) != can_read


def test_what_else_changed_is_told():
    old, new = summary(), summary()
    assert changes_between(old, new) == []
    new = copy.deepcopy(new)
    new["machine"]["versions"] = {"onnxruntime": "1.1", "numpy": "2.0", "torch": "3"}
    new["settings"]["context"] = 512
    new["variants"]["a"]["files"]["manifest_sha256"] = "2"
    new["variants"]["b"] = new["variants"]["a"]
    assert changes_between(old, new) == [
        "The older bench had another context: 4096 instead of 512.",
        "The older bench had another onnxruntime: 1.0 instead of 1.1.",
        "a was another export in the older bench.",
        "Only the newer bench has b.",
    ]
