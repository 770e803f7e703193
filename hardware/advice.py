"""Which runtime and precision to prefer on a target, as rules with their reasons. docs/hardware.md has the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switchkd.hardware.kernels import RUNTIMES
from switchkd.hardware.profile import Profile
from switchkd.hardware.workload import GGUF, ONNX, Workload

INT8_PRODUCTS = {"dotprod", "i8mm", "avx_vnni", "avx512_vnni", "amx_int8"}
# On two Xeon cores a 0.5B student in ONNX reads a picture's prompt in 2.0 s at q8 and 5.9 s at q4, and writes a token in 40
# and 33 ms: q4 has caught up after about this many tokens.
BREAK_EVEN_TOKENS = 500
_K_BLOCK = 256  # weights that share a scale in llama.cpp's K-quants


@dataclass(frozen=True)
class Advice:
    """What to export for a target."""

    format: str
    quant: str
    reasons: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: "ONNX Runtime, q8"."""
        return f"{RUNTIMES[self.format].title}, {self.quant}"

    def to_json(self) -> dict[str, Any]:
        """Plain objects for json.dumps."""
        return {"format": self.format, "quant": self.quant, "reasons": list(self.reasons)}


def advise(workload: Workload, profile: Profile, *, answer_tokens: int, available: float | None) -> Advice:
    """What to prefer for students of these shapes.

    Args:
        answer_tokens: of a typical answer.
        available: bytes for the student; None where unknown.
    """
    instructions = set(profile.value("instructions") or ())
    four_bits = _four_bits(workload)
    int8_bytes = _weights(workload)
    if available is not None and int8_bytes > available:
        return Advice(
            GGUF,
            four_bits[0],
            (
                f"int8 weights alone take {int8_bytes / 1e9:.1f} GB of {available / 1e9:.1f} GB; 4 bits about half",
                four_bits[1],
            ),
        )
    if not instructions:
        return Advice(
            GGUF,
            four_bits[0],
            ("what the cores can do is unknown; the fewest bytes are the safest choice, measure there", four_bits[1]),
        )
    if not instructions & INT8_PRODUCTS:
        slow = (
            "no int8 dot products: ONNX Runtime's int8 kernels saturate at 16 bits here (x86 without VNNI)"
            if "avx2" in instructions
            else "no int8 dot products, so int8 loses its lead; nobody measured it on such cores"
        )
        return Advice(GGUF, four_bits[0], (slow, four_bits[1]))
    if workload.tower is not None and answer_tokens <= BREAK_EVEN_TOKENS:
        return Advice(
            ONNX,
            "q8",
            (
                "int8 dot products: to the first token ONNX's int8 was the fastest measured, a third of llama.cpp's time",
                f"the picture's {workload.image_tokens} tokens of prompt outweigh an answer of {answer_tokens}",
            ),
        )
    why = (
        f"an answer of {answer_tokens} tokens outweighs the prompt; tokens after the first were the fastest in 4 bits"
        if workload.tower is not None
        else "without pictures the tokens after the first count; they were the fastest in 4 bits"
    )
    return Advice(ONNX, "q4", (why,))


def _four_bits(workload: Workload) -> tuple[str, str]:
    """llama.cpp's 4 bits for these shapes, with the reason."""
    width = workload.language.width
    if width % _K_BLOCK:
        return (
            "q4_0",
            f"a width of {width} is no multiple of {_K_BLOCK}: K-quants fall back to larger, slower types; q4_0 doesn't",
        )
    return "q4_k_m", f"a width of {width} is a multiple of {_K_BLOCK}: K-quants apply; compare with q4_0"


def _weights(workload: Workload) -> int:
    """Weights of the whole student, the embedding counted beside the head, as ONNX stores it."""
    language, tower = workload.language, workload.tower
    count = language.token_weights + language.head_weights
    if tower is not None:
        count += tower.layers * tower.block_weights + tower.projector_weights
    return count
