"""The templates that come with the package, next to the texts that the models were trained on, written out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sentencepiece_model import small_sentencepiece
from support.tokenizers import small_tokenizer
from tokenizers import AddedToken, Tokenizer

from switchkd.chat_template import shipped_template, template_names
from switchkd.errors import CheckpointError
from switchkd.importing.sentencepiece import read_tokenizer_model
from switchkd.prompt import ChatPrompt

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def with_image_token(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    return tokenizer


def qwen_prompt(name: str, eos: str) -> ChatPrompt:
    tokenizer = with_image_token(small_tokenizer())
    return ChatPrompt(tokenizer, shipped_template(name), tokenizer.token_to_id("<image>"), {"eos_token": eos})


def user(text: str, pictures: int = 0) -> dict:
    return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def learned(prompt: ChatPrompt, messages: list[dict]) -> list[str]:
    text, spans = prompt.render(messages)
    return [text[start:end] for start, end in spans]


TALK = [user(" What is it?\n", 1), said("A car."), user("Red?"), said("No.")]


@pytest.mark.parametrize("eos", ["<|endoftext|>", "<|im_end|>"])
def test_tinyllava(eos):
    """Factory's qwen2_base and qwen2_instruct: the question about a picture is stripped, rounds follow without anything between."""
    prompt = qwen_prompt("tinyllava", eos)
    text, _ = prompt.render(TALK)
    assert text == f"{SYSTEM} USER: <image>\nWhat is it? ASSISTANT: A car.{eos}USER: Red? ASSISTANT: No.{eos}"
    assert learned(prompt, TALK) == [f" A car.{eos}", f" No.{eos}"]
    asked, _ = prompt.render(TALK[:1], add_generation_prompt=True)
    assert asked == f"{SYSTEM} USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt.render([user(" Hello ")], add_generation_prompt=True)[0] == f"{SYSTEM} USER:  Hello  ASSISTANT:"
    assert prompt.learned_ends == {prompt.tokenizer.token_to_id(eos)}


def test_tinyllava_with_a_system_sentence_of_yours():
    prompt = qwen_prompt("tinyllava", "<|endoftext|>")
    text, _ = prompt.render([{"role": "system", "content": "Be brief."}, *TALK[:2]])
    assert text == "Be brief. USER: <image>\nWhat is it? ASSISTANT: A car.<|endoftext|>"
    with pytest.raises(CheckpointError, match="no other role"):
        prompt.render([*TALK, {"role": "tool", "content": "4"}])


def test_a_picture_alone():
    prompt = qwen_prompt("tinyllava", "<|endoftext|>")
    message = {"role": "user", "content": [{"type": "image"}]}
    assert prompt.render([message], True)[0] == f"{SYSTEM} USER: <image> ASSISTANT:"


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    path.write_bytes(small_sentencepiece())
    tokenizer, special = read_tokenizer_model(path)
    with_image_token(tokenizer)
    return ChatPrompt(tokenizer, shipped_template("vicuna"), tokenizer.token_to_id("<image>"), special), path


def test_vicuna(vicuna):
    prompt, _ = vicuna
    text, _ = prompt.render(TALK)
    assert text == f"<s>{SYSTEM} USER: <image>\nWhat is it? ASSISTANT: A car.</s>USER: Red? ASSISTANT: No.</s>"
    assert learned(prompt, TALK) == [" A car.</s>", " No.</s>"]
    assert prompt.render(TALK[:1], True)[0] == f"<s>{SYSTEM} USER: <image>\nWhat is it? ASSISTANT:"


def chunkwise(text: str, encode, image: int, bos: int | None) -> list[int]:
    """Ids as LLaVA's and Factory's own code gets them: every stretch between pictures on its own, put together again."""
    ids = [] if bos is None else [bos]
    for index, chunk in enumerate(text.split("<image>")):
        ids += [image] * bool(index) + encode(chunk)
    return ids


words = st.text("abc AUS:?.\n", min_size=1, max_size=20)


