"""Which tokens end an answer, the same for a checkpoint in PyTorch and for its exports. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from switchkd.errors import CheckpointError
from switchkd.prompt import ChatPrompt


def end_token_ids(folder: Path, prompt: ChatPrompt) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's end and padding tokens, and those in generation_config.json.

    Raises:
        CheckpointError: generation_config.json is torn.
    """
    named = {prompt.token_id("eos_token"), prompt.token_id("pad_token")} - {None}
    path = folder / "generation_config.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        listed = None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}.") from error
    more = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in (*named, *more) if isinstance(token, int))


def require_learned_end(folder: Path, prompt: ChatPrompt) -> None:
    """Raises CheckpointError where answers are trained to end with a token that doesn't end them when the model answers."""
    ends = end_token_ids(folder, prompt)
    if ends and not ends & prompt.learned_ends:
        learned, known = (_names(prompt, ids) for ids in (prompt.learned_ends, ends))
        raise CheckpointError(
            f"The chat template of {folder} ends an answer with {learned}, but the model stops at {known}: set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json."
        )


def _names(prompt: ChatPrompt, ids: frozenset[int]) -> str:
    return " or ".join(str(prompt.tokenizer.id_to_token(token)) for token in sorted(ids)) or "nothing"
