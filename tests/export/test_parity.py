"""The comparison itself: known divergences, and every kind of damage named by the stage where it first shows."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFReader
from scipy.special import softmax
from support.llava_models import picture, question

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.export.parity import (
    ParityError,
    check_stages,
    measure_loss,
    refer_all,
    relative_error,
    write_freely,
)
from switchkd.export.parts import Build
from switchkd.export.samples import Sample, synthetic_samples
from switchkd.runtime.engines.opening import open_checkpoint


def test_relative_error():
    assert relative_error(np.array([3.0, 4.4]), np.array([3.0, 4.0])) == pytest.approx(0.08)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.zeros(3), np.zeros((3, 1))) == np.inf


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shelf):
    """(checkpoint, plan, float16 build, references)."""
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = Checkpoint(shelf.checkpoint())
    exporter = exporter_for("gguf")
    plan = exporter.plan(checkpoint, "f16", None)
    (folder / "build").mkdir()
    build = exporter.write(checkpoint, plan, folder / "build")
    samples = [*synthetic_samples(2), Sample(question("is the light green ?", before="look :"), [picture(3)])]
    samples.append(Sample([{"role": "user", "content": "how many cars ?"}]))
    with open_checkpoint(checkpoint.folder, threads=1) as engine:
        return checkpoint, plan, build, refer_all(engine, checkpoint.folder, samples, every=4)


def compare(exported, build):
    checkpoint, plan, _, references = exported
    with exporter_for("gguf").open(checkpoint, build, threads=1, traced=True) as engine:
        return check_stages(engine, references, plan.tolerance)


def damaged(exported, tmp_path, role, change) -> Build:
    """A copy of the build with `change` made to one file."""
    build = exported[2]
    path = shutil.copyfile(build.files[role], tmp_path / f"{role}.gguf")
    reader = GGUFReader(path, "r+")
    change(reader)
    reader.data.flush()
    return replace(build, files={**build.files, role: path})


def add(name, amount):
    def change(reader):
        tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
        tensor.data[:] += amount

    return change


def set_key(name, value):
    def change(reader):
        field = reader.fields[name]
        for part in field.data:
            field.parts[part][:] = value

    return change


def test_the_undamaged_build_passes(exported):
    report = compare(exported, exported[2])
    assert list(report["error"]) == ["pixels", "features", "projected", "logits"]
    assert report["tokens"] == sum(len(reference.answer) for reference in exported[3])


@pytest.mark.parametrize(
    ("role", "change", "stage"),
    [
        ("vision", set_key("clip.vision.image_mean", 0.48), "pixels"),
        ("vision", set_key("clip.vision.attention.layer_norm_epsilon", 0.1), "features"),
        ("vision", set_key("clip.use_gelu", 0), "features"),
        ("vision", add("v.position_embd.weight", 0.05), "features"),
        ("vision", add("v.patch_embd.bias", 0.05), "features"),
        ("vision", add("v.blk.2.ffn_down.bias", 0.05), "features"),
        ("vision", add("mm.0.bias", 0.1), "projected"),
        ("vision", add("mm.2.weight", 0.01), "projected"),
        ("language", set_key("qwen2.rope.freq_base", 1e4), "logits"),
        ("language", set_key("qwen2.attention.layer_norm_rms_epsilon", 0.1), "logits"),
        ("language", add("blk.1.attn_k.bias", 0.5), "logits"),
        ("language", add("blk.2.attn_v.bias", 0.05), "logits"),
        ("language", add("blk.0.ffn_gate.weight", 0.01), "logits"),
        ("language", add("output_norm.weight", 0.1), "logits"),
    ],
)
def test_damage_is_named_by_its_stage(exported, tmp_path, role, change, stage):
    with pytest.raises(ParityError, match=f"first in its {stage}: relative error") as error:
        compare(exported, damaged(exported, tmp_path, role, change))
    assert "\n" not in str(error.value)


def test_a_stage_that_is_not_shown_does_not_pass(exported, monkeypatch):
    from switchkd.runtime.engines.llama import vision as llama_vision

    monkeypatch.setattr(llama_vision, "_stage", lambda tensor: None)
    with pytest.raises(ParityError, match="first in its pixels: relative error nan"):
        compare(exported, exported[2])


def test_a_faulty_cache_shows_in_the_greedy_tokens(exported, monkeypatch):
    """Every prompt is read rightly, but the tokens after it at wrong positions."""
    from switchkd.runtime.engines.llama.engine import LlamaLanguage

    def forgetful(self, token):
        self._forget_to(3)
        return self._decode([token], every=False)[-1]

    monkeypatch.setattr(LlamaLanguage, "step", forgetful)
    with pytest.raises(ParityError, match="first in its greedy tokens"):
        compare(exported, exported[2])


def test_loss_counts_answers(exported):
    """The reference against itself, with expected answers of which one in two is right."""
    checkpoint, _, _, references = exported
    with open_checkpoint(checkpoint.folder, threads=1) as engine:
        said = [engine.prompt.decode(reference.answer) for reference in references]
        expected = [said[0], "certainly not this", said[2], "nor this"]
        marked = [
            replace(reference, sample=replace(reference.sample, answer=answer))
            for reference, answer in zip(references, expected, strict=True)
        ]
        report = measure_loss(engine, marked)
    assert report["questions"] == 4 and report["accuracy"] == report["reference_accuracy"] == 0.5
    assert report["kl_max"] < 1e-4 and report["top1"] == 1.0


@pytest.mark.parametrize(("expected", "right"), [("A", False), ("the", False), ("?", False), ("", True), (" ", True)])
def test_an_empty_answer_is_right_where_nothing_is_expected_alone(exported, expected, right):
    """VQA's normalisation leaves nothing of an article either."""
    checkpoint, _, build, references = exported
    with exporter_for("gguf").open(checkpoint, build, threads=1) as engine:
        end = min(engine.end_tokens)
        silent = replace(
            references[0],
            sample=replace(references[0].sample, answer=expected),
            answer=[end],
            rows=np.where(np.arange(references[0].rows.shape[1]) == end, 9, 0).astype(np.float32)[None],
        )
        report = measure_loss(engine, [silent])
    assert report["reference_accuracy"] == right


def test_own_words_are_drawn_from_the_checkpoints_own_distributions(exported):
    """The drawn text's rows are those of reading it at once, and over many draws tokens come as often as they should."""
    checkpoint = exported[0]
    sample = synthetic_samples(1)[0]
    with open_checkpoint(checkpoint.folder, threads=1) as engine:
        written = [write_freely(engine, sample, 40, seed) for seed in (0, 0, 1)]
        features = engine.encode_images(sample.images())
        whole = engine.language.prefill([*written[0].ids, *written[0].answer], features, every=True)
        first = written[0]
        np.testing.assert_allclose(first.rows, whole[len(first.ids) - 1 : -1], rtol=1e-3, atol=1e-3)
        assert first.answer == written[1].answer != written[2].answer and len(first.answer) == 40
        assert engine.prompt.image_token_id not in first.answer
        drawn = [write_freely(engine, sample, 1, seed).answer[0] for seed in range(300)]
        chances = softmax(first.rows[0].astype(float))
        likely = np.argsort(chances)[-100:]
        share = np.isin(drawn, likely).mean()
    # Five standard deviations of a share of 300 draws.
    assert abs(share - chances[likely].sum()) < 5 * 0.5 / np.sqrt(300)
