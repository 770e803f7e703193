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
