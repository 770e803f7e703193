"""`skd distill` and `skd train`: the stages of a recipe."""

from __future__ import annotations

import click

from switchkd.cli.options import open_run, run_options


@click.command("distill", short_help="Distil a student from a teacher.")
@run_options
def distill_command(
    recipe: str, overrides: tuple[str, ...], run_name: str | None, nproc: int | None, resume: bool
) -> None:
    """Distil a student from a teacher: projector pre-training (PT), then distilled fine-tuning (DFT).

    Bare, it runs the built-in recipe: data, parts and teacher are made where they are missing. Running it again goes on
    where it stopped. The student lies in runs/NAME/student, a plain transformers folder.
    """
    from switchkd.training.teaching import learned, require_student

    run = open_run(recipe, overrides, run_name, nproc, resume, require_student)
    models = {"teacher": run.teacher()} if run.recipe.compare else {}
    run.check_student()
    if run.recipe.compare and run.recipe.student.baseline:
        models["SFT"] = run.baseline()
    student = run.student()
    models[learned(student).title] = student
    _report(run, models)


@click.command("train", short_help="Train a teacher, or the student on labels alone.")
@click.option(
    "--role", type=click.Choice(["student", "teacher"]), default="student", show_default=True, help="Which model."
)
@run_options
def train_command(
    role: str, recipe: str, overrides: tuple[str, ...], run_name: str | None, nproc: int | None, resume: bool
) -> None:
    """Train without distilling: the teacher, or the student's undistilled twin (PT, then SFT)."""
    from switchkd.training.teaching import require_trained_teacher, require_twin

    require = require_trained_teacher if role == "teacher" else require_twin
    run = open_run(recipe, overrides, run_name, nproc, resume, require)
    models = {"teacher": run.teacher()} if role == "teacher" else {"SFT": run.baseline()}
    _report(run, models)


def _report(run, models) -> None:  # type: ignore[no-untyped-def]
    from switchkd.analysis.gallery import draw_gallery
    from switchkd.analysis.report import agreement, blind_scores, draw_curves, evaluate_models, where_things_lie
    from switchkd.cli.tables import accuracy_table

    results = evaluate_models(run, models)
    if results is not None:
        run.console.print(accuracy_table(results, blind_scores(run)))
        for name, share in agreement(run, models).items():
            run.console.print(f"  {name} answers {100 * share:.1f} % of the questions like the teacher")
        draw_gallery(run, models)
    draw_curves(run)
    run.console.print(where_things_lie(run.folder, models))
