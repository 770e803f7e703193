"""Training stages on small real models: the loss is the paper's, settings matter, parts freeze."""

import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.literal import literal_dbild
from support.training import QUIET, losses, stage_job, train, write_mixed
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from switchkd.errors import DataError, SkdError
from switchkd.models.vlm import load_vlm
from switchkd.prompt import ChatPrompt
from switchkd.recipes.recipe import Distillation, Stage
from switchkd.training import stages
from switchkd.training.stages import StageJob, run_stage
from switchkd.training.trainer import SwitchTrainer


def test_the_first_loss_is_the_papers_algorithm_1(tmp_path, student_folder, teacher_folder, mixed_data):
    """The whole step, from files to the logged loss, against Algorithms 1 and 2 on transformers' stock forwards."""
    from switchkd.data.index import Source, build_index
    from switchkd.data.llava import Collator, LlavaDataset
    from switchkd.preprocess import Preprocess

    train(tmp_path / "s", student_folder, mixed_data, teacher=teacher_folder, batch_size=8, steps=1, micro_batch=2)
    source = Source(*mixed_data, ChatPrompt.load(student_folder), image_tokens=16, max_length=2048)
    dataset = LlavaDataset(source, build_index(source), Preprocess.load(student_folder))
    student, teacher = load_vlm(student_folder), load_vlm(teacher_folder)
    hybrid = load_vlm(teacher_folder)
    hybrid.model.vision_tower = student.model.vision_tower
    rows = source.prompt.length
    sums, tokens = torch.zeros(3, dtype=torch.float64), 0
    for index in range(8):
        batch = Collator(0)([dataset[index]])
        batch.pop("bad")
        labels = batch.pop("labels")
        answers = labels[:, 1:] != -100
        with torch.no_grad():
            z_t, z_s, z_switch = (
                model(**batch).logits[:, :-1][answers][:, :rows] for model in (teacher, student, hybrid)
            )
        sums[0] += cross_entropy(z_s.double(), labels[:, 1:][answers], reduction="sum")
        sums[1] += literal_dbild(z_t, z_s, 3.0).sum()
        sums[2] += literal_dbild(z_t, z_switch, 3.0).sum() if "pixel_values" in batch else 0
        tokens += int(answers.sum())
    expected = (sums / tokens).tolist()
    logged = [losses(tmp_path / "s", key)[0] for key in ("ce", "align", "vsd")]
    assert logged == pytest.approx(expected, rel=1e-5)
    assert losses(tmp_path / "s")[0] == pytest.approx(sum(expected), rel=1e-5)


def test_accumulated_micro_batches_equal_one_batch(tmp_path, student_folder, teacher_folder, mixed_data):
    traces = []
    for micro in (4, 1):
        folder = tmp_path / f"m{micro}"
        train(folder, student_folder, mixed_data, teacher=teacher_folder, micro_batch=micro)
        traces.append([value for key in ("loss", "ce", "align", "vsd") for value in losses(folder, key)])
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


@pytest.fixture(scope="module")
def data(tmp_path_factory, road_scenes):
    return write_mixed(tmp_path_factory.mktemp("data"), road_scenes)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, student_folder, teacher_folder, data):
    """The first step's loss, by the changes to the usual objective; the usual one's is trained once."""

    @cache
    def loss(**change) -> float:
        folder = tmp_path_factory.mktemp("distilled")
        settings = {"teacher": teacher_folder, "steps": 1, "distillation": Distillation(**change)}
        train(folder, student_folder, data, **settings)
        return losses(folder)[0]

    return loss


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, student_folder, data):
    """The weights after a stage, by the changes to its usual settings; the usual ones are trained once."""
    usual = load_file(train(tmp_path_factory.mktemp("tuned"), student_folder, data) / "model.safetensors")

    def weights(**change):
        if not change:
            return usual
        return load_file(train(tmp_path_factory.mktemp("tuned"), student_folder, data, **change) / "model.safetensors")

    return weights


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1.0},
        {"method": "fkl"},
        {"lambda_align": 0.5},
        {"lambda_switch": 0.0},
        {"knee_top": 20},
        {"k_max": 5},
        {"k_min": 600},
        {"tau_squared": True},
        {"ce_temperature": 3.0},
    ],
    ids=str,
)
def test_every_distillation_setting_reaches_the_loss(distilled, change):
    assert distilled(**change) != pytest.approx(distilled(), rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 3e-3},
        {"learning_rates": {"vision": 1e-2}},
        {"weight_decay": 0.5},
        {"schedule": "linear"},
        {"warmup": 0.9},
        {"clip": 0.01},
        {"beta2": 0.9},
        {"batch_size": 2},
        {"group_by_length": False},
        {"steps": 5},
        {"seed": 1},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_stage_setting_reaches_the_weights(tuned, change):
    ours, theirs = tuned(), tuned(**change)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_gradient_checkpointing_changes_nothing(tmp_path, student_folder, teacher_folder, mixed_data):
    for name, on in (("a", False), ("b", True)):
        train(tmp_path / name, student_folder, mixed_data, teacher=teacher_folder, gradient_checkpointing=on)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)


