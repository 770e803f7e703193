"""A bench's figures as plain objects: the contents of bench.json, whose form docs/bench.md tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.bench.limits import judge
from switchkd.runtime.bench.measurement import PHASES, RATIOS, SINGLE, Bench, Energy, Measurement
from switchkd.runtime.bench.memory import judge_growth
from switchkd.runtime.bench.quality import accuracy, agreement, compare_pairs, difference, right_answers
from switchkd.runtime.bench.reading import TextReference
from switchkd.runtime.bench.statistics import drift, noise, summarise
from switchkd.runtime.bench.verdict import recommend
from switchkd.runtime.engines.formats import known_runtimes


def summarise_bench(bench: Bench) -> dict[str, Any]:
    """The contents of bench.json; docs/bench.md tells its form."""
    summary = {
        "schema": 1,
        "created": bench.created,
        "machine": bench.machine | {"conditions": bench.conditions, "energy_meter": bench.energy},
        "settings": asdict(bench.settings)
        | {
            "data": str(bench.data),
            "questions_there": len(bench.questions),
            "reference": bench.reference,
            "interrupted": bench.interrupted,
            "unreadable": [
                {"id": bench.questions[index].id, "error": reason} for index, reason in bench.left_out.items()
            ],
        },
        "variants": {name: _summarise_variant(each, bench) for name, each in bench.measurements.items()},
        "yardsticks": bench.yardsticks,
    }
    if bench.settings.scenario == SINGLE:
        summary["pairs"] = compare_pairs(
            {each.name: right_answers(bench.questions, each.answers()) for each in bench.answered()}
        )
        summary["limits"] = judge(summary)
        summary["verdict"] = recommend(summary, bench.profile)
    return summary


def _summarise_variant(each: Measurement, bench: Bench) -> dict[str, Any]:
    summary: dict[str, Any] = {"folder": str(each.folder), "error": each.error, "files": _files(each.folder)}
    if each.load is not None:
        summary["latency"] = _latency(each)
        summary["memory"] = {"peak": each.peak, "loaded": each.loaded}
    if each.requests:
        summary["energy"] = _energy([request.energy for request in each.requests if request.energy], len(each.requests))
        summary["quality"] = _quality(each, bench)
        summary["latency"]["beside"] = _multiples(each, bench)
    if each.camera is not None:
        summary["camera"] = each.camera.summary()
        summary["energy"] = _energy([each.filmed] if each.filmed else [], len(each.camera.answered))
        summary["memory"]["growth"] = judge_growth(each.memory)
    return summary


def _latency(each: Measurement) -> dict[str, Any]:
    """Seconds, each phase as `summarise` has it."""
    phases = {name: summarise(each.values(name)) for name in PHASES} if each.requests else {}
    steps = sum(request.new_tokens - 1 for request in each.requests if request.new_tokens > 1)
    decode = sum(request.seconds["decode"] for request in each.requests)
    return {
        "start": each.start,
        "verify": each.verify,
        "load": each.load,
        "first_answer": each.first.seconds["answer"] if each.first else None,
        "warm_up": each.warm_up,
        **phases,
        "decode_seconds": decode / len(each.requests) if each.requests else None,
        "decode_tokens_per_second": steps / decode if decode else None,
        "prompt_tokens": _mean([request.prompt_tokens for request in each.requests]),
        "reused_tokens": _mean([request.reused_tokens for request in each.requests]),
        "new_tokens": _mean([request.new_tokens for request in each.requests]),
        "drift": drift(each.values("answer")),
    }


def _multiples(each: Measurement, bench: Bench) -> dict[str, dict[str, Any]] | None:
    """This variant's time as a multiple of the reference's for the same question a moment before or after: what the computer did
    meanwhile is in both. None for the reference, and where they didn't take turns."""
    reference = bench.measurements[bench.reference]
    if each is reference or bench.settings.sequential or not reference.requests:
        return None
    # One that ended early has the first of the other's rounds.
    pairs = list(zip(each.requests, reference.requests, strict=False))
    ratios = {name: [own.seconds[name] / other.seconds[name] for own, other in pairs] for name in RATIOS}
    return {name: {"p50": median(values), "p50_noise": noise(values)} for name, values in ratios.items()}


def _energy(drawn: Sequence[Energy], answers: int) -> dict[str, float] | None:
    """What so many answers drew; None without a meter."""
    if not drawn:
        return None
    joules, seconds = sum(each.joules for each in drawn), sum(each.seconds for each in drawn)
    return {"joules_per_answer": joules / answers, "watts": joules / seconds if seconds else 0.0}


def _quality(each: Measurement, bench: Bench) -> dict[str, Any]:
    right = right_answers(bench.questions, each.answers())
    summary: dict[str, Any] = {"accuracy": accuracy(bench.questions, right)}
    if each.name == bench.reference:
        return summary | {"text": _own_reading(bench.text)}
    reference = bench.measurements[bench.reference].answers()
    return summary | {
        "difference": difference(right_answers(bench.questions, reference), right),
        "same_answers": agreement(reference, each.answers()),
        "divergence": each.divergences.summary() if each.divergences else None,
        "divergence_note": each.divergences.reason if each.divergences else "",
        "text": each.readings.summary() if each.readings else None,
    }


def _own_reading(text: TextReference | None) -> dict[str, Any] | None:
    """The reference's "perplexity", that of counting tokens, and whether it can read the text by these."""
    if text is None:
        return None
    return {
        "perplexity": text.perplexity,
        "counting_perplexity": text.page.counting_perplexity,
        "can_read": text.can_read,
    }


def _files(folder: Path) -> dict[str, Any]:
    """ "bytes" of all files, "weights" of those that hold weights, "format" and "quant" as the manifest has them."""
    inner = (path for each in known_runtimes().values() for path in folder.glob(f"*/*{each.suffix}*"))
    sizes = {path: path.stat().st_size for path in (*folder.glob("*"), *inner) if path.is_file()}
    if not (folder / FILE_NAME).exists():
        weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
        return {"bytes": sum(sizes.values()), "weights": weights, "format": "torch", "quant": "fp32"}
    summary: dict[str, Any] = {"bytes": sum(sizes.values()), "weights": None, "format": None, "quant": None}
    try:
        manifest = Manifest.load(folder, verify=False)
    except Exception:  # told as the variant's error
        return summary
    return summary | {
        "weights": manifest.weights,
        "format": manifest.format,
        "quant": manifest.quant,
        "vision_quant": manifest.vision_quant,
        "manifest_sha256": file_sha256(folder / FILE_NAME),  # by which `skd ship` knows the variant again
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
