"""A checkpoint that answers questions about pictures, many at a time."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.endings import end_token_ids
from switchkd.data.questions import Question
from switchkd.errors import CheckpointError, DataError
from switchkd.models.compatibility import check_compatibility
from switchkd.models.environment import quiet
from switchkd.models.vlm import load_vlm
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt


class Answerer:
    """A checkpoint that answers questions greedily, many at a time.

    Args:
        folder: the checkpoint.
        device: where it runs; by default the graphics processor where there is one.
        tower: another checkpoint, whose vision tower it looks through: the switch's pathway (paper, equation 5).

    Raises:
        CheckpointError: one of them isn't a usable LLaVA checkpoint, or nothing says which token ends an answer.
        CompatibilityError: the other's tower gives features that this one can't take.
    """

    def __init__(self, folder: Path, device: str | None = None, *, tower: Path | None = None):
        quiet()
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.vlm = load_vlm(folder).eval()
        if tower is not None:
            check_compatibility(folder, tower)
            other = load_vlm(tower).eval()
            self.vlm.model.vision_tower = other.model.vision_tower.to(self.vlm.dtype)
            for setting in ("vision_feature_layer", "vision_feature_select_strategy"):
                setattr(self.vlm.config, setting, getattr(other.config, setting))
        self.vlm.to(self.device)
        self.prompt, self.preprocess = ChatPrompt.load(folder), Preprocess.load(folder)
        self._context: int = self.vlm.config.text_config.max_position_embeddings
        self._image_tokens = Architecture.read(folder).image_tokens
        ends = sorted(end_token_ids(folder, self.prompt))
        if not ends:
            raise CheckpointError(
                f"{folder} names no token that ends an answer: set eos_token in tokenizer_config.json, "
                "or eos_token_id in generation_config.json."
            )
        self.cut = 0  # answers so far that a limit ended
        self._ends, self._pad = frozenset(ends), ends[0]  # padding is masked, so that any will do
        # Greedy as the engines are: a checkpoint's own settings (a repetition penalty …) would answer otherwise.
        self.vlm.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=self._pad)

    @torch.inference_mode()
    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order.

        Raises:
            DataError: a picture that can't be used, or a question that is too long with its answer.
        """
        batch = self._batch(questions)
        longest = batch["input_ids"].shape[1] + max_new_tokens
        if longest > self._context:
            raise DataError(
                f"A question takes {longest} tokens with its answer; the model was made for {self._context}."
            )
        generated = self.vlm.generate(**batch, max_new_tokens=max_new_tokens)[:, batch["input_ids"].shape[1] :]
        self.cut += sum(self._ends.isdisjoint(ids) for ids in generated.tolist())
        # An end token isn't always a special one, whose text goes of itself.
        answers = [takewhile(lambda token: token not in self._ends, ids) for ids in generated.tolist()]
        return [self.prompt.decode([*ids]).strip() for ids in answers]

    def _batch(self, questions: list[Question]) -> dict[str, Any]:
        rows = [
            self.prompt.encode(question.messages, image_tokens=self._image_tokens, add_generation_prompt=True).ids
            for question in questions
        ]
        longest = max(map(len, rows))
        # Padded on the left: generation goes on at the right end.
        ids = torch.tensor([[self._pad] * (longest - len(row)) + row for row in rows])  # [B, T]
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        batch = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        pictures = [self.preprocess(open_image(path)) for question in questions for path in question.images]
        if pictures:
            batch["pixel_values"] = torch.from_numpy(np.stack(pictures)).to(self.device, self.vlm.dtype)
        return batch
