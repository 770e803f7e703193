"""How long a request took, phase by phase, and how many tokens it had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timings:
    """Wall-clock seconds of one request by phase."""

    preprocess: float = 0.0  # picture to bytes of the tower's size
    encode: float = 0.0  # bytes to projected tokens
    prefill: float = 0.0  # prompt to the first token's logits
    decode: float = 0.0  # all later tokens
    prompt_tokens: int = 0
    reused_tokens: int = 0  # of them, not read again
    new_tokens: int = 0  # an end token included
    ended: bool = False  # by an end token, not by a limit

    @property
    def first_token(self) -> float:
        """From the picture to the first token."""
        return self.preprocess + self.encode + self.prefill
