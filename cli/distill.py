"""`skd distill` and `skd train`: the stages of a recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import open_run, run_options
from switchkd.cli.own import own_options, own_settings

if TYPE_CHECKING:
    from switchkd.training.run import Run


@click.command("distill", short_help="Distil a student from a teacher.")
@own_options
@run_options
def distill_command(
    recipe: str, overrides: tuple[str, ...], run_name: str | None, nproc: int | None, resume: bool, **own: Any
) -> None:
    """Distil a student from a teacher: projector pre-training (PT), then distilled fine-tuning (DFT).

    \b
    skd distill                                                    the built-in recipe, in minutes
    skd distill --teacher DIR --student DIR --data talks.json --images DIR --eval dev.json

    With a teacher and data of yours it follows the recipe `own`, the paper's settings: a student by --student is distilled at
    once (DFT), one put together by --student-vision and --student-language gets its projector aligned first (PT). Running it
    again goes on where it stopped. The student lies in runs/NAME/student, a plain transformers folder.
    """
    from switchkd.training.inputs import require_files
    from switchkd.training.teaching import learned, require_student

    recipe, overrides = own_settings(recipe, overrides, own)
    run = open_run(
        recipe, overrides, run_name, nproc, resume, require_student, partial(require_files, trained="distilled")
    )
    run.check_student()
    models = {"teacher": run.teacher()}
    twin = run.baseline() if run.recipe.compare and run.recipe.student.baseline else run.finished_baseline()
    if twin is not None:
        models["SFT"] = twin
    student = run.student()
    models[learned(student).title] = student
    _report(run, models)


@click.command("train", short_help="Train a teacher, or the student on labels alone.")
@click.option(
    "--role", type=click.Choice(["student", "teacher"]), default="student", show_default=True, help="Which model."
)
@own_options
@run_options
def train_command(
    role: str,
    recipe: str,
    overrides: tuple[str, ...],
    run_name: str | None,
    nproc: int | None,
    resume: bool,
    **own: Any,
) -> None:
    """Train without distilling: the teacher, or the student's undistilled twin (PT, then SFT).

    \b
    skd train --role teacher --teacher DIR --data talks.json --images DIR   fine-tune a ready teacher
    skd train --role student --student DIR --data talks.json --images DIR   what distilling is compared with
    """
    from switchkd.training.inputs import require_files
    from switchkd.training.teaching import require_trained_teacher, require_twin

    recipe, overrides = own_settings(recipe, overrides, own, trained=role)
    require = require_trained_teacher if role == "teacher" else require_twin
    run = open_run(recipe, overrides, run_name, nproc, resume, require, partial(require_files, trained=role))
    models = {"teacher": run.teacher()} if role == "teacher" else {"SFT": run.baseline()}
    _report(run, models)


def _report(run: Run, models: dict[str, Path]) -> None:
    from switchkd.analysis.gallery import draw_gallery
    from switchkd.analysis.report import agreement, draw_curves, evaluate_models, run_baselines, where_things_lie
    from switchkd.cli.tables import accuracy_table
    from switchkd.run_page import write_page

    results = evaluate_models(run, models)
    if results is None:
        run.console.print(
            "nothing is measured: there are no evaluation questions; name some with --eval", soft_wrap=True
        )
    else:
        run.console.print(accuracy_table(results, run_baselines(run)))
        for name, share in agreement(run, models).items():
            run.console.print(f"  {name} answers {100 * share:.1f} % of the questions like the teacher")
        draw_gallery(run, models)
    draw_curves(run)
    run.succeeded()
    write_page(run.folder)
    run.console.print(where_things_lie(run.folder, models))
    run.console.print(f"next: {_next(run, models)}", markup=False, highlight=False, soft_wrap=True)


def _next(run: Run, models: dict[str, Path]) -> str:
    """The command that goes on from here."""
    from switchkd.runs import RUNS

    name = run.folder.name if run.folder.parent == RUNS else str(run.folder)
    if models.keys() == {"teacher"}:
        return f"skd distill --teacher {run.folder / 'teacher'} --student … --data …"
    if models.keys() == {"SFT"}:
        return f"skd export {run.folder / 'baseline'} --format gguf --quant q4; or `skd distill` from a teacher"
    return f"skd export --format gguf --quant q4 --run {name}"
