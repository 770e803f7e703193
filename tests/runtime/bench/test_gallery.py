"""The report's pictures: what a variant gets wrong and the reference right; and the drawing's lines."""

from pathlib import Path

from matplotlib.axes import Axes
from support.benches import SETTINGS, fixed_bench
from support.llava_models import picture

from switchkd.data.questions import Question
from switchkd.runtime.bench.figures import draw_pareto
from switchkd.runtime.bench.gallery import missed
from switchkd.runtime.bench.measurement import Bench, Measurement, Request


def filled(folder, answers, reference="student"):
    """A bench of twenty questions about ten pictures, all of whose answers should be "two"."""
    for index in range(10):
        picture(index).save(folder / f"{index}.png")
    questions = [
        Question(str(n), "car", (folder / f"{n % 10}.png",), [{"role": "user", "content": f"q{n}"}], "two")
        for n in range(20)
    ]
    seconds = dict.fromkeys(("preprocess", "encode", "prefill", "decode", "first_token", "answer"), 0.01)
    measurements = {}
    for name, given in answers.items():
        requests = [Request(n, given(n), seconds, 1, 0, 1) for n in range(20)]
        measurements[name] = Measurement(name, Path(name), requests=requests)
    return Bench(SETTINGS, questions, folder / "test.json", "", measurements, reference)


def test_missed_frames(tmp_path):
    """Variants in turns, every frame once, and only what the reference answers right."""
    bench = filled(
        tmp_path,
        {
            "student": lambda n: "three" if n == 0 else "two",
            "a": lambda n: "two" if n > 3 else "one",
            "b": lambda n: "four" if n == 5 else "2",
        },
    )
    shown = missed(bench)
    assert [(each["question"], each["answers"][1]) for each in shown] == [
        ("q1", ("a", "one", False)),
        ("q5", ("b", "four", False)),
        ("q2", ("a", "one", False)),
        ("q3", ("a", "one", False)),
    ]
    assert all(each["answers"][0] == ("student", "two", True) and each["expected"] == "two" for each in shown)
    (tmp_path / "2.png").unlink()
    assert [each["question"] for each in missed(bench)] == ["q1", "q5", "q3"]


def test_a_dozen_at_most_and_each_picture_once(tmp_path):
    bench = filled(tmp_path, {"student": lambda n: "two", "a": lambda n: "no"})
    assert len(missed(bench)) == 10
    assert missed(filled(tmp_path, {"a": lambda n: "no", "student": lambda n: "two"}, reference="a")) == []


def test_limits_and_yardsticks_are_lines_of_the_drawing(monkeypatch):
    """As matplotlib was told to draw them."""
    drawn = []
    monkeypatch.setattr(Axes, "axhline", lambda self, y, **_: drawn.append(("level", y)))
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **_: drawn.append(("time", x)))
    summary = fixed_bench({"student": [True, True, True, False], "onnx-q8": [True] * 4}, max_loss=5.0, max_ms=9.0)
    draw_pareto(summary | {"yardsticks": {"teacher": 0.9, "blind": 0.25}}, summary["variants"])
    assert drawn == [("level", 90.0), ("level", 25.0), ("level", 70.0), ("time", 9.0)]
    drawn.clear()
    bare = fixed_bench({"student": [True, False], "onnx-q8": [True, True]})
    draw_pareto(bare, bare["variants"])
    assert drawn == []