def conversation(rounds, shown, end):
    """LLaVA's own text of rounds of a question and an answer, the first perhaps about a picture; and the same as messages."""
    text, messages = f"{SYSTEM} ", []
    for index, (question, answer) in enumerate(rounds):
        pictured = shown and index == 0
        asked = ("<image>\n" + question.strip()).strip() if pictured else question
        text += f"USER: {asked} ASSISTANT: {answer}{end}"
        messages += [user(question, int(pictured)), said(answer)]
    return text, messages


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(st.tuples(words, words), min_size=1, max_size=3), shown=st.booleans())
def test_vicunas_ids_equal_sentencepieces(vicuna, rounds, shown):
    import sentencepiece

    prompt, path = vicuna
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(chunk: str) -> list[int]:
        ids = []
        for index, piece in enumerate(chunk.split("</s>")):
            ids += [reference.eos_id()] * bool(index) + (reference.encode(piece) if piece else [])
        return ids

    text, messages = conversation(rounds, shown, "</s>")
    encoded = prompt.encode(messages, image_tokens=1, labels=True)
    assert encoded.ids == chunkwise(text, encode, prompt.image_token_id, reference.bos_id())
    spoken = [token for token, answer in zip(encoded.ids, encoded.answer_mask, strict=True) if answer]
    assert spoken.count(reference.eos_id()) == len(rounds)
    heard = [token for token, answer in zip(encoded.ids, encoded.answer_mask, strict=True) if not answer]
    assert reference.eos_id() not in heard and heard.count(prompt.image_token_id) == shown


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(st.tuples(words, words), min_size=1, max_size=3), shown=st.booleans())
def test_tinyllavas_ids_equal_factorys(rounds, shown):
    prompt = qwen_prompt("tinyllava", "<|endoftext|>")
    plain = small_tokenizer()
    text, messages = conversation(rounds, shown, "<|endoftext|>")
    expected = chunkwise(text, lambda chunk: plain.encode(chunk).ids, prompt.image_token_id, None)
    assert prompt.encode(messages, image_tokens=1).ids == expected


def test_chatml_with_its_system_turn():
    """The authors' model: their prompt, with the picture where their processor puts it."""
    prompt = qwen_prompt("chatml-system", "<|im_end|>")
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt.render([user("What?", 1)], True)[0] == expected
    own = [{"role": "system", "content": "Be brief."}, user("What?"), said("A car.")]
    assert prompt.render(own)[0] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nA car.<|im_end|>\n"
    )
    assert learned(prompt, own) == ["A car.<|im_end|>"]


def test_chatml_without():
    prompt = qwen_prompt("chatml", "<|im_end|>")
    assert prompt.render([user("What?", 1)], True)[0] == (
        "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_names():
    assert template_names() == ["chatml", "chatml-system", "tinyllava", "vicuna"]
    with pytest.raises(CheckpointError, match="known templates: chatml, chatml-system, tinyllava, vicuna"):
        shipped_template("../secret")


def test_a_new_model_gets_one_by_its_name(tmp_path):
    from click.testing import CliRunner

    from switchkd.cli.main import main

    shape = ("--random", "--shrink", "--vision", "siglip-so400m-patch14-384", "--language", "qwen2.5-0.5b")
    folder = str(tmp_path / "model")
    refused = CliRunner().invoke(main, ["init", folder, *shape, "--template", "alpaca"])
    assert refused.exit_code == 1 and "There is no template 'alpaca'" in refused.output
    assert CliRunner().invoke(main, ["init", folder, *shape, "--template", "tinyllava"]).exit_code == 0
    assert ChatPrompt.load(folder).template == shipped_template("tinyllava")


@pytest.mark.parametrize("name", ["chatml", "chatml-system", "tinyllava"])
def test_transformers_reads_the_same(name):
    """Text, ids and which tokens the assistant learns."""
    from transformers import PreTrainedTokenizerFast

    prompt = qwen_prompt(name, "<|im_end|>")
    reference = PreTrainedTokenizerFast(tokenizer_object=with_image_token(small_tokenizer()), eos_token="<|im_end|>")
    reference.chat_template = shipped_template(name)
    for messages, opening in ((TALK, False), (TALK[:1], True), ([user("Hello?"), said("\nYes.")], False)):
        expected = reference.apply_chat_template(
            messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            add_generation_prompt=opening,
            image_token="<image>",
        )
        encoded = prompt.encode(messages, image_tokens=1, add_generation_prompt=opening, labels=True)
        assert encoded.ids == expected["input_ids"]
        assert encoded.answer_mask == [bool(x) for x in expected["assistant_masks"]]
