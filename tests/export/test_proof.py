"""What an export is proved on, and against: the checkpoint in PyTorch, with pictures, whatever else is there."""

import dataclasses
import math
import shutil

import pytest
from filelock import FileLock
from gguf import GGUFReader
from support.llava_models import make_checkpoint, picture, question

from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.gguf import parts as gguf_parts
from switchkd.export.parity import ParityError
from switchkd.export.proof import Proof
from switchkd.export.samples import Sample
from switchkd.manifest import FILE_NAME
from switchkd.runtime.bench import reading
from switchkd.runtime.engines.opening import open_checkpoint

TEXT = Sample([{"role": "user", "content": "how many cars ?"}], (), "two")


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
    write = gguf_parts.write_vision

    def write_blinded(checkpoint, path, precision):
        write(checkpoint, path, precision)
        found = next(entry for entry in GGUFReader(path, "r+").tensors if entry.name == "mm.0.weight")
        found.data[:] = 0
        found.data.base.flush()

    monkeypatch.setattr(gguf_parts, "write_vision", write_blinded)
    with pytest.raises(ParityError, match="first in its projected"):
        export(checkpoint, tmp_path / "blind", held_out=[TEXT] * 3)


def test_questions_too_long_for_the_context_are_left_out_and_counted(checkpoint, tmp_path):
    """One that doesn't fit at all, one that leaves no room for an answer."""
    seen = Sample(question("is it red ?"), [picture()], "yes")
    long = [dataclasses.replace(TEXT, messages=[{"role": "user", "content": "red " * count}]) for count in (5000, 4070)]
    manifest = export(checkpoint, tmp_path / "out", held_out=[*long, seen, TEXT])
    assert manifest.parity["too_long"] == 2 and manifest.parity["loss"]["questions"] == 2


def test_records_to_quantize_by_that_are_too_long_are_left_out_and_counted(checkpoint, tmp_path):
    long = dataclasses.replace(TEXT, messages=[{"role": "user", "content": "red " * 5000}])
    manifest = export(checkpoint, tmp_path / "out", quant="q4_0", calibration=[long, TEXT, long])
    assert manifest.parity["calibration_too_long"] == 2 and manifest.parity["too_long"] == 0


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


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("proof") / "other", seed=1)


def losses(checkpoint, other, folder, samples=(), limit=0.01):
    """The proof of a checkpoint, asked of itself and of another one."""
    proof = Proof(Checkpoint(checkpoint), samples, folder, threads=1)
    found = []
    for each in (checkpoint, other):
        with open_checkpoint(each, threads=1) as engine:
            found.append(proof.measure(engine, limit))
    return found


def test_a_model_that_cannot_read_the_page_is_judged_by_its_own_words(checkpoint, other, tmp_path):
    own, loss = losses(checkpoint, other, tmp_path)
    assert set(loss.judged) == {"own words"} == {loss.worst} and loss.text["positions"] == 0
    assert loss.text["reference_perplexity"] > loss.text["counting_perplexity"] > 1
    assert loss.judged["own words"].kl_mean == loss.pictures["kl_mean"] > 0.01
    assert loss.pictures["positions"] == 4 * 64 and loss.pictures["kl_p99"] is None
    assert own.share < 1e-3 and loss.share > 1
    # Random weights are nearly as unsure as can be, ln 410 = 6 nats, and more is allowed in proportion.
    assert 0.02 < loss.judged["own words"].allowed < math.log(410) / 2.5 * 0.01


def test_a_model_that_reads_is_judged_by_the_page_and_by_the_questions(checkpoint, other, tmp_path, monkeypatch):
    """As if counting told even less."""
    monkeypatch.setattr(reading, "counting_perplexity", lambda *_: math.inf)
    own, loss = losses(checkpoint, other, tmp_path, samples=[TEXT] * 3)
    assert set(loss.judged) == {"questions", "text"} and loss.pictures["questions"] == 3
    assert loss.text["positions"] >= 1000 and loss.text["kl_p99"] > loss.text["kl_mean"] > 0.01
    assert own.text["kl_mean"] < 1e-6 and own.text["perplexity"] == pytest.approx(own.text["reference_perplexity"])
    assert loss.judged["text"].allowed == 0.01 and loss.share == max(each.share for each in loss.judged.values())


def test_beside_the_page_made_up_pictures_may_cost_more(checkpoint, other, tmp_path, monkeypatch):
    (tmp_path / "alone").mkdir()
    _, alone = losses(checkpoint, other, tmp_path / "alone")
    monkeypatch.setattr(reading, "counting_perplexity", lambda *_: math.inf)
    _, beside = losses(checkpoint, other, tmp_path)
    assert set(beside.judged) == {"own words", "text"} and beside.judged["text"].allowed == 0.01
    assert beside.judged["own words"].allowed == pytest.approx(3 * alone.judged["own words"].allowed)


def test_a_refusal_says_where_no_precision_of_the_language_model_helps(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_parts.MAX_DIVERGENCE, "q4_0", 1e-12)
    monkeypatch.setitem(gguf_parts.MAX_DIVERGENCE, "f32", 1e-12)
    with pytest.raises(ParityError, match="the vision part in q4_0; take a finer --vision-quant"):
        export(checkpoint, tmp_path / "out", quant="f32", vision_quant="q4_0")
    assert not any(tmp_path.iterdir())


def test_two_exports_into_one_folder(checkpoint, tmp_path):
    """The second is refused before it computes, forced or not; afterwards there is nothing left of the first's lock."""
    with FileLock(tmp_path / ".out.lock"):
        for force in (False, True):
            with pytest.raises(SkdError, match=r"Another export into .*out is at work"):
                export(checkpoint, tmp_path / "out", force=force)
        assert not (tmp_path / "out").exists()
    export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
