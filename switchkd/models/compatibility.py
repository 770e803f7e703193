"""Whether a student can be distilled from a teacher, found out before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from switchkd.architecture.architecture import Architecture
from switchkd.errors import CompatibilityError
from switchkd.preprocess import Preprocess


def check_compatibility(teacher: Path, student: Path) -> None:
    """Checks tokens, image tokens, vision width and preprocessing of two LLaVA folders.

    Equal tokenizers with different numbers of embedding rows are compatible: rows beyond the tokenizer are padding.

    Raises:
        CompatibilityError: what differs, and what to do.
        CheckpointError: a folder is none of LLaVA, or the student reads a feature layer that no block makes.
    """
    _check_tokens(_vocabulary(teacher), _vocabulary(student), teacher, student)
    ours = Architecture.read(student)
    _ = ours.used_layers  # refuses a layer that isn't there
    _check_vision(Architecture.read(teacher), ours)
    if Preprocess.load(teacher) != Preprocess.load(student):
        raise CompatibilityError(
            "Teacher and student prepare pictures differently (size, filter, mean or deviation), but they look at the "
            "same pixels while distilling; start the student from the same vision checkpoint family as the teacher's."
        )


def _vocabulary(folder: Path) -> dict[str, int]:
    try:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = dict(content["model"]["vocab"])
        vocabulary.update({token["content"]: token["id"] for token in content.get("added_tokens", [])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompatibilityError(f"{folder} has no readable tokenizer.json.") from error
    return vocabulary


def _check_tokens(theirs: dict[str, int], ours: dict[str, int], teacher: Path, student: Path) -> None:
    # Image placeholders may have other names and places: their embeddings are replaced by features.
    differing = {token for token, _ in set(theirs.items()) ^ set(ours.items())} - {"<image>", "<|image_pad|>"}
    if differing:
        raise CompatibilityError(
            f"The tokenizers differ in {len(differing)} tokens (one is {sorted(differing)[0]!r}): logits of {teacher} and "
            f"{student} can't be compared; take a teacher and a student language model of the same family."
        )


def _check_vision(theirs: Architecture, ours: Architecture) -> None:
    if theirs.feature_width != ours.feature_width:
        raise CompatibilityError(
            f"The teacher's projector reads vision features of width {theirs.feature_width}, the student's tower gives "
            f"{ours.feature_width}; the switch needs equal widths: take the same tower architecture."
        )
    if theirs.image_tokens != ours.image_tokens:
        raise CompatibilityError(
            f"A picture is {theirs.image_tokens} tokens for the teacher and {ours.image_tokens} for the student; the "
            "switch needs equal numbers: take the same picture size, patch size and feature selection, and projectors that make "
            "equally many."
        )
    if theirs.read_tokens != ours.read_tokens:
        raise CompatibilityError(
            f"The teacher's projector reads {theirs.read_tokens} of the tower's tokens, the student's {ours.read_tokens}; the "
            "switch needs equal numbers: take the same picture size, patch size and feature selection."
        )


def towers_equal(teacher: nn.Module, student: nn.Module) -> bool:
    """Whether two vision towers hold the same weights, in the teacher's precision: then the visual-switch term starts at zero."""
    ours, theirs = student.state_dict(), teacher.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == tensor.shape and torch.equal(ours[name].to(tensor.dtype).cpu(), tensor.cpu())
        for name, tensor in theirs.items()
    )
