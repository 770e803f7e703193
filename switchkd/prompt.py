"""Messages to token ids: a chat template and a tokenizer, as training and every engine use them. No torch.

A message is `{"role": "system" | "user" | "assistant" | "tool", "content": …}`; the content is a string or a list of
`{"type": "text", "text": …}` and `{"type": "image"}` parts. Which tokens are the assistant's own, and so are learned,
is said by the template's `{% generation %}` block, never by searching the text.

Text is data: a special token's name inside a message (`<|im_start|>`, the image placeholder) is encoded as the plain
characters it is made of, so that nobody's text can open a turn, close one or stand for a picture.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from switchkd.architecture.weights import refuse_other_kinds
from switchkd.chat_template import CUT, MARK, Layout, compile_template, read_marks
from switchkd.errors import CheckpointError, DataError
from switchkd.prompt_files import read_image_token_id, read_special_tokens, read_template, read_tokenizer

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")
_TRIED = "probe"  # a text that templates are tried on
_MAX_MARKS = 30  # in a row: Unicode's Stream-Safe Text Format (UAX #15), beyond anything that a language writes


@dataclass(frozen=True)
class Encoded:
    """A conversation as the language model reads it."""

    ids: list[int]  # token ids, each picture expanded to its image tokens; length T
    # Length T; true where the assistant speaks, end of turn included. None: not asked for.
    answer_mask: list[bool] | None


class ChatPrompt:
    """A checkpoint's chat template and tokenizer.

    Args:
        tokenizer: of the checkpoint; its truncation and padding are switched off.
        template: the Jinja chat template.
        image_token_id: the id whose embedding the picture's features replace.
        special_tokens: named tokens for the template and the engines, e.g. `{"eos_token": "<|im_end|>"}`.

    Raises:
        CheckpointError: the tokenizer lacks the image token, or the template has a syntax error.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        image_token_id: int,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        image_token = tokenizer.id_to_token(image_token_id) if 0 <= image_token_id < 1 << 32 else None
        if image_token is None:
            raise CheckpointError(f"The tokenizer has no token {image_token_id}, which the model takes as image token.")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.template = template
        self.image_token: str = image_token
        self.image_token_id = image_token_id
        self.special_tokens = dict(special_tokens or {})
        self._compiled = compile_template(template)
        names = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        names |= {image_token, *self.special_tokens.values()}
        self._reserved = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        # No reserved name survives in a text that is cut behind each of these.
        self._initial = re.compile("[" + "".join(re.escape(initial) for initial in {name[0] for name in names}) + "]")

    @classmethod
    def load(cls, folder: Path | str) -> ChatPrompt:
        """Reads tokenizer.json, the chat template and the image token's id from a checkpoint or export folder.

        Raises:
            CheckpointError: a file is missing, torn or says nothing of the image token; the folder holds an adapter or
                quantized weights.
        """
        folder = Path(folder)
        refuse_other_kinds(folder)
        tokenizer, special = read_tokenizer(folder), read_special_tokens(folder)
        return cls(tokenizer, read_template(folder), read_image_token_id(folder, tokenizer), special)

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatPrompt, (self.tokenizer, self.template, self.image_token_id, self.special_tokens)

    @property
    def length(self) -> int:
        """Ids that the tokenizer really has: the highest id of any token, added ones included, plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def longest_token(self) -> int:
        """Characters of the vocabulary's longest token; none stands for more text."""
        return max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)))

    def require_answer_marks(self) -> None:
        """Raises CheckpointError if the template has no `{% generation %}` block, without which there are no labels, or one
        that leaves the end of the turn out, without which nobody learns to stop."""
        if not self._compiled.environment.marks_answers:  # type: ignore[attr-defined]
            raise CheckpointError(
                "The chat template has no {% generation %} block, so it doesn't say which tokens are the assistant's; "
                "put one around the assistant's text or use switchkd/models/templates/chatml.jinja."
            )
        if not self.learned_ends:
            raise CheckpointError(
                "The chat template's {% generation %} block leaves out the token that ends the assistant's turn, so a student "
                "would never learn to stop; move {% endgeneration %} behind it, as in switchkd/models/templates/chatml.jinja."
            )

    @cached_property
    def learned_ends(self) -> frozenset[int]:
        """The special tokens that stand behind an answer in the template's `{% generation %}` block."""
        layout = self._lay_out([{"role": role, "content": _TRIED} for role in ("user", "assistant")], False)
        start, end = layout.answers[-1] if layout.answers else (0, 0)
        behind = layout.text[start:end].rpartition(_TRIED)[2]
        ids = self.tokenizer.encode(behind, add_special_tokens=False).ids
        return frozenset(token for token in ids if self._reserved.fullmatch(self.tokenizer.id_to_token(token) or ""))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a conversation gets."""
        parts = (self.tokenizer.to_str(), self.template, self.image_token_id, sorted(self.special_tokens.items()))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def token_id(self, name: str) -> int | None:
        """The id of a named special token, e.g. `"eos_token"` or `"pad_token"`; None where the checkpoint has none."""
        token = self.special_tokens.get(name)
        return None if token is None else self.tokenizer.token_to_id(token)

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, with one image token a picture, and the assistant's character ranges in it.

        Raises:
            DataError: a message that isn't of the form above, or text that isn't Unicode.
            CheckpointError: the template fails on these messages.
        """
        layout = self._lay_out(messages, add_generation_prompt)
        return layout.text, layout.answers

    def encode(
        self,
        messages: Sequence[Message],
        *,
        image_tokens: int,
        add_generation_prompt: bool = False,
        labels: bool = False,
    ) -> Encoded:
        """Token ids of a conversation.

        Args:
            messages: the turns, in order.
            image_tokens: tokens that one picture takes.
            add_generation_prompt: end with the opening of an assistant turn, for inference.
            labels: fill the answer mask.

        Raises:
            DataError: as `render`.
            CheckpointError: as `render`, a template that loses a picture, or (with `labels`) marks no answers.
        """
        if labels:
            self.require_answer_marks()
        layout = self._lay_out(messages, add_generation_prompt)
        ids: list[int] = []
        mask: list[bool] = []
        for start, end in layout.pieces:
            piece = self.tokenizer.encode(layout.text[start:end], add_special_tokens=False)
            ids += piece.ids
            if labels:  # offsets cost more than the ids
                mask += [_overlaps(start + a, start + b, layout.answers) for a, b in piece.offsets]
        pictures = [position for position, token in enumerate(ids) if token == self.image_token_id]
        expected = sum(count_images(message) for message in messages)
        if len(pictures) != expected:
            raise CheckpointError(f"The chat template writes {len(pictures)} image tokens for {expected} pictures.")
        _repeat(ids, pictures, image_tokens)
        if not labels:
            return Encoded(ids, None)
        _repeat(mask, pictures, image_tokens)
        return Encoded(ids, mask)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text that stands in no turn; special tokens' names in it are plain characters here too.

        Raises:
            DataError: text that isn't Unicode.
        """
        layout = read_marks(self._cut_names([_text_of({"type": "text", "text": text}, "plain")])[0] or "")
        pieces = (layout.text[start:end] for start, end in layout.pieces)
        return [token for piece in pieces for token in self.tokenizer.encode(piece, add_special_tokens=False).ids]

    def encode_opening(self, *, image_tokens: int) -> list[int]:
        """Token ids of a conversation that begins with a picture, up to where the user's words would stand.

        Raises:
            CheckpointError: the template can't render such a conversation, or moves the picture behind the words.
        """
        parts = [{"type": "image"}, {"type": "text", "text": _TRIED}]
        text, _ = self.render([{"role": "user", "content": parts}])
        opening, found, _ = text.partition(_TRIED)
        ids = self.tokenizer.encode(opening, add_special_tokens=False).ids
        pictures = [position for position, token in enumerate(ids) if token == self.image_token_id]
        if not found or len(pictures) != 1:
            raise CheckpointError("The chat template doesn't write a picture and then the user's words.")
        _repeat(ids, pictures, image_tokens)
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that aren't UTF-8 become U+FFFD."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def _lay_out(self, messages: Sequence[Message], add_generation_prompt: bool) -> Layout:
        checked = [self._check(message) for message in messages]
        names = {**self.special_tokens, "image_token": self.image_token}
        try:
            marked = self._compiled.render(messages=checked, add_generation_prompt=add_generation_prompt, **names)
        except Exception as error:  # a template is somebody's code and raises what it likes
            raise CheckpointError(f"The chat template can't render this conversation: {error}") from error
        return read_marks(marked)

    @cached_property
    def _listing_roles(self) -> frozenset[str]:
        """Roles whose text the template reads from a list of parts alone. It would go through a plain text letter by letter,
        find no part among them, and write nothing: llava-hf's templates for Qwen2 do."""
        return frozenset(
            role
            for role in ROLES
            if not self._writes(role, _TRIED) and self._writes(role, [{"type": "text", "text": _TRIED}])
        )

    def _writes(self, role: str, content: Any) -> bool:
        """Whether the template writes a message's text. (A list written as Python would is not its text.)"""
        before = [{"role": "user", "content": ""}] if role == "assistant" else []
        names = {**self.special_tokens, "image_token": self.image_token}
        try:
            text = self._compiled.render(
                messages=[*before, {"role": role, "content": content}], add_generation_prompt=False, **names
            )
        except Exception:  # what it can't render it doesn't write
            return False
        return _TRIED in text and repr(_TRIED) not in text

    def _check(self, message: Message) -> dict[str, Any]:
        """The message with its text in NFC and every reserved name in it cut in two."""
        if not isinstance(message, Mapping):
            raise DataError(f"A message is an object with a role and content, not {message!r}.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"A message's role is one of {', '.join(ROLES)}, not {role!r}.")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list | tuple):
            raise DataError(f"The {role} message's content is neither text nor a list of parts.")
        texts = self._cut_names([_text_of(part, role) for part in parts])
        # Only these fields pass: others would carry unchecked text into the template.
        if isinstance(content, str) and role not in self._listing_roles:
            return {"role": role, "content": texts[0]}
        return {
            "role": role,
            "content": [{"type": "image"} if text is None else {"type": "text", "text": text} for text in texts],
        }

    def _cut_names(self, texts: list[str | None]) -> list[str | None]:
        """A message's texts, None for a picture, with every reserved name in them cut in two."""
        # Joined, because a template may move the picture away from between two texts.
        if not self._reserved.search("".join(text for text in texts if text is not None)):
            return texts
        return [text and self._initial.sub(rf"\g<0>{CUT}", text) for text in texts]


def _text_of(part: Any, role: str) -> str | None:
    """A part's text in NFC (llama.cpp doesn't normalize, so it is done before any tokenizer); None for a picture."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return None
    text = part.get("text") if kind == "text" else None
    if not isinstance(text, str):
        raise DataError(f"The {role} message has a part that is neither an image nor a text.")
    if not text.isascii() and _longest_run_of_marks(text) > _MAX_MARKS:  # sorting them takes quadratic time
        raise DataError(f"The {role} message's text has more than {_MAX_MARKS} combining characters in a row.")
    text = unicodedata.normalize("NFC", text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The {role} message's text has a lone surrogate at character {error.start}.") from error
    if MARK.search(text):
        raise DataError(f"The {role} message's text holds a Unicode noncharacter (U+FDD0 to U+FDD2); remove it.")
    return text


def _longest_run_of_marks(text: str) -> int:
    return max((len(list(run)) for marks, run in groupby(text, _is_mark) if marks), default=0)


def _is_mark(character: str) -> bool:
    """Whether what it is decomposed to begins with a combining character; a few that aren't themselves do."""
    return unicodedata.combining(unicodedata.normalize("NFD", character)[0]) > 0


def _overlaps(start: int, end: int, ranges: list[tuple[int, int]]) -> bool:
    return any(start < b and end > a for a, b in ranges)


def _repeat(values: list[Any], positions: list[int], times: int) -> None:
    """Puts `times` copies in the place of each value at these ascending positions."""
    for position in reversed(positions):
        values[position : position + 1] = [values[position]] * times


def count_images(message: Message) -> int:
    """How many pictures stand in a message of the form above."""
    content = message["content"]
    return 0 if isinstance(content, str) else sum(part["type"] == "image" for part in content)
