"""What the build uses is compared with what the processor has."""

import shutil
import subprocess
import sys

import pytest

from switchkd.errors import SkdError
from switchkd.processor import instructions, is_x86
from switchkd.runtime.engines.llama import build as llama_build
from switchkd.runtime.engines.llama.bindings import bindings

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")


def pretend(monkeypatch, compiled, has):
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset(compiled))
    monkeypatch.setattr(llama_build, "instructions", lambda: frozenset(has))


def test_instructions_left_unused(monkeypatch):
    pretend(monkeypatch, {"AVX2", "FMA"}, {"fpu", "avx2", "fma", "f16c", "avx512f", "avx512_vnni"})
    assert llama_build.unused_instructions() == ["F16C", "AVX512", "AVX512_VNNI"]
    pretend(monkeypatch, {"AVX2", "FMA"}, {"fp", "asimd", "asimddp", "i8mm"})
    assert llama_build.unused_instructions() == ["NEON", "DOTPROD", "MATMUL_INT8"]
    pretend(monkeypatch, {"AVX2", "FMA"}, ())
    assert llama_build.unused_instructions() == []


def test_a_build_for_a_newer_processor_is_refused_before_it_runs(monkeypatch):
    monkeypatch.setattr(llama_build, "_only_kernels", lambda: object())
    pretend(monkeypatch, {"SSSE3", "AVX", "AVX2", "FMA", "AMX_INT8"}, {"ssse3", "avx", "sse4_2"})
    assert llama_build.lacking_instructions() == ["AVX2", "FMA"]  # of AMX llama.cpp itself sees whether it is there
    with pytest.raises(SkdError, match=r"compiled for AVX2, FMA, which this processor lacks: compile it here .*\.$"):
        llama_build.load_kernels()
    pretend(monkeypatch, {"NEON", "DOTPROD"}, {"fp", "asimd"})
    with pytest.raises(SkdError, match="compiled for DOTPROD"):
        llama_build.load_kernels()
    pretend(monkeypatch, {"AVX2"}, ())  # nobody knows: no reason to refuse
    llama_build.load_kernels()


@pytest.mark.skipif(QEMU is None, reason="needs qemu-user")
@pytest.mark.skipif(
    not is_x86() or "avx2" not in instructions(), reason="needs a build that an older processor can't run"
)
def test_the_installed_build_is_refused_on_an_older_processor():
    """An emulated one from 2008: without the check the process ends by a signal at the first use."""
    use = "from switchkd.runtime.engines.llama.library import library; library()"
    ended = subprocess.run([QEMU, "-cpu", "Nehalem", sys.executable, "-c", use], capture_output=True, text=True)
    assert ended.returncode == 1 and "SkdError: The installed llama.cpp was compiled for AVX" in ended.stderr


def test_a_build_with_amx_is_not_trusted(monkeypatch):
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"AVX2", "AMX_INT8"}))
    assert not llama_build.can_rearrange_weights()
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"AVX2"}))
    assert llama_build.can_rearrange_weights()


def test_the_installed_build_says_what_it_says_itself():
    """Its functions, which run nowhere else, against the line it prints."""
    printed = bindings().llama_print_system_info().decode()
    compiled = llama_build.compiled_instructions()
    assert compiled & {"AVX2", "NEON", "SSSE3"}
    for name in llama_build._SETS:
        assert (name in compiled) == (f" {name} = 1 " in printed), name


def test_the_installed_build_lacks_nothing_here():
    assert llama_build.lacking_instructions() == []
