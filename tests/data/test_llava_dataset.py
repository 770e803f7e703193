"""Samples and batches: labels next to transformers, pictures that break later, memory."""

from __future__ import annotations

import json

import numpy as np
import psutil
import pytest
import torch
from support.llava_files import IMAGE_TOKENS, car, turns
from torch.utils.data import DataLoader

from switchkd.data.index import build_index
from switchkd.data.llava import IGNORED, Collator, LlavaDataset
from switchkd.data.reasons import Reason
from switchkd.errors import CheckpointError, DataError
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

PREPROCESS = Preprocess(28, 28, None, 3, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RECORDS = [
    car(conversations=turns("<image>\nWhat?", "A car.", "Which colour?", "Red é 🚗\n", system="Be brief.")),
    {"id": "text", "conversations": turns("2 + 2?", "4")},
    {"id": "bad"},
    car(image="sub/sign.jpg", conversations=turns("Look:\n<image>\nAnd?", "A sign <|im_end|>.")),
]


@pytest.fixture
def source(make_source):
    return make_source(RECORDS)


@pytest.fixture
def dataset(source):
    return LlavaDataset(source, build_index(source), PREPROCESS)


def test_samples_are_the_usable_records(dataset, source, images):
    assert len(dataset) == 3
    for sample, name in zip((dataset[n] for n in range(3)), ("car.png", None, "sub/sign.jpg"), strict=True):
        ids, labels = sample["input_ids"], sample["labels"]
        assert (ids.dtype, labels.dtype, ids.shape) == (torch.int64, torch.int64, labels.shape)
        assert int((ids == source.prompt.image_token_id).sum()) == (IMAGE_TOKENS if name else 0)
        assert sample["bad"] == 0
        if name:
            np.testing.assert_array_equal(sample["pixel_values"][0].numpy(), PREPROCESS(open_image(images / name)))
        else:
            assert sample["pixel_values"] is None
    assert (
        [dataset[n]["length"] for n in range(3)]
        == dataset.lengths.tolist()
        == [len(dataset[n]["input_ids"]) for n in range(3)]
    )


def test_labels_are_the_answers_and_their_ends(dataset, source):
    learned = [
        source.prompt.decode(s["labels"][s["labels"] != IGNORED].tolist(), skip_special_tokens=False) for s in dataset
    ]
    assert learned == ["A car.<|im_end|>Red é 🚗\n<|im_end|>", "4<|im_end|>", "A sign <|im_end|>.<|im_end|>"]
    for sample in dataset:
        kept = sample["labels"] != IGNORED
        assert torch.equal(sample["labels"][kept], sample["input_ids"][kept])


def test_labels_equal_the_masks_of_transformers(dataset, source):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=source.prompt.tokenizer)
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=source.prompt.template, return_dict=True, return_assistant_tokens_mask=True
    )
    sample = dataset[1]
    assert sample["input_ids"].tolist() == expected["input_ids"]
    assert (sample["labels"] != IGNORED).long().tolist() == expected["assistant_masks"]


def test_the_picture_stands_where_its_marker_stood(dataset, source):
    text = source.prompt.decode(dataset[2]["input_ids"].tolist(), skip_special_tokens=False)
    assert "user\nLook:\n" + "<|image_pad|>" * IMAGE_TOKENS + "\nAnd?<|im_end|>" in text


@pytest.mark.parametrize("damage", ["gone", "torn", "linked out"])
def test_a_picture_that_breaks_later_teaches_nothing_and_is_counted(dataset, images, tmp_path, damage):
    whole = dataset[0]
    path = images / "car.png"
    data = path.read_bytes()
    path.unlink()
    if damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "linked out":
        (tmp_path / "secret.png").write_bytes(data)
        path.symlink_to(tmp_path / "secret.png")
    broken = dataset[0]
    assert torch.equal(broken["input_ids"], whole["input_ids"])
    assert (broken["labels"] == IGNORED).all() and broken["bad"] == 1
    assert torch.equal(broken["pixel_values"], torch.zeros(1, 3, 28, 28))
    batch = Collator(0)([dataset[n] for n in range(3)])
    assert int(batch["bad"]) == 1 and (batch["labels"] != IGNORED).any()


def test_batches_are_padded_on_the_right(dataset, source):
    samples = [dataset[n] for n in (1, 0, 2)]
    batch = Collator(pad_token_id=7)(samples)
    longest = max(dataset.lengths)
    for row, sample in enumerate(samples):
        length = sample["length"]
        assert torch.equal(batch["input_ids"][row, :length], sample["input_ids"])
        assert torch.equal(batch["labels"][row, :length], sample["labels"])
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
        assert (batch["input_ids"][row, length:] == 7).all() and (batch["labels"][row, length:] == IGNORED).all()
    assert torch.equal(batch["pixel_values"], torch.cat([samples[1]["pixel_values"], samples[2]["pixel_values"]]))
    assert int((batch["input_ids"] == source.prompt.image_token_id).sum()) == IMAGE_TOKENS * len(batch["pixel_values"])
    assert all(batch[name].dtype == torch.int64 for name in ("input_ids", "attention_mask", "labels", "bad"))


def test_a_batch_of_text_has_no_pixels(dataset):
    assert set(Collator(0)([dataset[1]])) == {"input_ids", "attention_mask", "labels", "bad"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_give_the_same(dataset, method):
    loader = DataLoader(dataset, 2, collate_fn=Collator(0), num_workers=2, multiprocessing_context=method)
    for batch, expected in zip(loader, DataLoader(dataset, 2, collate_fn=Collator(0)), strict=True):
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_a_file_that_changed_is_an_error(dataset, source):
    source.file.write_text(" " * source.file.stat().st_size)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        dataset[0]
    source.file.write_text("[]")
    with pytest.raises(DataError, match="shorter"):
        dataset[0]


def test_a_template_without_labels_is_an_error(make_source, dataset, source):
    prompt = ChatPrompt(source.prompt.tokenizer, "x", source.prompt.image_token_id)
    with pytest.raises(CheckpointError, match="generation"):
        LlavaDataset(make_source(RECORDS, prompt=prompt), build_index(source), PREPROCESS)


def test_memory_does_not_grow_with_the_file(make_source):
    """20,000 records of 3 kB: 60 MB of text. Without a picture for their marker, so that no time goes into tokens."""
    source = make_source([])
    with source.file.open("w") as stream:
        for n in range(20_000):
            record = {"id": n, "conversations": turns(f"<image>{n} " + "x" * 1500, "y" * 1500)}
            stream.write((",\n" if n else "[") + json.dumps(record))
        stream.write("]")
    process = psutil.Process()
    build_index(make_source([car()], "warm.json"))
    before = process.memory_info().rss
    index = build_index(source)
    dataset = LlavaDataset(source, index, PREPROCESS)
    assert len(dataset) == 0 and set(index.reason.tolist()) == {Reason.IMAGE_MARKER}
    assert process.memory_info().rss - before < 20 << 20
    assert sum(array.nbytes for array in vars(index).values()) == 21 * 20_000
