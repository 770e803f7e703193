"""Ablations: what differs, what doesn't, and the figures made of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from switchkd.analysis.ablation import LOSSES, SCHEMES, Result, draw_ablation, find_row, markdown_table, summarise
from switchkd.cli.main import main
from switchkd.errors import RecipeError
from switchkd.losses.objective import Objective
from switchkd.recipes.reader import load_recipe


def test_rows_differ_in_what_they_name():
    recipe = load_recipe("roadscenes")
    rows = {name: find_row(name, recipe) for name in (*LOSSES, *SCHEMES)}
    assert rows["sft"].stages == recipe.student.baseline == rows["pt-sft"].stages
    assert rows["dbild-rkl"].distillation.lambda_switch == 0 < rows["dbild-rkl+switch"].distillation.lambda_switch
    assert rows["bild-fkl"].distillation.method == "bild-fkl"
    assert rows["dpt-dft"].stages == ("dpt", "dft")
    # Without the switch the tower learns at SFT's rate, the rest is the same.
    assert rows["dbild-rkl+switch"].stages == ("pt", "dft") and rows["dbild-rkl"].stages == ("pt", "kd")
    assert replace(recipe.stages["kd"], distill=False) == recipe.stages["sft"]
    assert replace(recipe.stages["kd"], learning_rates=recipe.stages["dft"].learning_rates) == recipe.stages["dft"]
    # Bounds of the knee mean nothing to the losses without one.
    bounded = load_recipe("roadscenes", ("distillation.knee_top=100",))
    assert find_row("dbild-rkl", bounded).distillation.knee_top == 100
    for name in LOSSES:
        Objective(find_row(name, bounded).distillation, bounded.stages["dft"])
    plain = replace(recipe, stages={name: stage for name, stage in recipe.stages.items() if name != "kd"})
    assert find_row("dbild-rkl", plain).stages == ("pt", "dft")
    with pytest.raises(RecipeError, match=r"stages.dft.steps=800 and stages.kd.steps=400; set both alike"):
        find_row("rkl", load_recipe("roadscenes", ("stages.dft.steps=800",)))
    with pytest.raises(RecipeError, match="no ablation 'magic'"):
        find_row("magic", recipe)


def test_the_figures_are_worked_by_hand():
    """Two seeds, four questions: first row right in 1 and 3 of 4, second in 2 and 4, teacher in all."""
    right = {
        ("sft", 0): (True, False, False, False),
        ("sft", 1): (True, True, True, False),
        ("dbild-rkl", 0): (False, True, True, False),
        ("dbild-rkl", 1): (True, True, True, True),
    }
    results = {key: Result(*key, sum(answers) / 4, answers) for key, answers in right.items()}
    summary = summarise(("sft", "dbild-rkl"), (0, 1), results, 1.0, 0.3, "test")
    row = summary["dbild-rkl"]
    assert row["accuracy"] == [0.5, 1.0] and row["mean"] == 0.75
    assert row["gap_closed"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert (row["against_first"]["only_first"], row["against_first"]["only_second"]) == (1, 3)
    assert row["against_first"]["difference"] == pytest.approx(2 / 8)
    # Both seeds gain a quarter, so no spread over seeds; the rows themselves spread by 0.5 (t of one degree: 12.706).
    assert row["against_first"]["interval_half_width"] == pytest.approx(0)
    assert row["interval_half_width"] == pytest.approx(12.7062 * 0.25, rel=1e-4)
    table = markdown_table(summary)
    assert "| dbild-rkl | 50.0, 100.0 | 75.0 ± 317.7 | 50 % | +25.0 ± 0.0, p = 0.62 |" in table
    assert "| blind | | 30.0" in table


def test_one_seed_has_no_interval(tmp_path):
    results = {("sft", 0): Result("sft", 0, 0.5, (True, False)), ("rkl", 0): Result("rkl", 0, 1.0, (True, True))}
    summary = summarise(("sft", "rkl"), (0,), results, 1.0, None, "test")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert "| rkl | 100.0 | 100.0 | 100 % | +50.0, p = 1 |" in markdown_table(summary)
    draw_ablation(summary, tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_signal_stops_all_of_it_and_the_same_command_goes_on(tmp_path, student_folder, teacher_folder):
    """The signal reaches the command alone; students in training keep a checkpoint, those that wait aren't begun."""
    tune = "data: finetune, steps: 5000, batch_size: 4, save_every: 10, learning_rate: 1.0e-3"
    settings = {
        "roadscenes": "{size: 56, train: 24, val: 2, test: 2, text: 4}",
        "teacher": f"{{checkpoint: {teacher_folder}}}",
        "student": f"{{checkpoint: {student_folder}, stages: [dft], baseline: [sft]}}",
        "stages": f"{{sft: {{{tune}}}, dft: {{{tune}, distill: true}}}}",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "switchkd.cli", "ablate", "--rows", "sft,rkl,fkl", "--seeds", "2", "--jobs", "2"]
    running = subprocess.Popen(
        [*command, *flags],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stages = tmp_path / "runs" / "roadscenes" / "stages"
    while (
        len({path.parent for path in stages.glob("student-*/checkpoints/checkpoint-*")}) < 2 and running.poll() is None
    ):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=0.02)
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 1 and "Traceback" not in output
    assert output.splitlines()[-1].startswith("Error: Stopped") and "goes on from there" in output
    begun = list(stages.glob("student-*[!k]"))
    assert len(begun) == 2 and all(list(folder.glob("checkpoints/checkpoint-*")) for folder in begun)
    assert not list(stages.glob("student-*/stage.json"))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_command_is_resumable_and_shares_what_it_can(tmp_path, monkeypatch, student_folder, teacher_folder, jobs):
    monkeypatch.chdir(tmp_path)
    settings = {
        "roadscenes": "{size: 56, train: 24, val: 2, test: 2, text: 4}",
        "teacher": f"{{checkpoint: {teacher_folder}}}",
        "student.checkpoint": str(student_folder),
        **{f"stages.{name}": "{data: finetune, steps: 2, batch_size: 4}" for name in ("pt", "sft")},
        **{
            f"stages.{name}": "{data: finetune, steps: 2, batch_size: 4, distill: true, learning_rate: 1.0e-2}"
            for name in ("dft", "kd")
        },
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = ["ablate", "--rows", "sft,dbild-rkl,dbild-rkl+switch", "--seeds", "2", "--split", "validation", *flags]
    for _ in range(2):
        result = CliRunner().invoke(main, [*command, "--jobs", str(jobs)])
        assert result.exit_code == 0, (result.output, result.exception)
        stages = sorted(path.parent.name for path in tmp_path.glob("runs/roadscenes/stages/*/stage.json"))
        assert [
            sum(name.startswith(f"student-{stage}-") for name in stages) for stage in ("pt", "sft", "dft", "kd")
        ] == [2] * 4
    reports = tmp_path / "runs" / "roadscenes" / "reports"
    summary = json.loads((reports / "ablation-validation.json").read_text())
    assert [len(summary[name]["accuracy"]) for name in ("sft", "dbild-rkl", "dbild-rkl+switch")] == [2, 2, 2]
    assert summary["questions"] == 16 and "against_without_switch" in summary["dbild-rkl+switch"]
    assert (reports / "ablation-validation.png").stat().st_size > 5000