def test_an_untied_model_is_trained_head_and_all(tmp_path, teacher_folder, mixed_data):
    model = train(tmp_path / "s", teacher_folder, mixed_data, steps=2)
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher_folder, model))
    head = "language_model.lm_head.weight"
    assert before.keys() == after.keys() and not torch.equal(before[head], after[head])


@pytest.mark.parametrize("parts", [("projector",), ("vision",), ("language", "projector")])
def test_frozen_parts_stay_as_they_were(tmp_path, student_folder, teacher_folder, mixed_data, parts):
    model = train(tmp_path / "s", student_folder, mixed_data, teacher=teacher_folder, trainable=parts)
    before, after = (load_file(folder / "model.safetensors") for folder in (student_folder, model))
    prefixes = {"vision": "vision_tower", "projector": "multi_modal_projector", "language": "language_model"}
    changed = {
        part
        for part, prefix in prefixes.items()
        if any(not torch.equal(before[name], after[name]) for name in before if name.startswith(prefix))
    }
    assert changed == set(parts)


@pytest.fixture
def breaking(tmp_path, road_scenes, monkeypatch):
    """Four captions with pictures, one of which is torn after the check, as by a disk that fails while training."""
    images = tmp_path / "images"
    shutil.copytree(road_scenes / "images", images)
    records = json.loads((road_scenes / "captions.json").read_text())[:4]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(records))
    torn = images / records[0]["image"]
    check_data = stages.check_data

    def check_and_tear(*arguments, **options):
        index = check_data(*arguments, **options)
        torn.write_bytes(torn.read_bytes()[:60])
        return index

    monkeypatch.setattr(stages, "check_data", check_and_tear)
    return file, images


def test_a_picture_that_breaks_while_training_is_counted_and_told(tmp_path, student_folder, breaking, capsys):
    """Each time it is met, in windows of the log of any length, and over an interruption."""
    job = stage_job(tmp_path / "s", student_folder, breaking, steps=5, log_every=2, save_every=3, batch_size=4)
    job = replace(job, data=replace(job.data, max_bad=0.5))
    run_stage(job, Console(width=300))
    record = json.loads((job.folder / "stage.json").read_text())
    assert record["unusable_while_training"] == 5
    assert [entry["unusable"] for entry in record["log"] if "loss" in entry] == [1, 1, 2, 1]
    assert "left 5 samples out: their pictures couldn't be read" in capsys.readouterr().out


def test_too_many_pictures_that_break_end_the_training(tmp_path, student_folder, breaking):
    with pytest.raises(
        DataError, match="pictures of 1 samples couldn't be read while training, more than 1 % of the stage's 20"
    ):
        train(tmp_path / "s", student_folder, breaking, steps=5)
    assert not (tmp_path / "s" / "model").exists()


