"""A format from outside the package: four entries, and it is exported, proved, opened and predicted like any other."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from support.answers import assert_says_the_same
from support.llava_models import picture

from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import WRITERS, exporter_for
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf.mixtures import MIXTURES
from switchkd.export.parts import Build
from switchkd.hardware.runtimes import FORMATS, GGUF, ONNX, RUNTIMES, Format
from switchkd.manifest import Manifest, TensorCount
from switchkd.runtime.bench.measurement import _files
from switchkd.runtime.computer.workloads import read_workload
from switchkd.runtime.engines.opening import OPENERS, open_engine
from switchkd.runtime.engines.pytorch import load_parts


class ZipWriter:
    """A part as the whole checkpoint, packed; see `PartWriter`."""

    calibrates = ()
    tools = ("torch",)
    tolerance: ClassVar = {"whole": dict.fromkeys(("pixels", "features", "projected", "logits"), 1e-5)}
    max_divergence: ClassVar = {"whole": 1e-6}

    def __init__(self, role):
        self._role = role

    def plan(self, checkpoint, quant):
        return quant

    def unquantized(self, quant):
        return quant

    def files(self, quant):
        return {self._role: f"{self._role}.zip"}

    def write(self, checkpoint, folder, unquantized):
        path = Path(shutil.make_archive(str(folder / self._role), "zip", checkpoint.folder))
        return Build({self._role: path}, {self._role: unquantized})

    def candidates(self, job):
        yield Build({self._role: job.unquantized.files[self._role]}, {self._role: "whole"})

    def traced(self, file):
        return file

    def tensor_types(self, file):
        return {"F32": TensorCount(1, file.stat().st_size)}


class ZipOpener:
    """Runs such a part in PyTorch; see `Opener`."""

    def open_language(self, export, options):
        return self._open(export.language.file("language"), export, options)[1]

    def open_vision(self, export, options, language=None):
        return self._open(export.vision.file("vision"), export, options)[0]

    def _open(self, file, export, options):
        with tempfile.TemporaryDirectory() as folder:
            shutil.unpack_archive(file, folder)
            return load_parts(Path(folder), export.preprocess, threads=options.threads, context=options.context)


@pytest.fixture
def registered(monkeypatch):
    """As CONTRIBUTING.md tells, and gone again afterwards."""
    precisions = {"whole": ""}
    runtime = replace(
        RUNTIMES[ONNX], name="toy", files="ZIP", suffix=".zip", quants=precisions, vision_quants=precisions, aliases={}
    )
    monkeypatch.setitem(RUNTIMES, "toy", runtime)
    monkeypatch.setitem(OPENERS, "toy", ZipOpener())
    monkeypatch.setitem(WRITERS, "toy", (ZipWriter("vision"), ZipWriter("language")))
    for format in (Format("zipped", vision="toy", language="toy"), Format("mixed", vision="toy", language=GGUF)):
        monkeypatch.setitem(FORMATS, format.name, format)


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
    assert (work.image.format, work.text.format) == ("toy", "toy" if format == "zipped" else GGUF)
    assert _files(out)["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    with pytest.raises(SkdError, match="ZIP has no precision 'q2' for the vision file; there are whole"):
        run_export(ExportRequest(checkpoint, tmp_path / "other", format=format, quant=quant, vision_quant="q2"))


def test_what_nobody_registered(registered, shelf, tmp_path, monkeypatch):
    run_export(ExportRequest(shelf.checkpoint(), tmp_path / "out", format="zipped", quant="whole", threads=1))
    monkeypatch.delitem(RUNTIMES, "toy")
    monkeypatch.setitem(FORMATS, "zipped", Format("zipped", vision=ONNX, language=ONNX))
    with pytest.raises(SkdError, match=r"Nothing here runs .*language\.zip; what runs ends in \.gguf, \.onnx"):
        open_engine(tmp_path / "out", threads=1)
    monkeypatch.delitem(FORMATS, "zipped")
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
