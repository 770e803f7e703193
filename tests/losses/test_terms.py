"""Loss terms from outside the package: one file each, trained by, logged, drawn and ablated as the built-in ones are."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from support.extending import EXAMPLES, write_files
from support.training import QUIET, losses, stage_job
from torch.nn.modules.module import register_module_forward_pre_hook

from switchkd.analysis.ablation import find_row
from switchkd.analysis.report import run_models
from switchkd.cli.main import main
from switchkd.errors import RecipeError, SkdError
from switchkd.files import file_sha256
from switchkd.losses.terms import extra_names
from switchkd.recipes.reader import load_recipe
from switchkd.recipes.recipe import Distillation
from switchkd.recipes.settings import result_settings
from switchkd.training.stages import run_stage

# How the teacher's picture tokens change when it looks through the student's tower: the example in the documentation.
STATES = EXAMPLES["switchkd_terms/picture_states.py"]
# How much of the student's attention goes past the picture; it tells how much each head pays to it.
ATTENTION = """
from switchkd.losses.terms import Loss, Measure, Term


def make(settings):
    def loss(passes):
        paid = passes.student.attentions[-1].sum(dim=-1)  # [A', heads, P] → [A', heads]
        return Loss(1 - paid.mean(dim=1), {"paid": paid.flatten()})

    return loss


TERM = Term(
    "picture_attention", make, attentions=(-1,), measures=(Measure("paid", "a", "attention", digits=2),), measured="attention"
)
"""
BOTH = ("picture_attention", "picture_states")


def add_terms(patch: pytest.MonkeyPatch, folder: Path, **texts: str) -> None:
    write_files(folder, {f"switchkd_terms/{name}.py": text for name, text in texts.items()})
    patch.syspath_prepend(str(folder))


@pytest.fixture(scope="module", autouse=True)
def outside(tmp_path_factory):
    """A folder on Python's path with both terms."""
    with pytest.MonkeyPatch.context() as patch:
        add_terms(patch, tmp_path_factory.mktemp("outside"), picture_states=STATES, picture_attention=ATTENTION)
        yield
        for name in [name for name in sys.modules if name.startswith("switchkd_terms")]:
            del sys.modules[name]


@pytest.fixture
def trained(tmp_path, student_folder, teacher_folder, mixed_data):
    """Two steps by some weights → (folder, forward passes by the language models' widths)."""

    def train(name, weights, console=QUIET, **settings):
        distillation = settings.pop("distillation", Distillation(lambda_switch=0.0))
        settings = {
            "teacher": teacher_folder,
            "steps": 2,
            "distillation": replace(distillation, terms=weights),
        } | settings
        passes: Counter[int] = Counter()

        def count(module, _):
            if type(module).__name__ == "Qwen2Model":
                passes[module.config.hidden_size] += 1

        hook = register_module_forward_pre_hook(count)
        try:
            run_stage(stage_job(tmp_path / name, student_folder, mixed_data, **settings), console)
        finally:
            hook.remove()
        return tmp_path / name, passes

    return train


@pytest.mark.parametrize("name", BOTH)
def test_a_term_from_outside_trains(trained, name):
    without, passes = trained("without", {})
    folder, some = trained("some", {name: 0.5})
    other, _ = trained("other", {name: 2.0})
    nothing, none = trained("nothing", {name: 0.0})
    assert all(0 < value < 100 for value in losses(folder, name)) and len(losses(folder, name)) == 2
    first = [losses(each)[0] for each in (without, folder, other)]
    # The weighed term is what the loss is more, and its gradient reaches the weights.
    assert first[1] - first[0] == pytest.approx(0.5 * losses(folder, name)[0], rel=1e-3, abs=1e-4)
    assert first[2] - first[0] == pytest.approx(2.0 * losses(folder, name)[0], rel=1e-3, abs=1e-4)
    made = [file_sha256(each / "model" / "model.safetensors") for each in (without, folder, other, nothing)]
    assert len(set(made)) == 3 and made[0] == made[3]
    # Of weight 0 it is nothing: the same losses, no pass more; otherwise the switch's where it needs that.
    assert losses(nothing) == losses(without) and losses(nothing, name) == [0.0, 0.0]
    assert none == passes
    assert (some == passes) == (name == "picture_attention")


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"precision": "bf16"}], ids=str)
def test_the_settings_of_a_stage_keep_their_meaning(trained, settings):
    weights = dict.fromkeys(BOTH, 1.0)
    usual, changed = (trained(name, weights, **each)[0] for name, each in (("usual", {}), ("changed", settings)))
    for name in ("loss", *BOTH):
        assert losses(changed, name) == pytest.approx(
            losses(usual, name), rel=1e-4 if "gradient_checkpointing" in settings else 0.1
        )
    # How attention was computed is no part of the model.
    assert "attn" not in (usual / "model" / "config.json").read_text()


