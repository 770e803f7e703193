"""Short benches of real exports, and one made up."""

from dataclasses import asdict, replace

from switchkd.data.questions import read_questions
from switchkd.runtime.bench import runner
from switchkd.runtime.bench.limits import judge
from switchkd.runtime.bench.measurement import Bench, Measurement, Settings
from switchkd.runtime.bench.quality import compare_pairs
from switchkd.scoring import Score

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
    max_loss=None,
    max_ms=None,
    max_mb=None,
    target=None,
)


def bench(models, file, names=("onnx-fp32", "onnx-q8"), watch=lambda what, share: None, **settings):
    """Runs a bench of some of the models."""
    asked = read_questions(file, file.parent / "images")
    measurements = {name: Measurement(name, models / name) for name in names}
    whole = Bench(replace(SETTINGS, **settings), asked, file, "", measurements)
    runner.run_bench(whole, watch)
    return whole


def fixed_bench(
    right, *, times=None, noise=0.02, weights=None, kl=None, reference="student", isa=("avx2",), **settings
):
    """bench.json up to the judgements, of figures made up by hand.

    Args:
        right: variant → for each question whether it is answered right; a variant named "student" is a checkpoint.
        times: variant → seconds of a first token; a later token takes a tenth of it and a whole answer twice as long.
        weights: variant → bytes.
        kl: variant → nats from the reference.
    """
    variants = {}
    for name, answers in right.items():
        seconds = (times or {}).get(name, 0.01)
        phases = {"first_token": seconds, "decode_token": seconds / 10, "answer": 2 * seconds}
        score = Score(sum(answers), len(answers))
        nats = (kl or {}).get(name)
        variants[name] = {
            "folder": f"/nowhere/{name}",
            "files": {
                "format": "torch" if name == "student" else name.split("-")[0],
                "weights": (weights or {}).get(name, 10**6),
            },
            "latency": {phase: {"n": 100, "p50": value, "p50_noise": noise} for phase, value in phases.items()},
            "memory": {"peak": 10**8},
            "quality": {
                "accuracy": {
                    "all": {
                        "right": score.right,
                        "total": score.total,
                        "accuracy": score.accuracy,
                        "interval": score.interval(),
                    }
                },
                "divergence": None if nats is None else {"kl_mean": nats},
            },
        }
    answered = {name: dict(enumerate(answers)) for name, answers in right.items()}
    asked = asdict(replace(SETTINGS, **settings)) | {"reference": reference}
    machine = {"isa": list(isa), "conditions": {"warnings": []}}
    summary = {"settings": asked, "machine": machine, "variants": variants, "pairs": compare_pairs(answered)}
    return summary | {"limits": judge(summary), "yardsticks": {}}
