"""What a bench measures: its settings, and for each variant everything that was seen of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switchkd.data.questions import Question
from switchkd.hardware.profile import Profile
from switchkd.runtime.bench.limits import LIMITS
from switchkd.runtime.bench.memory import judge_growth
from switchkd.runtime.bench.quality import Divergences
from switchkd.runtime.bench.reading import Readings, TextReference
from switchkd.runtime.bench.scenario import CameraLog
from switchkd.runtime.bench.statistics import SAMPLES_NEEDED

SINGLE, CAMERA = "single", "camera"
# Scenario → the settings that are its own.
OWN_SETTINGS = {
    SINGLE: ("questions", "seconds", "warm_up", "divergence", "sequential", *LIMITS, "target"),
    CAMERA: ("rate", "minutes"),
}
YARDSTICKS = ("teacher", "blind")  # of a run's accuracy.json: what accuracies of its test split lie between
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
    # What each export has to hold; None: no limit. See limits.py.
    max_loss: float | None  # points of accuracy against the reference
    max_ms: float | None  # median of a whole answer
    max_mb: float | None  # weights
    target: str | None  # another computer that speeds are predicted for


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
    profile: Profile | None = None  # of `settings.target`
    yardsticks: dict[str, float] = field(
        default_factory=dict
    )  # teacher, blind … → share of this file's questions answered right
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
