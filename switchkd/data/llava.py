"""A LLaVA file as training samples and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from switchkd.data.index import Index, RecordFile, Source
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import Record, picture_path, read_record
from switchkd.errors import DataError
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess

IGNORED = -100  # the label that no loss counts


class LlavaDataset(Dataset[dict[str, Any]]):
    """The usable records of an indexed file. Records and pictures are read when they are asked for.

    A sample is
        input_ids     int64 [T], each picture as its image tokens
        labels        int64 [T], the ids where the assistant speaks (its end of turn included), −100 elsewhere
        pixel_values  float32 [I, 3, H, W], its pictures in their order, or None for a record of text only
        length        T
        bad           1 if one of its pictures broke after it was indexed, else 0

    Such a broken picture never stops a training: the sample keeps its ids, gets a black picture there and nothing to learn.

    Raises:
        CheckpointError: the chat template marks no answers.
    """

    def __init__(self, source: Source, index: Index, preprocess: Preprocess) -> None:
        source.prompt.require_answer_marks()
        rows = index.usable
        self.lengths: NDArray[np.int32] = index.tokens[rows]  # [N] tokens of each sample
        self._offset, self._size = index.offset[rows], index.size[rows]
        self._source, self._preprocess = source, preprocess
        self._file = RecordFile(source.file)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, item: int) -> dict[str, Any]:
        try:
            record = read_record(self._file.read(int(self._offset[item]), int(self._size[item])))
        except BadRecordError as error:
            raise DataError(f"{self._source.file} has changed since it was indexed: {error}; start again.") from error
        encoded = self._source.prompt.encode(record.messages, image_tokens=self._source.image_tokens, labels=True)
        pixels, bad = self._read_pixels(record)
        ids = torch.tensor(encoded.ids)
        answer = torch.tensor(encoded.answer_mask, dtype=torch.bool)
        return {
            "input_ids": ids,
            "labels": torch.full_like(ids, IGNORED) if bad else ids.masked_fill(~answer, IGNORED),
            "pixel_values": pixels,
            "length": len(ids),
            "bad": int(bad),
        }

    def _read_pixels(self, record: Record) -> tuple[Tensor | None, bool]:
        """(pixel_values, whether a picture is broken)"""
        if not record.images:
            return None, False
        pixels = torch.zeros(len(record.images), 3, self._preprocess.height, self._preprocess.width)
        bad = False
        for place, name in enumerate(record.images):
            try:
                path = picture_path(self._source.images, name, follow_links=self._source.follow_links)
                pixels[place] = torch.from_numpy(self._preprocess(open_image(path)))
            except (BadRecordError, DataError):
                bad = True
        return pixels, bad


class Collator:
    """Samples of LlavaDataset as one batch, padded on the right.

    A batch is
        input_ids       int64 [B, T]
        attention_mask  int64 [B, T], 0 on padding
        labels          int64 [B, T], −100 on padding
        pixel_values    float32 [I, 3, H, W], the samples' pictures in their order; absent where there is none
        bad             int64 [], samples whose picture broke
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = torch.tensor([sample["length"] for sample in samples])
        ids = _pad([sample["input_ids"] for sample in samples], self._pad_token_id)
        batch = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "labels": _pad([sample["labels"] for sample in samples], IGNORED),
            "bad": torch.tensor(sum(sample["bad"] for sample in samples)),
        }
        pictures = [sample["pixel_values"] for sample in samples if sample["pixel_values"] is not None]
        return batch | ({"pixel_values": torch.cat(pictures)} if pictures else {})


def _pad(rows: list[Tensor], value: int) -> Tensor:
    """Rows [T_i] as one [B, T]."""
    return pad_sequence(rows, batch_first=True, padding_value=value)
