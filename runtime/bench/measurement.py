"""What a bench measures: its settings, and for each variant everything that was seen of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from switchkd.data.questions import Question
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.bench.memory import judge_growth
from switchkd.runtime.bench.quality import Divergences, accuracy, agreement, difference, right_answers
from switchkd.runtime.bench.reading import Readings, TextReference
from switchkd.runtime.bench.scenario import CameraLog
from switchkd.runtime.bench.statistics import SAMPLES_NEEDED, drift, noise, summarise
from switchkd.runtime.engines.formats import known_runtimes

SINGLE, CAMERA = "single", "camera"
# Scenario → the settings that are its own.
OWN_SETTINGS = {SINGLE: ("questions", "seconds", "warm_up", "divergence", "sequential"), CAMERA: ("rate", "minutes")}
LEAST = SAMPLES_NEEDED["p90"]  # questions, however long they take
_TOLD = 10  # questions that were left out, a line each
RATIOS = ("first_token", "answer")  # phases that are told as multiples of the reference's
PHASES = ("preprocess", "encode", "prefill", "first_token", "decode_token", "answer")


@dataclass(frozen=True)
class Settings:
    """How a bench is run."""

    scenario: str  # SINGLE or CAMERA
    device: str  # for ONNX exports; the others run on the processor
    threads: int
    context: int  # tokens
    max_tokens: int  # of an answer
    questions: int | None  # asked of each variant; None: as many as fit into `seconds`, but at least LEAST
    seconds: float  # for the measuring, all variants together
    warm_up: int  # requests before the first that counts
    divergence: int  # next tokens whose distributions are compared, at least
    sequential: bool  # one variant after the other instead of in turns
    rate: float  # frames a second
    minutes: float  # of the camera
    seed: int


@dataclass(frozen=True)
class Energy:
    """What the machine drew, the way between the processes and decoding pictures included."""

    joules: float
    seconds: float  # that these joules are of


@dataclass(frozen=True)
class Request:
    """One answered question."""

    question: int  # its number
    answer: str
    seconds: dict[str, float]  # by phase, as `Worker.ask` has them
    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    energy: Energy | None = None  # None without a meter

    def phase(self, name: str) -> float | None:
        """Seconds of one of PHASES; None where it wasn't reached."""
        if name != "decode_token":
            return self.seconds[name]
        return self.seconds["decode"] / (self.new_tokens - 1) if self.new_tokens > 1 else None


@dataclass
class Measurement:
    """One variant's."""

    name: str
    folder: Path
    error: str | None = None  # the line that ended it
    start: float | None = None  # seconds: the process with its imports
    verify: float | None = None  # seconds: hashes
    load: float | None = None  # seconds: files to an engine that can be asked
    first: Request | None = None  # the first request of all, which warms up
    warm_up: int = 0  # requests that don't count
    refused: int = 0  # questions that it alone couldn't be asked
    requests: list[Request] = field(default_factory=list)  # in the order of time
    peak: int | None = None  # bytes
    loaded: int | None = None  # bytes after loading
    divergences: Divergences | None = None  # None: not compared, or the reference itself
    readings: Readings | None = None  # of the package's text; None likewise
    camera: CameraLog | None = None
    filmed: Energy | None = None  # while the camera ran; None without a meter
    memory: list[tuple[float, int]] = field(default_factory=list)  # (seconds, bytes) while the camera ran

    def answers(self) -> dict[int, str]:
        """Question number → the (first) answer."""
        return {request.question: request.answer for request in reversed(self.requests)}

    def values(self, phase: str) -> list[float]:
        """Seconds of a phase, in the order of time."""
        found = (request.phase(phase) for request in self.requests)
        return [seconds for seconds in found if seconds is not None]


@dataclass
class Bench:
    """A whole run."""

    settings: Settings
    questions: Sequence[Question]
    data: Path  # the questions' file
    title: str  # the run's name, or empty
    measurements: dict[str, Measurement]  # by name, the reference first
    reference: str = ""  # the name of the variant that the others are compared with
    machine: dict[str, Any] = field(default_factory=dict)  # see machine.py
    conditions: dict[str, Any] = field(default_factory=dict)  # see machine.py
    energy: str | None = None  # the meter's name
    text: TextReference | None = None  # what the reference made of the package's text; None: it wasn't asked
    left_out: dict[int, str] = field(default_factory=dict)  # question number → why a variant couldn't be asked it
    interrupted: bool = False
    created: str = ""  # UTC

    def leave_out(self, question: int, reason: str) -> None:
        """What can't be asked of one variant counts for none."""
        self.left_out[question] = reason
        for each in self.measurements.values():
            each.requests = [request for request in each.requests if request.question != question]
            if each.divergences:
                each.divergences.leave_out(question)

    def answered(self) -> Iterator[Measurement]:
        """Those with results."""
        return (each for each in self.measurements.values() if each.requests or (each.camera and each.camera.answered))

    def failures(self) -> list[str]:
        """A line for each thing that went wrong."""
        lines = [f"{each.name}: {each.error}" for each in self.measurements.values() if each.error]
        whose = " for every variant" if self.settings.scenario == SINGLE else ""
        for index, reason in list(self.left_out.items())[:_TOLD]:
            lines.append(f"question {self.questions[index].id} was left out{whose}: {reason}")
        if (more := len(self.left_out) - _TOLD) > 0:
            lines.append(f"{more} more questions were left out.")
        for each in self.measurements.values():
            if (growth := judge_growth(each.memory))["verdict"] == "leak":
                lines.append(
                    f"{each.name}: its memory grew by {growth['growth'] / 1e6:.1f} MB in "
                    f"{growth['seconds'] / 60:.1f} minutes and doesn't stop."
                )
        return lines


def summarise_bench(bench: Bench) -> dict[str, Any]:
    """The contents of bench.json; docs/bench.md tells its form."""
    return {
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
    }


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