@pytest.mark.parametrize("parts", [("projector",), ("vision", "projector")])
def test_text_alone_where_the_language_model_is_frozen(tmp_path, student_folder, teacher_folder, mixed_data, parts):
    """No part that is trained sees such a batch; the step is one of gradient zero, not an error."""
    records = json.loads(mixed_data[0].read_text())[6:] * 2
    mixed_data[0].write_text(json.dumps(records))
    model = train(tmp_path / "s", student_folder, mixed_data, teacher=teacher_folder, trainable=parts, weight_decay=0.0)
    before, after = (load_file(folder / "model.safetensors") for folder in (student_folder, model))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_several_gpus_in_one_process_are_one(tmp_path, student_folder, mixed_data, monkeypatch):
    """transformers would make one model of all that it sees, each with its own share of a batch."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: getattr(self, "_n_gpu", 4) or 4))
    arguments = stages._arguments(stage_job(tmp_path / "s", student_folder, mixed_data, micro_batch=2))
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 2)


def test_the_logged_terms_are_means_of_steps(tmp_path, student_folder, mixed_data):
    """Eight samples in batches of six are steps of three and one micro-batches; the log's loss is transformers' own mean."""
    train(tmp_path / "s", student_folder, mixed_data, batch_size=6, micro_batch=2, steps=4, log_every=4)
    ((first, last), (ce_first, ce_last)) = (losses(tmp_path / "s", key) for key in ("loss", "ce"))
    assert ce_first == pytest.approx(first, rel=1e-3) and ce_last == pytest.approx(last, rel=1e-3)


def test_knees_of_more_positions_than_torch_sorts(monkeypatch, tmp_path, student_folder, teacher_folder, mixed_data):
    """torch.quantile refuses more than 2^24 values, which a long window of the log exceeds."""
    collect = SwitchTrainer._collect

    def collect_more(self, sums, *rest):
        k = sums.measures["k_teacher"][:1].expand(2**24 + 1)
        collect(self, sums._replace(measures={"k_teacher": k}), *rest)

    monkeypatch.setattr(SwitchTrainer, "_collect", collect_more)
    train(tmp_path / "s", student_folder, mixed_data, teacher=teacher_folder, steps=1)
    assert losses(tmp_path / "s", "k_teacher_p90")[0] > 0


def test_too_much_bad_data_stops_before_training(tmp_path, student_folder, road_scenes):
    records = json.loads((road_scenes / "captions.json").read_text())[:4]
    records[0]["image"] = "train/none.png"
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(records))
    with pytest.raises(DataError, match="1 of 4 records"):
        train(tmp_path / "s", student_folder, (file, road_scenes / "images"))


def test_jobs_that_cannot_run_say_so(tmp_path, student_folder, mixed_data):
    with pytest.raises(SkdError, match="can't be split"):
        train(tmp_path / "a", student_folder, mixed_data, batch_size=3, micro_batch=2)
    with pytest.raises(SkdError, match="trains no part"):
        train(tmp_path / "b", student_folder, mixed_data, trainable=())
    job = stage_job(tmp_path / "c", student_folder, mixed_data)
    with pytest.raises(SkdError, match="there is no teacher"):
        run_stage(StageJob(**{**vars(job), "stage": Stage(distill=True, steps=1)}), QUIET)
    with pytest.raises(SkdError, match="was to run in 2 processes and ran in 1"):
        train(tmp_path / "d", student_folder, mixed_data, processes=2)


def test_a_job_survives_its_file(tmp_path, student_folder, teacher_folder, mixed_data):
    job = stage_job(
        tmp_path,
        student_folder,
        mixed_data,
        teacher=teacher_folder,
        learning_rates={"vision": 1e-4},
        trainable=("vision",),
    )
    assert StageJob.load(job.save()) == job


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_warning_about_equal_towers(tmp_path, student_folder, mixed_data, capsys, precision):
    settings = {"teacher": student_folder, "steps": 1, "precision": precision}
    run_stage(stage_job(tmp_path / "s", student_folder, mixed_data, **settings), Console(width=300))
    assert "same vision tower" in capsys.readouterr().out
    assert losses(tmp_path / "s", "vsd")[0] == pytest.approx(0, abs=1e-6 if precision == "fp32" else 1e-2)
