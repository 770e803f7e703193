"""What an export is proved on, and against: the checkpoint in PyTorch, with pictures, whatever else is there."""

import dataclasses
import shutil

import pytest
from gguf import GGUFReader
from support.llava_models import picture, question

from switchkd.errors import SkdError
from switchkd.export import gguf_exporter
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.parity import ParityError
from switchkd.export.probes import Probe
from switchkd.manifest import FILE_NAME

TEXT = Probe([{"role": "user", "content": "how many cars ?"}], None, "two")


@pytest.fixture(scope="module")
def checkpoint(shelf):
    return shelf.checkpoint()


def export(checkpoint, out, **settings):
    return run_export(ExportRequest(checkpoint, out, threads=1, **{"quant": "f16"} | settings))


def test_a_folder_that_holds_an_export_too_is_compared_with_its_weights(checkpoint, tmp_path):
    """Its manifest would open the older export as the reference, and anything equals itself."""
    first = export(checkpoint, tmp_path / "first")
    both = shutil.copytree(tmp_path / "first", tmp_path / "both")
    shutil.copy(checkpoint / "model.safetensors", both)
    again = export(both, tmp_path / "again")
    errors = again.parity["stages"]["error"]
    assert errors == pytest.approx(first.parity["stages"]["error"], rel=0.1, abs=1e-6)
    assert errors["projected"] > 0 < errors["logits"]


def test_questions_without_pictures_prove_the_tower_all_the_same(checkpoint, tmp_path, monkeypatch):
    manifest = export(checkpoint, tmp_path / "out", held_out=[TEXT] * 3)
    assert {"pixels", "features", "projected", "logits"} <= set(manifest.parity["stages"]["error"])
    assert manifest.parity["loss"]["questions"] == 3 and manifest.parity["probes"] == 5
    write = gguf_exporter.write_vision

    def write_blinded(checkpoint, path, precision):
        write(checkpoint, path, precision)
        found = next(entry for entry in GGUFReader(path, "r+").tensors if entry.name == "mm.0.weight")
        found.data[:] = 0
        found.data.base.flush()

    monkeypatch.setattr(gguf_exporter, "write_vision", write_blinded)
    with pytest.raises(ParityError, match="first in its projected"):
        export(checkpoint, tmp_path / "blind", held_out=[TEXT] * 3)


def test_questions_too_long_for_the_context_are_left_out_and_counted(checkpoint, tmp_path):
    """One that doesn't fit at all, one that leaves no room for an answer."""
    seen = Probe(question("is it red ?"), picture(), "yes")
    long = [dataclasses.replace(TEXT, messages=[{"role": "user", "content": "red " * count}]) for count in (5000, 4070)]
    manifest = export(checkpoint, tmp_path / "out", held_out=[*long, seen, TEXT])
    assert manifest.parity["too_long"] == 2 and manifest.parity["loss"]["questions"] == 2


def test_only_an_older_export_is_ever_replaced(checkpoint, tmp_path, monkeypatch):
    own = shutil.copytree(checkpoint, tmp_path / "run" / "student")
    for out in (own, own.parent, tmp_path):
        with pytest.raises(SkdError, match="holds the checkpoint itself"):
            export(own, out, force=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    with pytest.raises(SkdError, match=f"is no export .it has no {FILE_NAME}."):
        export(checkpoint, other, force=True)
    assert (own / "model.safetensors").exists() and (other / "chapter.txt").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(checkpoint, type(tmp_path)("."), force=True)
    assert (tmp_path / "here" / FILE_NAME).exists()


@pytest.mark.parametrize("quant", ["f16", "q8"])
def test_calibration_that_would_change_nothing_is_refused(checkpoint, tmp_path, quant):
    with pytest.raises(SkdError, match=r"is quantized by data; leave --calibrate out"):
        export(checkpoint, tmp_path / "out", quant=quant, calibration=[TEXT])
