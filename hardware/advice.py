"""Which runtime and precision to prefer on a target, as rules with their reasons. docs/hardware.md has the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switchkd.hardware.candidates import Candidate, candidates
from switchkd.hardware.profile import Profile
from switchkd.hardware.runtimes import GGUF, ONNX
from switchkd.hardware.workload import Workload

INT8_PRODUCTS = {"dotprod", "i8mm", "avx_vnni", "avx512_vnni", "amx_int8"}
# On two Xeon cores a 0.5B student in ONNX reads a picture's prompt in 2.0 s at q8 and 5.9 s at q4, and writes a token in 40
# and 33 ms: q4 has caught up after about this many tokens.
BREAK_EVEN_TOKENS = 500
# With AVX2 and no VNNI, ONNX's int8 read 128 tokens of a real 0.5B in 428 ms, llama.cpp's q4_0 in 615, and wrote a token in 29
# and 18 (docs/results/real-models.md): of a prompt of so many tokens q4_0 has caught up after this share as many more.
AVX2_BREAK_EVEN = (615 - 428) / 128 / (29.4 - 18.1)
_K_BLOCK = 256  # weights that share a scale in llama.cpp's K-quants


@dataclass(frozen=True)
class Advice:
    """What to export for a target."""

    choice: Candidate | None  # None: nothing fits
    reasons: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: "ONNX Runtime, q8"."""
        return self.choice.title if self.choice else "nothing"

    def to_json(self) -> dict[str, Any]:
        """Plain objects for json.dumps; "format", "quant" and "vision_quant" are None where nothing fits."""
        names = ("format", "quant", "vision_quant")
        return {**{name: getattr(self.choice, name, None) for name in names}, "reasons": list(self.reasons)}


def advise(
    workload: Workload, profile: Profile, *, context: int, answer_tokens: int, available: float | None
) -> Advice:
    """What to prefer for students of these shapes: the fastest, or where that doesn't fit the first smaller one that does.

    Args:
        context: tokens of memory for a conversation.
        answer_tokens: of a typical answer.
        available: bytes for the student; None where unknown.
    """
    fastest, reasons = _fastest(workload, profile, answer_tokens)
    quant, why = _four_bits(workload)
    rows = [fastest] if fastest[0] == GGUF else dict.fromkeys([fastest, (ONNX, "q4"), (GGUF, quant)])
    ways = [way for row in rows for way in candidates(workload, *row)]
    needs = {way: way.memory(workload, context).total for way in ways}
    choice = next((way for way in ways if available is None or needs[way] <= available), None)
    if choice == ways[0] or available is None:
        return Advice(choice, reasons)
    if choice is None:
        smallest = min(ways, key=needs.__getitem__)
        needed = f"even {smallest.title} needs about {_gigabytes(needs[smallest])} of {_gigabytes(available)}"
        return Advice(None, (f"nothing fits: {needed}",))
    too_much = f"{ways[0].title} needs {_gigabytes(needs[ways[0]])} of {_gigabytes(available)}"
    smaller = f"this about {_gigabytes(needs[choice])}, tower, keys and values included"
    return Advice(choice, (f"{too_much}; {smaller}", *((why,) if choice.quant == quant else ())))


def _fastest(workload: Workload, profile: Profile, answer_tokens: int) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Format and precision of what is the fastest, or the safest where speeds are unknown; and why."""
    instructions = set(profile.value("instructions") or ())
    quant, why = _four_bits(workload)
    if not instructions:
        unknown = "what the cores can do is unknown; the fewest bytes are the safest choice, measure there"
        return (GGUF, quant), (unknown, why)
    if not instructions & INT8_PRODUCTS:
        return _without_products(workload, instructions, answer_tokens)
    if workload.tower is None:
        return (ONNX, "q4"), ("without pictures the tokens after the first count; they were the fastest in 4 bits",)
    if answer_tokens > BREAK_EVEN_TOKENS:
        long = f"an answer of {answer_tokens} tokens outweighs the prompt; tokens after the first were the fastest in 4 bits"
        return (ONNX, "q4"), (long,)
    return (ONNX, "q8"), (
        "int8 dot products: to the first token ONNX's int8 was the fastest measured, a third of llama.cpp's time",
        f"the picture's {workload.image_tokens} tokens of prompt outweigh an answer of {answer_tokens}",
    )


def _without_products(
    workload: Workload, instructions: set[str], answer_tokens: int
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """The same for cores without int8 dot products."""
    quant, why = _four_bits(workload)
    if "avx2" not in instructions:
        return (GGUF, quant), ("no int8 dot products, so int8 loses its lead; nobody measured it on such cores", why)
    caught_up = AVX2_BREAK_EVEN * workload.image_tokens
    if answer_tokens <= caught_up:
        return (ONNX, "q8"), (
            "no int8 dot products (x86 without VNNI): ONNX's int8 still read a prompt in 0.7 of llama.cpp's time for q4_0",
            f"the picture's {workload.image_tokens} tokens of prompt outweigh an answer of {answer_tokens}; from about "
            f"{caught_up:.0f} on llama.cpp's 4 bits are ahead",
        )
    return (GGUF, quant), (
        f"no int8 dot products (x86 without VNNI): tokens after the first were the fastest in llama.cpp's 4 bits, and "
        f"{answer_tokens} of them outweigh the picture's {workload.image_tokens} tokens of prompt",
        why,
    )


def _four_bits(workload: Workload) -> tuple[str, str]:
    """llama.cpp's 4 bits for these shapes, with the reason."""
    width = workload.language.width
    if width % _K_BLOCK:
        return (
            "q4_0",
            f"a width of {width} is no multiple of {_K_BLOCK}: K-quants fall back to larger, slower types; q4_0 doesn't, though "
            "q4_mixed, as large and slower, loses less",
        )
    return "q4_k_m", f"a width of {width} is a multiple of {_K_BLOCK}: K-quants apply; compare with q4_0"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
