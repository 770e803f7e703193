"""A format from outside the package: one file, and it is exported, proved, opened and predicted like any other."""

import sys
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from support.answers import assert_says_the_same
from support.extending import EXAMPLES, write_files
from support.llava_models import picture

from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf.mixtures import MIXTURES
from switchkd.hardware.runtimes import FORMATS, GGUF, ONNX, RUNTIMES, Format
from switchkd.manifest import Manifest
from switchkd.runtime.bench.summary import _files
from switchkd.runtime.computer.workloads import read_workload
from switchkd.runtime.engines.formats import MODULES
from switchkd.runtime.engines.opening import open_engine

MIXED = """
from switchkd.hardware.runtimes import Format

FORMAT = Format("mixed", vision="zipped", language="gguf")
"""


@contextmanager
def outside(folder):
    """With the documentation's format on Python's path, and a pair of a part of it and one of the package's."""
    zipped = "switchkd_formats/zipped.py"
    write_files(folder, {zipped: EXAMPLES[zipped], "switchkd_formats/mixed.py": MIXED})
    with patch.dict(RUNTIMES), patch.dict(FORMATS), patch.dict(MODULES), pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(str(folder))
        yield
    for name in [name for name in sys.modules if name.startswith("switchkd_formats")]:
        del sys.modules[name]


@pytest.fixture
def registered(tmp_path):
    with outside(tmp_path / "outside"):
        yield


@pytest.mark.parametrize(
    ("format", "quant", "names", "error"),
    [
        ("zipped", "whole", ("vision.zip", "language.zip"), 1e-6),
        ("mixed", "q8", ("vision.zip", "language.gguf"), 0.1),
    ],
)
def test_a_format_needs_no_change_inside(registered, shelf, tmp_path, format, quant, names, error):
    checkpoint, out = shelf.checkpoint(), tmp_path / "out"
    manifest = run_export(ExportRequest(checkpoint, out, format=format, quant=quant, threads=1))
    assert Manifest.load(out) == manifest and (manifest.format, manifest.vision_quant) == (format, "whole")
    assert (manifest.file_of("vision"), manifest.file_of("language")) == names and not manifest.measured
    with open_engine(checkpoint, threads=1) as reference, open_engine(out, threads=1) as engine:
        assert_says_the_same(engine, reference, picture(), error=error)
    work = read_workload(out)
    assert (work.image.format, work.text.format) == ("zipped", "zipped" if format == "zipped" else GGUF)
    assert _files(out)["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    with pytest.raises(SkdError, match="ZIP has no precision 'q2' for the vision file; there are whole"):
        run_export(ExportRequest(checkpoint, tmp_path / "other", format=format, quant=quant, vision_quant="q2"))


def test_what_is_no_longer_there(shelf, tmp_path):
    with outside(tmp_path / "outside"):
        run_export(ExportRequest(shelf.checkpoint(), tmp_path / "out", format="zipped", quant="whole", threads=1))
    message = r"Nothing here runs .*language\.zip; what runs ends in \.gguf, \.onnx"
    pair = Format("zipped", vision=ONNX, language=ONNX)
    with patch.dict(FORMATS, {"zipped": pair}), pytest.raises(SkdError, match=message):
        open_engine(tmp_path / "out", threads=1)
    with pytest.raises(SkdError, match="the format 'zipped', which this version"):
        open_engine(tmp_path / "out", threads=1)
    with pytest.raises(SkdError, match="There is no format 'zipped'; known formats: gguf, onnx, hybrid"):
        run_export(ExportRequest(shelf.checkpoint(), tmp_path / "other", format="zipped"))


@pytest.mark.parametrize("format", FORMATS)
def test_every_precision_that_is_offered_can_be_planned(shelf, format):
    checkpoint, exporter = Checkpoint(shelf.checkpoint()), exporter_for(format)
    for quant in exporter.quants:
        for vision_quant in RUNTIMES[FORMATS[format].vision].vision_quants:
            plan = exporter.plan(checkpoint, quant, vision_quant)
            assert plan.vision_quant == vision_quant and plan.max_divergence > 0 and plan.tolerance["logits"] > 0


@pytest.mark.parametrize(
    ("format", "quant", "usual"),
    [
        ("gguf", "q4", "f16"),
        ("gguf", "f32", "f32"),
        ("onnx", "q4", "q8"),
        ("onnx", "f16", "fp16"),
        ("hybrid", "f32", "q8"),
    ],
)
def test_the_vision_parts_usual_precision(shelf, format, quant, usual):
    assert exporter_for(format).plan(Checkpoint(shelf.checkpoint()), quant, None).vision_quant == usual


def test_a_mixture_of_each_name_is_offered():
    assert set(MIXTURES) - {"q8_0"} < set(RUNTIMES[GGUF].quants)
