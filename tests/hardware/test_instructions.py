"""What a lack costs, for processors that exist."""

import pytest

from switchkd.hardware.instructions import elsewhere, lacking

HASWELL = {"ssse3", "sse4_2", "avx", "f16c", "fma", "avx2"}
CORTEX_A72 = {"fp", "asimd"}


def names(has):
    return [line.partition(":")[0] for line in lacking(has)]


@pytest.mark.parametrize(
    ("has", "named"),
    [
        ({"ssse3", "sse4_2"}, ["no AVX2 and FMA", "no F16C", "no VNNI"]),  # Nehalem, and Atom cores before 2021
        ({"ssse3", "sse4_2", "avx", "f16c"}, ["no AVX2 and FMA", "no VNNI"]),  # Ivy Bridge
        ({"ssse3", "sse4_2", "avx", "f16c", "fma"}, ["no AVX2", "no VNNI"]),  # Piledriver
        (HASWELL, ["no VNNI"]),
        (HASWELL | {"avx512f"}, ["no VNNI"]),  # Skylake-X
        (HASWELL | {"avx_vnni"}, []),  # Alder Lake
        (HASWELL | {"avx512f", "avx512_vnni"}, []),
        (CORTEX_A72, ["no dotprod", "no i8mm"]),
        (CORTEX_A72 | {"asimddp"}, ["no i8mm"]),  # Cortex-A76
        (CORTEX_A72 | {"asimddp", "i8mm"}, []),
        (set(), []),  # nothing known
    ],
)
def test_what_is_lacking(has, named):
    assert names(has) == named


def test_what_differs_on_other_processors_is_said():
    assert elsewhere(set()) == []
    for has, word in ((HASWELL, "without"), (HASWELL | {"avx_vnni"}, "with"), (HASWELL | {"avx512_vnni"}, "with")):
        first, second = elsewhere(has)
        assert first.startswith(f"Measured on a processor {word} VNNI") and second.startswith("On Arm")
    (line,) = elsewhere(CORTEX_A72)
    assert line.startswith("Measured on Arm") and "x86" in line
