"""Answers of a checkpoint to questions about pictures, and how many are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from switchkd.data.questions import Question
from switchkd.models.environment import quiet
from switchkd.models.layout import image_tokens, read_layout
from switchkd.models.vlm import load_vlm
from switchkd.preprocess import Preprocess, open_image
from switchkd.prompt import ChatPrompt
from switchkd.scoring import Score, is_right, score_by_kind


class Answerer:
    """A checkpoint that answers questions greedily, many at a time."""

    def __init__(self, folder: Path, device: str | None = None):
        quiet()
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.vlm = load_vlm(folder).to(self.device).eval()
        self.prompt, self.preprocess = ChatPrompt.load(folder), Preprocess.load(folder)
        self._image_tokens = image_tokens(read_layout(folder))
        self._end = [token for name in ("eos_token", "pad_token") if (token := self.prompt.token_id(name)) is not None]

    @torch.inference_mode()
    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order."""
        batch = self._batch(questions)
        generated = self.vlm.generate(
            **batch,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._end,
            pad_token_id=self._end[-1],
        )[:, batch["input_ids"].shape[1] :]
        return [self.prompt.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in generated.tolist()]

    def _batch(self, questions: list[Question]) -> dict[str, Any]:
        rows = [
            self.prompt.encode(question.messages, image_tokens=self._image_tokens, add_generation_prompt=True).ids
            for question in questions
        ]
        longest = max(map(len, rows))
        # Padded on the left: generation goes on at the right end.
        ids = torch.tensor([[self._end[-1]] * (longest - len(row)) + row for row in rows])  # [B, T]
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        batch = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        pictures = [self.preprocess(open_image(question.image)) for question in questions if question.image]
        if pictures:
            batch["pixel_values"] = torch.from_numpy(np.stack(pictures)).to(self.device, self.vlm.dtype)
        return batch


def answer_all(
    answerer: Answerer,
    questions: list[Question],
    console: Console,
    *,
    title: str,
    batch_size: int = 64,
    max_new_tokens: int = 16,
) -> list[str]:
    """Answers to all questions with a progress bar, batches of similar length together."""
    order = sorted(range(len(questions)), key=lambda index: len(str(questions[index].messages)))
    answers = [""] * len(questions)
    batches = list(_chunks(order, batch_size))
    for chunk in track(batches, description=title, console=console, disable=not console.is_terminal, transient=True):
        texts = answerer.answer([questions[index] for index in chunk], max_new_tokens=max_new_tokens)
        for index, text in zip(chunk, texts, strict=True):
            answers[index] = text
    return answers


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def score_answers(questions: list[Question], answers: list[str]) -> dict[str, Score]:
    """Exact-match accuracy by kind after VQA's normalisation."""
    right = [is_right(answer, question.answer) for question, answer in zip(questions, answers, strict=True)]
    return score_by_kind([question.kind for question in questions], right)
