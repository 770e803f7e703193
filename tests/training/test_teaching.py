"""What a recipe's student learns from its teacher: refused before anything runs where it is nothing; told by the records."""

import json

import pytest
import yaml
from click.testing import CliRunner
from support.training import train

from switchkd.analysis.ablation import find_row
from switchkd.analysis.report import run_models
from switchkd.cli.main import main
from switchkd.errors import RecipeError
from switchkd.recipes.reader import load_recipe
from switchkd.recipes.recipe import Distillation, Stage
from switchkd.training.teaching import Learned, learned, require_student, require_trained_teacher, require_twin, taught

PLAIN = {
    "data": {"source": "files", "sets": {"finetune": {"file": "none.json"}}},
    "teacher": {"checkpoint": "t"},
    "student": {"checkpoint": "s", "stages": ["pt", "dft"], "baseline": ["pt", "sft"]},
    "stages": {"pt": {"trainable": ["projector"]}, "sft": {}, "dft": {"distill": True}},
}
UNTAUGHT = [
    (["student.stages=[]"], "student.stages is empty"),
    (["student.stages=[pt, sft]"], r"\(pt, sft\) distils: set stages.sft.distill=true"),
    (["stages.dft.distill=false"], "distils: set stages.dft.distill=true"),
    (
        ["distillation.lambda_align=0", "distillation.lambda_switch=0"],
        "no stage of the student learns from the teacher",
    ),
    (["distillation.lambda_align=0", "stages.dft.trainable=[projector, language]"], "no stage of the student learns"),
    (
        ["student.stages=[dpt]", "stages.dpt={trainable: [projector], distill: true}", "distillation.lambda_align=0"],
        "no stage",
    ),
    (["teacher.checkpoint=", "teacher.vision=v", "teacher.language=l"], "neither a checkpoint nor stages"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    return str(path)


@pytest.mark.parametrize(("changes", "message"), UNTAUGHT)
def test_a_student_that_would_learn_nothing_from_the_teacher(file, tmp_path, monkeypatch, changes, message):
    """Before anything is made, even a run's folder."""
    with pytest.raises(RecipeError, match=message):
        require_student(load_recipe(file, [change if change[-1] != "=" else f"{change}''" for change in changes]))
    monkeypatch.chdir(tmp_path)
    words = [word for change in changes for word in ("--set", change if change[-1] != "=" else f"{change}''")]
    result = CliRunner().invoke(main, ["distill", "--recipe", file, *words])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1, result.output
    assert not (tmp_path / "runs").exists()


def test_what_is_taught_passes(file):
    for changes in (
        [],
        ["distillation.lambda_switch=0"],
        ["stages.dft.trainable=[projector]"],
        ["student.stages=[dft]"],
    ):
        require_student(load_recipe(file, changes))
    for name in ("mobilevlm-1.5b", "roadscenes", "tinyllava-0.5b", "tinyllava-1.5b"):
        require_student(load_recipe(name))
        require_twin(load_recipe(name))


@pytest.mark.parametrize(
    ("role", "changes", "message"),
    [
        ("student", ["student.baseline=[]"], "student.baseline is empty"),
        ("student", ["student.baseline=[pt, dft]"], "names stage 'dft', which distils"),
        ("student", ["stages.pt.distill=true"], "names stage 'pt', which distils"),
        ("student", ["student.checkpoint=''"], "the student has neither a checkpoint nor a vision and a language part"),
        ("teacher", [], "teacher.stages is empty"),
        ("teacher", ["teacher.checkpoint=''", "teacher.stages=[pt]"], "the teacher has neither"),
    ],
)
def test_training_that_would_train_nothing_or_otherwise(file, tmp_path, monkeypatch, role, changes, message):
    require = require_twin if role == "student" else require_trained_teacher
    with pytest.raises(RecipeError, match=message):
        require(load_recipe(file, changes))
    monkeypatch.chdir(tmp_path)
    words = [word for change in changes for word in ("--set", change)]
    result = CliRunner().invoke(main, ["train", "--role", role, "--recipe", file, *words])
    assert result.exit_code == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("owner", "beside"),
    [
        ("teacher", {"vision": "v", "language": "l"}),
        ("student", {"vision": "v"}),
        ("student", {"language": "l"}),
    ],
)
def test_what_a_checkpoint_would_silence(tmp_path, owner, beside):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, owner: PLAIN[owner] | beside}))
    with pytest.raises(RecipeError, match=rf"{owner}.{next(iter(beside))} would be ignored beside {owner}.checkpoint"):
        load_recipe(str(path))


