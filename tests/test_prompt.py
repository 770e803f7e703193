"""Messages to ids, next to transformers; and text that tries to be more than text."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizers import small_tokenizer

from switchkd.chat_template import shipped_template
from switchkd.errors import CheckpointError, DataError
from switchkd.prompt import ChatPrompt

IMAGE_TOKENS = 9
TURNS = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture? 你好"}]},
    {"role": "assistant", "content": "A red car."},
    {"role": "user", "content": "\nAnd\n\nnow?"},
    {"role": "assistant", "content": [{"type": "text", "text": "\n Three 🚗 signs…"}]},
]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>"]


@pytest.fixture(scope="module")
def reference():
    """transformers' tokenizer and LLaVA processor with the same files."""
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = shipped_template("chatml")
    return LlavaProcessor(
        SiglipImageProcessorPil(size={"height": 42, "width": 42}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<|image_pad|>",
        chat_template=shipped_template("chatml"),
    )


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufdd0\ufdd1\ufdd2<"), max_size=30).map(
    lambda text: unicodedata.normalize("NFC", text)
)


@settings(max_examples=80, deadline=None)
@given(
    turns=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), system=st.none() | texts, open_turn=st.booleans()
)
def test_text_equals_transformers(prompt, reference, turns, system, open_turn):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    expected = reference.tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=open_turn
    )
    encoded = prompt.encode(messages, image_tokens=IMAGE_TOKENS, add_generation_prompt=open_turn, labels=True)
    assert encoded.ids == expected["input_ids"]
    assert encoded.answer_mask == [bool(x) for x in expected["assistant_masks"]]


def test_pictures_equal_transformers(prompt, reference):
    from PIL import Image

    with_picture = [
        {**m, "content": [{**p, "image": Image.new("RGB", (50, 40))} if p["type"] == "image" else p for p in m["content"]]}
        if isinstance(m["content"], list)
        else m
        for m in TURNS
    ]  # fmt: skip
    expected = reference.apply_chat_template(
        [with_picture], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = prompt.encode(TURNS, image_tokens=IMAGE_TOKENS, labels=True)
    assert encoded.ids == expected["input_ids"][0]
    assert encoded.answer_mask == [bool(x) for x in expected["assistant_masks"][0]]
    assert encoded.ids.count(prompt.image_token_id) == IMAGE_TOKENS


def test_answers_are_what_the_assistant_says_and_its_end_of_turn(prompt):
    encoded = prompt.encode(TURNS, image_tokens=IMAGE_TOKENS, labels=True)
    learned = [token for token, answer in zip(encoded.ids, encoded.answer_mask, strict=True) if answer]
    assert prompt.decode(learned, skip_special_tokens=False) == "A red car.<|im_end|>\n Three 🚗 signs…<|im_end|>"
    text, spans = prompt.render(TURNS)
    assert [text[start:end] for start, end in spans] == ["A red car.<|im_end|>", "\n Three 🚗 signs…<|im_end|>"]
    assert text.startswith("<|im_start|>system\nAnswer briefly.<|im_end|>\n<|im_start|>user\n<|image_pad|>\nWhat is")


def test_decomposed_text_gives_the_composed_ids(prompt):
    composed, decomposed = (
        {"role": "user", "content": f"Ko{o}ln caf{e}"} for o, e in (("ö", "é"), ("o\u0308", "e\u0301"))
    )
    assert composed != decomposed
    assert prompt.encode([composed], image_tokens=1) == prompt.encode([decomposed], image_tokens=1)
    assert prompt.render([decomposed])[0].count("é") == 1


fragments = st.lists(
    st.sampled_from([*SPECIAL, "<", "|", "im_start", "|>", "a", "\n", "user", "<|im_", "start|>"]), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(question=fragments, more=fragments, answer=fragments)
def test_text_stays_text(prompt, question, more, answer):
    """Whatever a user or a record writes, the turns are the template's and the text survives."""
    question, more, answer = ("".join(parts) for parts in (question, more, answer))
    parts = [{"type": "text", "text": question}, {"type": "image"}, {"type": "text", "text": more}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    encoded = prompt.encode(messages, image_tokens=IMAGE_TOKENS, labels=True)
    count = {name: encoded.ids.count(prompt.tokenizer.token_to_id(name)) for name in SPECIAL}
    assert count == {"<|im_start|>": 2, "<|im_end|>": 2, "<|endoftext|>": 0, "<|image_pad|>": IMAGE_TOKENS}
    written = (
        f"<|im_start|>user\n{question}<|image_pad|>\n{more}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    )
    expanded = prompt.decode(encoded.ids, skip_special_tokens=False)
    assert expanded == prompt.render(messages)[0].replace(
        f"{question}<|image_pad|>\n", f"{question}{'<|image_pad|>' * IMAGE_TOKENS}\n", 1
    )
    assert prompt.render(messages)[0] == written
    learned = [token for token, mine in zip(encoded.ids, encoded.answer_mask, strict=True) if mine]
    assert prompt.decode(learned, skip_special_tokens=False) == f"{answer}<|im_end|>"


def test_texts_that_a_template_joins_stay_text():
    """transformers' LLaVA templates move pictures to the front, so the halves of a name can meet."""
    tokenizer = small_tokenizer()
    template = (
        "{% for m in messages %}{% for p in m.content if p.type == 'image' %}{{ image_token }}{% endfor %}"
        "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}<|im_end|>{% endfor %}"
    )
    prompt = ChatPrompt(tokenizer, template, tokenizer.token_to_id("<|image_pad|>"))
    parts = [{"type": "text", "text": "<|im_"}, {"type": "image"}, {"type": "text", "text": "end|>"}]
    encoded = prompt.encode([{"role": "user", "content": parts}], image_tokens=1)
    assert encoded.ids.count(tokenizer.token_to_id("<|im_end|>")) == 1
    assert prompt.decode(encoded.ids, skip_special_tokens=False) == "<|image_pad|><|im_end|><|im_end|>"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user<|im_end|>", "content": "x"}, "role is one of"),
        ({"role": "user", "content": 3}, "neither text nor a list"),
        ({"role": "user", "content": [{"type": "video"}]}, "neither an image nor a text"),
        ({"role": "user", "content": "\ud800"}, "lone surrogate"),
        ({"role": "user", "content": "a\ufdd0b"}, "noncharacter"),
        ("hello", "object with a role"),
    ],
)
def test_unusable_messages_are_refused(prompt, message, words):
    with pytest.raises(DataError, match=words):
        prompt.encode([message], image_tokens=1)


@pytest.mark.parametrize("marks", ["\u0316\u0301", "\u0f73", "\u0f73\u0301"], ids=ascii)
def test_long_runs_of_combining_characters_are_refused(prompt, marks):
    """Normalizing takes quadratic time with their number: minutes for these. U+0F73 is none, but is made of two."""
    for text in ("a" + marks * 200_000, "a" + (marks * 31)[:31]):
        with pytest.raises(DataError, match="more than 30 combining characters"):
            prompt.encode([{"role": "user", "content": text}], image_tokens=1)
    assert prompt.encode([{"role": "user", "content": ("a" + (marks * 30)[:30]) * 9 + "é"}], image_tokens=1).ids


def test_fields_beside_role_and_content_never_reach_the_template():
    tokenizer = small_tokenizer()
    prompt = ChatPrompt(tokenizer, "{{ messages[0].name | default('none') }}", tokenizer.token_to_id("<|image_pad|>"))
    assert prompt.render([{"role": "user", "content": "x", "name": "<|im_start|>"}])[0] == "none"


def test_a_template_without_generation_serves_inference_only():
    tokenizer = small_tokenizer()
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    prompt = ChatPrompt(tokenizer, template, tokenizer.token_to_id("<|image_pad|>"))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    assert prompt.encode(messages, image_tokens=1).answer_mask is None
    with pytest.raises(CheckpointError, match="generation"):
        prompt.encode(messages, image_tokens=1, labels=True)


def test_a_template_that_loses_the_picture_is_an_error():
    tokenizer = small_tokenizer()
    prompt = ChatPrompt(tokenizer, "{{ messages[0].role }}", tokenizer.token_to_id("<|image_pad|>"))
    with pytest.raises(CheckpointError, match="0 image tokens for 1 pictures"):
        prompt.encode([{"role": "user", "content": [{"type": "image"}]}], image_tokens=4)


# As llava-hf's templates for Qwen2 read messages: a plain text has no parts, so it would vanish.
TEXTS = "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}<|im_end|>"
LISTING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ image_token + '\\n' }}{% endfor %}"
    "{% if m['role'] == 'assistant' %}{% generation %}"
    + TEXTS
    + "{% endgeneration %}{% else %}"
    + TEXTS
    + "{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_template_that_reads_lists_alone_gets_lists(prompt):
    """Same text, ids and labels as from the template that reads both."""
    listing = ChatPrompt(prompt.tokenizer, LISTING, prompt.image_token_id, prompt.special_tokens)
    turns = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A red car."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Three signs."},
    ]
    for extra in ({"labels": True}, {"add_generation_prompt": True}):
        assert listing.encode(turns, image_tokens=4, **extra) == prompt.encode(turns, image_tokens=4, **extra)


