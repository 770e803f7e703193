"""Weights and tokenizers in every form of file that sources bring; and what is written, one tensor at a time."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from support.checkpoints import shard
from support.foreign import QWEN, SIGLIP, factory_tensors, random_model, write_factory
from support.sentencepiece_model import small_sentencepiece
from support.tokenizers import small_tokenizer

from switchkd.architecture.weights import weight_files
from switchkd.cli.main import main
from switchkd.errors import CheckpointError
from switchkd.importing.stored import stored_tensors
from switchkd.importing.words import IMAGE, add_image_token, read_words
from switchkd.importing.writer import Entry, write_weights
from switchkd.models.tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def model():
    return random_model(SIGLIP, QWEN)


def assert_held(folder, model) -> None:
    found = stored_tensors(folder)
    expected = factory_tensors(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape) and torch.equal(found[name].load(), tensor)


def test_shards_of_safetensors(model, tmp_path):
    source = write_factory(tmp_path / "source", model)
    shard(source)
    assert_held(source, model)


def test_shards_of_pickles(model, tmp_path):
    tensors = factory_tensors(model)
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, half in halves.items():
        torch.save({name: tensors[name] for name in half}, tmp_path / file)
    placed = {name: file for file, half in halves.items() for name in half}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    assert_held(tmp_path, model)


def test_pickles_of_the_older_form(model, tmp_path):
    torch.save(factory_tensors(model), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_held(tmp_path, model)


def test_safetensors_are_preferred_to_pickles(model, tmp_path):
    source = write_factory(tmp_path / "source", model)
    (source / "pytorch_model.bin").write_bytes(b"anything")
    assert_held(source, model)


def test_integers_are_no_weights(tmp_path):
    torch.save({"a": torch.ones(2), "position_ids": torch.arange(3)}, tmp_path / "pytorch_model.bin")
    assert [*stored_tensors(tmp_path)] == ["a"]


def entry(name: str, tensor: torch.Tensor) -> Entry:
    return Entry(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)


def test_written_tensors_are_read_back_by_safetensors(tmp_path):
    made = {
        "single": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "brain": torch.randn(2, 3, 4).bfloat16().transpose(0, 1),
        "number": torch.tensor(2.5),
    }
    write_weights([entry(name, tensor) for name, tensor in made.items()], tmp_path, lambda _: None)
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in made.items()) and found.keys() == made.keys()


def test_large_models_become_shards(tmp_path):
    made = {f"tensor{number}": torch.randn(100) for number in range(7)}
    write_weights([entry(name, tensor) for name, tensor in made.items()], tmp_path, lambda _: None, limit=900)
    files = weight_files(tmp_path)
    assert len(files) == 4
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in made.items())


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    alive: list[weakref.ref] = []

    def load() -> torch.Tensor:
        assert all(reference() is None for reference in alive[:-1])
        tensor = torch.zeros(1000)
        alive.append(weakref.ref(tensor))
        return tensor

    write_weights([Entry(f"t{n}", torch.float32, (1000,), load) for n in range(5)], tmp_path, lambda _: None)
    assert len(alive) == 5


def test_a_tensor_that_changed_meanwhile_is_refused(tmp_path):
    wrong = Entry("a", torch.float32, (3,), lambda: torch.ones(4))
    with pytest.raises(CheckpointError, match="not as its file says"):
        write_weights([wrong], tmp_path, lambda _: None)


def test_qwens_slow_tokenizer(tmp_path):
    """vocab.json and merges.txt, as a tokenizer that isn't a fast one is saved."""
    small = json.loads(small_tokenizer().to_str())
    added = {token["content"] for token in small["added_tokens"]}
    vocabulary = {token: number for token, number in small["model"]["vocab"].items() if token not in added}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in small["model"]["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    )
    words = read_words(tmp_path)
    text = "Grüße aus Köln, 2 red cars"
    assert words.origin == "vocab.json and merges.txt"
    assert words.tokenizer.encode(text).ids == small_tokenizer().encode(text).ids


def test_added_tokens_beside_a_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(small_sentencepiece())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<im_patch>": 420}))
    words = read_words(tmp_path)
    assert words.tokenizer.token_to_id("<im_patch>") == 420 and words.special["pad_token"] == "<unk>"
    assert add_image_token(words, None) == 421 and words.length == 422
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<im_patch>": 430}))
    with pytest.raises(CheckpointError, match="leaves a gap"):
        read_words(tmp_path)


def test_a_tokenizer_with_an_image_token_keeps_it(tmp_path):
    save_tokenizer(small_tokenizer(), tmp_path)
    words = read_words(tmp_path)
    number = add_image_token(words, None)
    assert add_image_token(words, None) == number == words.tokenizer.token_to_id(IMAGE)
    words.save(tmp_path)
    again = read_words(tmp_path)
    assert again.tokenizer.to_str() == words.tokenizer.to_str() and again.special == words.special


def test_a_newer_row_follows_the_others(model, tmp_path):
    """Where the tokenizer has as many tokens as the model rows, a row is added; the others stay."""
    rows = small_tokenizer().get_vocab_size()
    full = random_model(SIGLIP, QWEN | {"vocab_size": rows})
    source = write_factory(tmp_path / "source", full)
    save_tokenizer(small_tokenizer(), source)
    result = CliRunner().invoke(main, ["import", str(source), str(tmp_path / "target")])
    assert result.exit_code == 0 and "a new row" in result.output, result.output
    embedding = load_file(tmp_path / "target" / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert torch.equal(embedding[:-1], full.language["model.embed_tokens.weight"]) and len(embedding) == rows + 1
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == rows + 1 and config["image_token_index"] == rows
