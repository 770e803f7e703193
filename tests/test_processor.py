"""What this processor has: the C library's answer against Linux's file, and files made up."""

import platform

import pytest

from switchkd import processor
from switchkd.computer import ROOT, read_text
from switchkd.errors import SkdError

OLDER = frozenset({"ssse3", "avx"})  # of no real processor


def listed(root=ROOT):
    lines = read_text(root / "proc/cpuinfo").splitlines()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":")[1].split()}


@pytest.mark.skipif(not listed(), reason="nothing to compare with")
def test_the_processor_itself_says_what_the_file_says():
    known = processor._X86 if processor.is_x86() else processor._ARM
    assert processor.instructions() == listed() & set(known)


def test_another_systems_file_is_read(tmp_path):
    (tmp_path / "proc").mkdir()
    file = tmp_path / "proc/cpuinfo"
    file.write_text(
        "processor : 0\nflags\t\t: fpu avx2 fma\nbugs\t\t: spectre_v1\n\nprocessor : 1\nflags\t\t: fpu avx2\n"
    )
    assert processor.instructions(tmp_path) == {"fpu", "avx2", "fma"}
    file.write_text("processor : 0\nFeatures\t: fp asimd i8mm\n")
    assert processor.instructions(tmp_path) == {"fp", "asimd", "i8mm"}
    file.unlink()
    assert processor.instructions(tmp_path) == frozenset()


@pytest.mark.parametrize("silent", [AttributeError, OSError, TypeError])
def test_without_such_a_c_library_the_file_is_read(monkeypatch, silent):
    def fails():
        raise silent

    monkeypatch.setattr(processor, "_ask_x86", fails)
    monkeypatch.setattr(processor, "_ask_arm", fails)
    assert processor.instructions() == listed()


def test_numpy_for_newer_processors_is_one_line(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "instructions", lambda: OLDER)
    monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: "2.4.6")
    with pytest.raises(SkdError, match=r"lacks sse4_1, sse4_2, popcnt, .* 'numpy<2\.4'\.$"):
        processor.require_numpy()
    monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: "2.3.5")
    processor.require_numpy()
    monkeypatch.setattr(processor.importlib.metadata, "version", lambda name: "2.4.6")
    for enough in (frozenset(), OLDER | {"sse4_1", "sse4_2", "popcnt"}):
        monkeypatch.setattr(processor, "instructions", lambda has=enough: has)
        processor.require_numpy()
