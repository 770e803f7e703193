"""Prompts out of folders, as checkpoints of several ages keep them; and folders that don't say enough."""

from __future__ import annotations

import json
import pickle

import pytest
from support.tokenizers import small_tokenizer, write_prompt_files

from switchkd.chat_template import shipped_template
from switchkd.errors import CheckpointError
from switchkd.prompt import ChatPrompt

TURNS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture? 你好"}]},
    {"role": "assistant", "content": "A red car."},
]


def test_load_and_pickle_give_the_same_prompt(prompt, tmp_path):
    loaded = ChatPrompt.load(write_prompt_files(tmp_path))
    expected = prompt.encode(TURNS, image_tokens=9)
    for other in (loaded, pickle.loads(pickle.dumps(loaded))):
        assert other.encode(TURNS, image_tokens=9) == expected
        assert other.fingerprint == prompt.fingerprint
        assert (other.image_token, other.token_id("pad_token")) == ("<|image_pad|>", prompt.token_id("pad_token"))
    assert loaded.length == max(prompt.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    assert loaded.token_id("bos_token") is None


def test_length_counts_to_the_highest_id(tmp_path):
    write_prompt_files(tmp_path)
    file = tmp_path / "tokenizer.json"
    value = json.loads(file.read_text())
    vocabulary = value["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = 700  # a gap
    file.write_text(json.dumps(value))
    loaded = ChatPrompt.load(tmp_path)
    assert loaded.length == 701 > loaded.tokenizer.get_vocab_size()


def test_truncation_and_padding_of_the_file_are_ignored(prompt, tmp_path):
    write_prompt_files(tmp_path)
    tokenizer = small_tokenizer()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=500)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = ChatPrompt.load(tmp_path)
    assert loaded.encode(TURNS, image_tokens=2) == prompt.encode(TURNS, image_tokens=2)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.json", "processor_config.json"])
def test_templates_in_json_files_are_found(prompt, tmp_path, place):
    write_prompt_files(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    file = tmp_path / place
    value = json.loads(file.read_text()) if file.exists() else {}
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": shipped_template("chatml")}]
    value["chat_template"] = named if place == "tokenizer_config.json" else shipped_template("chatml")
    file.write_text(json.dumps(value))
    assert ChatPrompt.load(tmp_path).template == prompt.template


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{", "can't be read as a tokenizer"),
        ("chat_template.jinja", None, "has no chat template"),
        ("config.json", "{}", "names no image token"),
        ("config.json", "[1]", "isn't a JSON object"),
        ("config.json", "{", "can't be read"),
        ("config.json", '{"image_token_index": 99999}', "has no token 99999"),
    ],
)
def test_incomplete_folders_are_errors_of_one_line(tmp_path, file, content, words):
    write_prompt_files(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        ChatPrompt.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_image_token_is_found_by_name(prompt, tmp_path):
    write_prompt_files(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_token": "<|image_pad|>"}))
    assert ChatPrompt.load(tmp_path).image_token_id == prompt.image_token_id
