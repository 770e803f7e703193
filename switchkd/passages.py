"""Real text in the package, written for it: what an export's language model is calibrated on and proved on. No torch.

Two files that share nothing, `texts/calibration.md` and `texts/proving.md`: prose, Markdown, code and chats, so that a model
is seen at work on what it may meet, whatever it was trained on. A section begins with `=== text` or `=== chat`; in a chat
`--- user` and `--- assistant` begin the turns, which the checkpoint's own chat template writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from switchkd.prompt import ChatPrompt, Message

CALIBRATION, PROVING = "calibration", "proving"
LONGEST = 192  # tokens of a passage: a request's size, and at a vocabulary of 152,000 logits of 0.1 GB
# Tokens of a file that are used. Tokenizers of a few hundred words cut it into several times as many as others do.
MOST = {CALIBRATION: 10_000, PROVING: 1_600}
_FOLDER = Path(__file__).parent / "texts"
_SECTION = re.compile(r"^=== (text|chat)\n", re.MULTILINE)
_TURN = re.compile(r"^--- (user|assistant)\n", re.MULTILINE)


def passages(prompt: ChatPrompt, split: str, *, context: int) -> list[list[int]]:
    """Token ids of a file's texts, in pieces that are read one by one.

    Args:
        prompt: the checkpoint's tokenizer and chat template.
        split: CALIBRATION or PROVING.
        context: most tokens that the model can hold.

    Returns:
        Pieces of at least one and at most `LONGEST` tokens, together about `MOST` of the split at most, from all over the file.

    Raises:
        CheckpointError: the chat template can't write a plain chat.
    """
    pieces: list[list[int]] = []
    for section in read_sections(split):
        ids = prompt.encode_text(section) if isinstance(section, str) else prompt.encode(section, image_tokens=0).ids
        pieces += _cut(ids, min(LONGEST, context))
    tokens = sum(map(len, pieces))
    if tokens <= MOST[split]:
        return pieces
    count = max(1, len(pieces) * MOST[split] // tokens)
    return [pieces[index * len(pieces) // count] for index in range(count)]


def read_sections(split: str) -> list[str | list[Message]]:
    """A file's sections: a text, or a chat's messages."""
    kinds = _SECTION.split((_FOLDER / f"{split}.md").read_text(encoding="utf-8"))[1:]
    return [
        body.strip("\n") if kind == "text" else _read_chat(body)
        for kind, body in zip(kinds[::2], kinds[1::2], strict=True)
    ]


def _read_chat(body: str) -> list[Message]:
    turns = _TURN.split(body)[1:]
    return [{"role": role, "content": text.strip("\n")} for role, text in zip(turns[::2], turns[1::2], strict=True)]


def _cut(ids: Sequence[int], longest: int) -> list[list[int]]:
    """As few pieces as will do, of about the same length."""
    count = -(-len(ids) // longest)
    return [list(ids[len(ids) * part // count : len(ids) * (part + 1) // count]) for part in range(count)]