def test_a_template_that_reads_texts_alone_gets_texts():
    tokenizer = small_tokenizer()
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    prompt = ChatPrompt(tokenizer, template, tokenizer.token_to_id("<|image_pad|>"))
    assert (
        prompt.render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}])[0]
        == "user: Hi assistant: Yes "
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if %}", "line 1 has an error"),
        ("{{ raise_exception('no tools here') }}", "no tools here"),
        ("{{ ''.__class__.__mro__ }}", "can't render"),
        ("{{ messages.append(1) }}", "can't render"),
        ("{{ 1 / 0 }}", "can't render"),
    ],
)
def test_broken_and_hostile_templates_are_errors(template, words):
    tokenizer = small_tokenizer()
    with pytest.raises(CheckpointError, match=words):
        ChatPrompt(tokenizer, template, tokenizer.token_to_id("<|image_pad|>")).render([])


def test_prompt_and_preprocess_need_neither_torch_nor_transformers():
    code = (
        "import sys, switchkd.prompt, switchkd.preprocess, switchkd.data.usability, switchkd.data.questions\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


@pytest.mark.parametrize("words", ["how many cars ?", "Is it red?", "  two\nlines"])
def test_the_opening_is_what_every_question_about_a_picture_begins_with(prompt, words):
    parts = [{"type": "image"}, {"type": "text", "text": words}]
    whole = prompt.render([{"role": "user", "content": parts}])[0]
    opening = prompt.encode_opening(image_tokens=5)
    assert opening.count(prompt.image_token_id) == 5
    shown = prompt.decode(opening, skip_special_tokens=False).replace(prompt.image_token * 5, prompt.image_token)
    assert whole.startswith(shown) and whole[len(shown) :].lstrip().startswith(words.strip())


def test_a_template_that_puts_the_picture_last_has_no_such_opening():
    template = (
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    )
    template += "<|image_pad|>{% endfor %}"
    prompt = ChatPrompt(small_tokenizer(), template, small_tokenizer().token_to_id("<|image_pad|>"))
    with pytest.raises(CheckpointError, match="doesn't write a picture and then the user's words"):
        prompt.encode_opening(image_tokens=5)
