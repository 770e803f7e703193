"""Proof that an export is its checkpoint: stage by stage for the unquantized build, by divergence for the quantized one.

The reference is a PyTorch forward of the checkpoint in float32. Stages, in a request's order:

    pixels     [3, H, W]  what the tower reads; the reference is transformers' own image processor
    features   [P, W_v]   what the projector reads
    projected  [P, W]     what stands in the prompt for the picture; several pictures' one behind the other, in all three
    logits     [T, V]     after every position of the prompt
    greedy                the answer's tokens, one by one through the key-value cache

An error is ‖x − reference‖ / ‖reference‖ over all values of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from switchkd.errors import CheckpointError, SkdError
from switchkd.export.samples import Sample
from switchkd.runtime.bench.divergence import divergence, log_softmax, summarise_divergence
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.pytorch import quiet_transformers
from switchkd.scoring import is_right

Floats = NDArray[np.float32]
ANSWER_TOKENS = 16
# Two logits closer than this many tolerances of the row's size may change places without being an error.
_TIE = 4.0


class ParityError(SkdError):
    """An export that differs from its checkpoint; names the first stage that is off."""


@dataclass(frozen=True)
class Reference:
    """What the checkpoint does with a sample."""

    sample: Sample
    ids: list[int]  # the prompt [T]
    stages: dict[str, Floats]  # "pixels", "features", "projected"; empty for text alone
    logits: Floats | None  # [T, V], or None where only the answer is compared
    answer: list[int]  # greedy tokens [A], the end token included; or those that it drew
    rows: Floats  # [A, V] logits from which those were chosen


def refer_all(engine: Engine, checkpoint: Path, samples: Sequence[Sample], *, every: int) -> list[Reference]:
    """What a checkpoint, opened in PyTorch, does with samples.

    Args:
        every: how many of the samples keep all stages and the logits of every position; the rest only the answer's.
    """
    pixels = _reference_pixels(checkpoint)
    return [_refer(engine, sample, pixels, whole=index < every) for index, sample in enumerate(samples)]


def write_freely(engine: Engine, sample: Sample, tokens: int, seed: int) -> Reference:
    """What a checkpoint writes by itself when it is shown a picture: drawn from its own distributions, from where the user's
    words would begin.

    Args:
        sample: its first picture is shown, its words aren't.
        tokens: written, the end of a turn notwithstanding; fewer where the context ends.

    Raises:
        CheckpointError: it computes values that aren't finite.
    """
    random = np.random.default_rng(seed)
    features = engine.encode_images(sample.images()[:1])
    ids = engine.prompt.encode_opening(image_tokens=engine.image_tokens)
    text: list[int] = []
    rows: list[Floats] = []
    row = engine.prefill(ids, features)
    for _ in range(min(tokens, engine.language.context - len(ids))):
        if text:
            row = engine.next_token(text[-1])
        if not np.isfinite(row).all():
            raise CheckpointError("The checkpoint's logits aren't finite; its weights are damaged.")
        chances = np.exp(log_softmax(row))
        chances[engine.prompt.image_token_id :][:1] = 0  # no picture stands behind it
        rows.append(row)
        text.append(int(random.choice(len(chances), p=chances / chances.sum())))
    return Reference(sample, ids, {}, None, text, np.stack(rows))


def check_stages(engine: Engine, references: Sequence[Reference], tolerance: Mapping[str, float]) -> dict[str, Any]:
    """Compares an unquantized build with the checkpoint.

    Args:
        engine: made with `traced`.
        references: those with all stages are compared in all, the others from "greedy" on.
        tolerance: stage → largest error; a stage that the format doesn't show is left out.

    Returns:
        Errors by stage (the worst of all samples), tokens compared and near ties that fell the other way.

    Raises:
        ParityError: with the first stage that is off.
    """
    errors: dict[str, float] = {}
    tokens = ties = 0
    for reference in references:
        if reference.logits is None:
            features = engine.encode_images(reference.sample.images())
        else:
            features = _compare_stages(engine, reference, tolerance, errors)
        rows = answer_rows(engine, reference, features)
        for position, wanted in enumerate(reference.answer):
            tokens += 1
            if int(rows[position].argmax()) != wanted:
                _require_tie(reference, rows, position, tolerance["logits"])
                ties += 1
    missing = [stage for stage in tolerance if stage not in errors]
    if missing:
        raise ParityError(f"The export can't be proved: no probe shows its {missing[0]}.")
    return {"error": errors, "tolerance": dict(tolerance), "tokens": tokens, "ties": ties}


def measure_loss(engine: Engine, references: Sequence[Reference]) -> dict[str, Any]:
    """How far a build's answers are from the checkpoint's.

    Returns:
        As `summarise_divergence` of the next-token distributions along the checkpoint's answers, "probes"; and where expected
        answers are known, "questions", "accuracy" and "reference_accuracy".
    """
    divergences: list[float] = []
    agreed: list[bool] = []
    right: list[tuple[bool, bool]] = []  # the checkpoint's answer, the build's
    for reference in references:
        features = engine.encode_images(reference.sample.images())
        rows = answer_rows(engine, reference, features)
        divergences += divergence(reference.rows, rows).tolist()
        same = rows.argmax(-1) == reference.rows.argmax(-1)
        agreed += same.tolist()
        if reference.sample.answer is not None:
            own = reference.answer
            if not same.all():
                own = list(engine.tokens(reference.ids, features, max_new_tokens=ANSWER_TOKENS))
            right.append((_is_right(engine, reference, reference.answer), _is_right(engine, reference, own)))
    report = summarise_divergence(divergences, agreed) | {"probes": len(references)}
    if right:
        reference_right, own_right = np.mean(right, axis=0)
        report |= {
            "questions": len(right),
            "accuracy": float(own_right),
            "reference_accuracy": float(reference_right),
        }
    return report


def answer_rows(engine: Engine, reference: Reference, features: Floats | None) -> Floats:
    """The engine's logits [A, V] along the checkpoint's own answer, with the engine's own features of the picture."""
    return np.stack(list(engine.follow(reference.ids, reference.answer, features)))


