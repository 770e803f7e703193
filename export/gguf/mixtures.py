"""Which types a GGUF language file's tensors get, by the precision's name.

llama.cpp's own recipes (`q4_0`, `q4_k_m` …) are here under their names. `q4` is the mixture that loses least at its size for
the model's shape; `python benchmarks/real_text.py` measures what each loses, docs/results/real-models.md has the table. What the
command line offers of them is in hardware/runtimes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 32  # values that share a scale in the plain types; a row that isn't a multiple stays f16
K_BLOCK = 256  # the same for K-quants; of another row llama.cpp makes a plain type instead: q4_k → q5_0 …


@dataclass(frozen=True)
class Mixture:
    """A recipe of llama.cpp's, with what it is to do otherwise. Types are ggml's, in lower case."""

    base: str  # llama.cpp's recipe, see `FILE_TYPES`
    head: str | None = None  # of output.weight
    embedding: str | None = None  # of token_embd.weight; where it serves as the head, that counts
    # Regular expression of a tensor's name → type; the first that fits.
    blocks: Mapping[str, str] = field(default_factory=dict)
    weighted: bool = True  # rounding can follow an importance matrix
    limit: float = 0.03  # largest mean KL in nats that it may cost


# llama.cpp's names of its recipes → LLAMA_FTYPE.
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17}
MIXTURES = {
    "q4_0": Mixture("q4_0"),
    # q4_0's size otherwise spent: its recipe leaves a head of 8 bits, though the head needs them no more than the blocks do.
    "q4_mixed": Mixture("q4_k_s", head="q5_0", embedding="q4_0", blocks={"ffn_down": "q5_k", "(attn|ffn)_": "q5_0"}),
    "q4_k_m": Mixture("q4_k_m"),
    # What a model of a hundred million weights needs to lose no more than larger ones lose in four bits.
    "q5_mixed": Mixture("q4_k_s", head="q8_0", embedding="q8_0", blocks={"(attn|ffn)_": "q5_1"}),
    "q5_k_m": Mixture("q5_k_m", limit=0.02),
    "q8_0": Mixture("q8_0", weighted=False, limit=0.01),
}
_NARROW = 768  # SmolLM2-135M's 576 need more bits, Qwen2.5-0.5B's 896 don't


def default_mixture(width: int) -> str:
    """What `q4` means for a model of rows of `width` values."""
    if width % K_BLOCK == 0:
        return "q4_k_m"
    return "q5_mixed" if width < _NARROW else "q4_mixed"
