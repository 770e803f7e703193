"""What it costs that a processor lacks an instruction set. Names are Linux's.

Evidence: the sources of ONNX Runtime 1.31 (how MLAS chooses its kernels) and of llama.cpp, and docs/results/processors.md.
"""

from __future__ import annotations

from collections.abc import Set

VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")  # one is enough


def lacking(has: Set[str]) -> list[str]:
    """One line for each lack that matters, the most important first; empty where it has all, or nothing is known.

    Args:
        has: the processor's instruction sets, x86's or Arm's.
    """
    if "asimd" in has:
        return _lacking_arm(has)
    return _lacking_x86(has) if has else []


# What the one instruction makes of a prompt's time: ONNX q8's as a share of llama.cpp's q4_0 (docs/hardware.md, and
# docs/results/real-models.md for AVX2 alone).
_ONE_INSTRUCTION, _THREE_INSTRUCTIONS = 0.5, 0.7
_ARM_APART = "On Arm the order may be another: no speed was measured there."


def elsewhere(has: Set[str]) -> list[str]:
    """What will differ on other processors than the one that speeds were measured on, a sentence each; empty where its
    instruction sets aren't known.

    Args:
        has: as for `lacking`.
    """
    if not has:
        return []
    if "asimd" in has:
        return ["Measured on Arm: with other int8 instructions (dotprod, i8mm), and on x86, the order may be another."]
    if not has & set(VNNI):
        lead = (
            "Measured on a processor without VNNI: with VNNI int8 products take one instruction instead of three, and ONNX q8 "
            f"gains most. It read a prompt in {_ONE_INSTRUCTION:g} of llama.cpp's q4_0's time with it, in "
            f"{_THREE_INSTRUCTIONS:g} with AVX2 alone."
        )
    else:
        lead = (
            "Measured on a processor with VNNI: without it int8 products take three instructions instead of one, and ONNX q8 "
            f"loses most. It read a prompt in {_ONE_INSTRUCTION:g} of llama.cpp's q4_0's time with it, in "
            f"{_THREE_INSTRUCTIONS:g} with AVX2 alone."
        )
    return [lead, _ARM_APART]


def _lacking_x86(has: Set[str]) -> list[str]:
    lines = []
    if not {"avx2", "fma"} <= has:
        names = " and ".join(name.upper() for name in ("avx2", "fma") if name not in has)
        lines.append(
            f"no {names}: ONNX q4 is unpacked into float32 at every product, other products take slower kernels (SSE, AVX); "
            "GGUF runs where llama.cpp was compiled for such a processor, without rearranged weights"
        )
    if "f16c" not in has:
        lines.append("no F16C: half-precision numbers, of which GGUF has one in every block, are converted by table")
    if not has & set(VNNI):
        lines.append("no VNNI: int8 products (ONNX q8) take three instructions instead of one; right all the same")
    return lines


def _lacking_arm(has: Set[str]) -> list[str]:
    lines = []
    if "asimddp" not in has:
        lines.append(
            "no dotprod: int8 products (ONNX q8, llama.cpp's q4 and q8) take several instructions instead of one, "
            "and llama.cpp doesn't rearrange q4_0 for them; right all the same"
        )
    if "i8mm" not in has:
        lines.append("no i8mm: int8 products of matrices (a prompt, a picture) take twice the instructions")
    return lines