def relative_error(value: Floats, reference: Floats) -> float:
    """‖value − reference‖ / ‖reference‖ over all values; infinite for another shape."""
    if value.shape != reference.shape:
        return float("inf")
    norm = float(np.linalg.norm(reference.ravel())) or 1.0
    return float(np.linalg.norm((value - reference).ravel())) / norm


def _refer(engine: Engine, sample: Sample, pixels: Any, *, whole: bool) -> Reference:
    images = sample.images()
    stages = _trace(engine, images)
    features = stages.get("projected")
    if images:
        stages["pixels"] = np.concatenate([pixels(image) for image in images])
    ids = engine.encode_prompt(sample.messages)
    logits = engine.language.prefill(ids, features, every=True) if whole else None
    row = engine.prefill(ids, features) if logits is None else logits[-1]
    answer: list[int] = []
    rows: list[Floats] = []
    while True:
        rows.append(row)
        answer.append(int(row.argmax()))
        if answer[-1] in engine.end_tokens or len(answer) == ANSWER_TOKENS:
            break
        row = engine.next_token(answer[-1])
    return Reference(sample, ids, stages if whole else {}, logits, answer, np.stack(rows))


def _reference_pixels(checkpoint: Path) -> Any:
    """Picture → pixels by transformers' own image processor, which nothing else here uses."""
    from transformers import AutoImageProcessor

    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(checkpoint, local_files_only=True, backend="pil")
    return lambda image: np.asarray(processor(images=image)["pixel_values"][0], np.float32)


def _compare_stages(
    engine: Engine, reference: Reference, tolerance: Mapping[str, float], errors: dict[str, float]
) -> Floats | None:
    """Records the errors of all stages; the engine's own features of the pictures [I·P, W]."""
    own = _trace(engine, reference.sample.images())
    for stage, expected in reference.stages.items():
        if stage in tolerance:  # a format may not show every stage
            error = relative_error(own[stage], expected) if stage in own else float("nan")
            _record(stage, error, tolerance, errors)
    logits = engine.language.prefill(reference.ids, own.get("projected"), every=True)
    assert reference.logits is not None
    _record("logits", relative_error(logits, reference.logits), tolerance, errors)
    return own.get("projected")


def _record(stage: str, error: float, tolerance: Mapping[str, float], errors: dict[str, float]) -> None:
    errors[stage] = max(errors.get(stage, 0.0), error)
    if not error <= tolerance[stage]:  # NaN is an error too
        raise ParityError(
            f"The export differs from its checkpoint, first in its {stage}: "
            f"relative error {error:.2g}, allowed {tolerance[stage]:.2g}."
        )


def _require_tie(reference: Reference, rows: Floats, position: int, tolerance: float) -> None:
    row = reference.rows[position]
    margin = float(row.max() - row[int(rows[position].argmax())])
    allowed = _TIE * tolerance * float(np.sqrt(np.mean(np.square(row))))
    if not margin <= allowed:
        raise ParityError(
            f"The export differs from its checkpoint, first in its greedy tokens: token {position + 1} of an answer "
            f"is another one, by a margin of {margin:.2g} where {allowed:.2g} is allowed."
        )


def _trace(engine: Engine, images: Sequence[Image]) -> dict[str, Floats]:
    """What `VisionEncoder.trace` has of each picture, one behind the other; nothing where there is none."""
    traces = [engine.vision.trace(engine.preprocess.resize(image)) for image in images]
    return {stage: np.concatenate([each[stage] for each in traces]) for stage in traces[0]} if traces else {}


def _is_right(engine: Engine, reference: Reference, ids: Sequence[int]) -> bool:
    return is_right(engine.prompt.decode(ids), reference.sample.answer or "")
