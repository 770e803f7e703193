"""What the build uses is compared with what the processor has."""

from switchkd.runtime import llama_build


def test_instructions_left_unused(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"AVX2", "FMA"}))
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 fma f16c avx512f avx512_vnni\n")
    assert llama_build.unused_instructions(cpuinfo) == ["F16C", "AVX512", "AVX512_VNNI"]
    cpuinfo.write_text("Features\t: fp asimd asimddp i8mm\n")
    assert llama_build.unused_instructions(cpuinfo) == ["NEON", "DOTPROD", "MATMUL_INT8"]
    assert llama_build.unused_instructions(tmp_path / "nothing") == []


def test_a_build_with_amx_is_not_trusted(monkeypatch):
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"AVX2", "AMX_INT8"}))
    assert not llama_build.can_rearrange_weights()
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"AVX2"}))
    assert llama_build.can_rearrange_weights()


def test_the_installed_build_says_something():
    assert llama_build.compiled_instructions() & {"AVX2", "NEON", "SSE3"}