def test_a_checkpoint_on_the_command_line_takes_the_place_of_parts():
    recipe = load_recipe("tinyllava-0.5b", ["teacher.checkpoint=t", "student.checkpoint=s"])
    assert (recipe.teacher.stages, recipe.teacher.vision, recipe.student.language) == ((), "", "")
    assert recipe.student.stages == ("pt", "dft")
    tuned = load_recipe("tinyllava-0.5b", ["teacher.checkpoint=t", "teacher.stages=[sft]"])
    assert (tuned.teacher.stages, tuned.teacher.language) == (("sft",), "")


def test_ablations_name_what_their_rows_learn():
    for name, changes, message in (
        ("dbild-rkl", ["student.stages=[pt, sft]"], "would learn nothing from the teacher"),
        ("dbild-rkl+switch", ["stages.dft.trainable=[language]"], "nothing through the switch"),
        ("fkl", ["distillation.lambda_align=0"], "nothing from the teacher"),
        ("sft", ["student.baseline=[pt, dft]"], "which distils"),
        ("pt-dft", ["stages.dft.distill=false"], "stage 'dft' doesn't distil"),
        ("pt-sft", ["stages.pt.distill=true"], "stage 'pt' distils"),
    ):
        with pytest.raises(RecipeError, match=message):
            find_row(name, load_recipe("roadscenes", changes))


def test_what_a_stage_teaches():
    on, off = Distillation(), Distillation(lambda_align=0, lambda_switch=0)
    assert taught(Stage(distill=True), on) == Learned(True, True)
    assert taught(Stage(distill=True, trainable=("language",)), on) == Learned(True, False)
    assert not taught(Stage(distill=False), on) and not taught(Stage(distill=True), off)


@pytest.mark.parametrize(
    ("stages", "title"),
    [
        ([{"learned": {"align": True, "switch": True}}], "Switch-KD"),
        ([{"learned": {"align": True, "switch": False}}], "KD"),
        ([{"learned": {"align": False, "switch": False}}], "student"),
        (
            [{"log": [{"loss": 1, "ce": 1, "align": 0.2, "vsd": 0.0}, {"loss": 1, "align": 0.1, "vsd": 0.3}]}],
            "Switch-KD",
        ),
        ([{"log": [{"loss": 1, "ce": 1, "align": 0.2, "vsd": 0.0}]}], "KD"),
        ([{"log": [{"loss": 1, "ce": 1}]}], "student"),
        ([None], "student"),
    ],
)
def test_names_come_from_the_records(tmp_path, stages, title):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(PLAIN | {"teacher": {"checkpoint": ""}}))
    stage = tmp_path / "stages" / "student-dft-0"
    (stage / "model").mkdir(parents=True)
    if stages[0] is not None:
        (stage / "stage.json").write_text(json.dumps(stages[0]))
    (tmp_path / "student").symlink_to("stages/student-dft-0/model")
    assert list(run_models(tmp_path)) == [title]


def test_a_later_stage_remembers(tmp_path, student_folder, teacher_folder, mixed_data):
    """Records of real stages: without the switch, with it, and a stage without a teacher after them."""
    first = train(tmp_path / "a", student_folder, mixed_data, teacher=teacher_folder, steps=1, trainable=("projector",))
    assert learned(first) == Learned(True, False)
    second = train(tmp_path / "b", first, mixed_data, teacher=teacher_folder, steps=1)
    assert learned(second) == Learned(True, True)
    assert learned(train(tmp_path / "c", second, mixed_data, steps=1)) == Learned(True, True)
    assert (
        learned(student_folder) == Learned()
        and learned(train(tmp_path / "d", student_folder, mixed_data, steps=1)) == Learned()
    )
