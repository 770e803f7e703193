"""Short benches of real exports."""

from dataclasses import replace

from switchkd.data.questions import read_questions
from switchkd.runtime.bench import runner
from switchkd.runtime.bench.measurement import Bench, Measurement, Settings

SETTINGS = Settings(
    scenario="single",
    device="cpu",
    threads=1,
    context=512,
    max_tokens=4,
    questions=12,
    seconds=0.0,
    warm_up=2,
    divergence=24,
    sequential=False,
    rate=20.0,
    minutes=0.02,
    seed=0,
)


def bench(models, file, names=("onnx-fp32", "onnx-q8"), watch=lambda what, share: None, **settings):
    """Runs a bench of some of the models."""
    asked = read_questions(file, file.parent / "images")
    measurements = {name: Measurement(name, models / name) for name in names}
    whole = Bench(replace(SETTINGS, **settings), asked, file, "", measurements)
    runner.run_bench(whole, watch)
    return whole