def test_a_frozen_tower_spares_what_teaches_the_tower_alone(trained):
    folder, passes = trained("frozen", {"picture_states": 1.0}, trainable=("projector",))
    assert losses(folder, "picture_states") == [0.0, 0.0]
    assert passes == trained("without", {}, trainable=("projector",))[1]


def test_the_progress_bar_follows(trained, capsys):
    trained("s", dict.fromkeys(BOTH, 1.0), Console(width=300), distillation=Distillation())
    line = capsys.readouterr().out.splitlines()[-1]
    labels = [word for word in line.split() if not word[0].isdigit()][2:]
    assert labels == ["loss", "CE", "Align", "VSD", "States", "kᵗ", "p10", "p90", "kˢ", "a", "p10", "p90"]


def test_on_the_command_line(tmp_path, monkeypatch, student_folder, teacher_folder):
    """One --set: the log, the plot; another weight is another stage."""
    monkeypatch.chdir(tmp_path)
    stage = "{data: finetune, steps: 2, batch_size: 4, log_every: 1, distill: true, warmup: 0}"
    settings = {
        "roadscenes": "{size: 56, train: 24, val: 2, test: 2, text: 4}",
        "teacher": f"{{checkpoint: {teacher_folder}}}",
        "student.checkpoint": str(student_folder),
        "student.stages": "[dft]",
        "compare": "false",
        "stages.dft": stage,
    }
    command = ["distill", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
    for weight in ("0.5", "0.5", "2"):
        result = CliRunner().invoke(main, [*command, "--set", f"distillation.terms.picture_states={weight}"])
        assert result.exit_code == 0, (result.output, result.exception)
    records = [
        json.loads(path.read_text())
        for path in (tmp_path / "runs" / "roadscenes").glob("stages/student-dft-*/stage.json")
    ]
    logged = [[entry["picture_states"] for entry in record["log"] if "loss" in entry] for record in records]
    assert len(logged) == 2 and logged[0][0] == logged[1][0] > 0 and logged[0][1] != logged[1][1]
    assert "Switch-KD" in run_models(tmp_path / "runs" / "roadscenes")
    assert (tmp_path / "runs" / "roadscenes" / "reports" / "training.png").exists()


def test_settings_explain_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (line,) = [line for line in CliRunner().invoke(main, ["recipe"]).output.splitlines() if "picture_states" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        *("distillation.terms.picture_states", "0.0", "Weight of the picture's states.")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("states", "names 'states'; known are broken, ce, picture_attention, picture_states: a term is a file"),
        ("broken", r"switchkd_terms/broken\.py can't be loaded: ModuleNotFoundError"),
        ("ce", r"switchkd_terms/ce\.py has to declare TERM, a Term of the name 'ce', which isn't one of skd's own"),
    ],
)
def test_what_is_no_term_is_refused(tmp_path, monkeypatch, name, message):
    add_terms(monkeypatch, tmp_path, broken="import nowhere\n", ce=STATES)
    assert extra_names() == ["broken", "ce", *BOTH]
    with pytest.raises(SkdError, match=message) as error:
        load_recipe("roadscenes", [f"distillation.terms.{name}=1"])
    assert "\n" not in str(error.value)


def test_weights_are_checked():
    for value in ("-1", ".inf", "much"):
        with pytest.raises(RecipeError, match=r"'distillation\.terms\.picture_states'"):
            load_recipe("roadscenes", [f"distillation.terms.picture_states={value}"])


def test_ablation_rows_name_it():
    recipe = load_recipe("roadscenes", ["distillation.terms={picture_states: 0.5, picture_attention: 0.2}"])
    rows = {
        name: find_row(name, recipe)
        for name in ("dbild-rkl", "fkl+picture_attention", "dbild-rkl+switch+picture_states")
    }
    weights = [(row.distillation.lambda_switch, row.distillation.terms) for row in rows.values()]
    assert weights == [(0.0, {}), (0.0, {"picture_attention": 0.2}), (4.0, {"picture_states": 0.5})]
    with pytest.raises(RecipeError, match=r"needs distillation.terms.picture_states above 0"):
        find_row("rkl+picture_states", load_recipe("roadscenes", ["distillation.terms.picture_states=0"]))
    with pytest.raises(RecipeError, match="nothing by picture_states"):
        frozen = ["distillation.terms.picture_states=1", "stages.dft.trainable=[language]"]
        find_row("rkl+picture_states", load_recipe("roadscenes", frozen))


def test_finished_stages_stay_finished():
    """Their fingerprints were taken before there were further terms."""
    assert "terms" not in result_settings(Distillation())
    assert result_settings(Distillation(terms={"picture_states": 0.5}))["terms"] == {"picture_states": 0.5}
