"""`skd linear-probe`: what vision towers' features hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from switchkd.cli.options import RUN


@click.command("linear-probe", short_help="Tell what vision towers' features hold.")
@click.argument("models", nargs=-1)
@click.option("--pictures", type=click.IntRange(min=80), default=1500, show_default=True, help="Fitted, at most.")
@click.option("--questions", type=click.IntRange(min=1), default=12, show_default=True, help="Probed, at most.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures here.")
@RUN
def linear_probe_command(
    models: tuple[str, ...], pictures: int, questions: int, json_file: Path | None, run_name: str | None
) -> None:
    """How well a linear probe reads answers off the features that MODELs' vision towers give the projector.

    Bare, it probes the run's models, and the tower that its student began with. The questions are those that
    the run's training conversations ask of most pictures.
    """
    import json

    from rich.console import Console

    from switchkd.analysis.probe import overall, probe_run
    from switchkd.analysis.report import named_models, student_before
    from switchkd.files import write_text
    from switchkd.runs import existing_run, latest_run

    console, run = Console(), existing_run(run_name) or latest_run()
    folders = named_models(models, run)
    if not models and (before := student_before(run)):
        folders = {"before": before} | folders
    report = probe_run(run, folders, console, pictures=pictures, questions=questions)
    console.print(_table(report, overall(report)))
    if json_file is not None:
        write_text(json_file, json.dumps({"questions": report, "all": overall(report)}, indent=1) + "\n")


def _table(report: dict[str, dict[str, Any]], mean: dict[str, float]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Linear probes of the towers' features, accuracy in %", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("question")
    for name in ("classes", "n", *mean):
        table.add_column(name, justify="right", no_wrap=True)
    for question, entry in report.items():
        shares = (entry["chance"], *entry["accuracy"].values())
        tested = f"{entry['tested']}{'' if entry['tested_on'] == 'validation' else '*'}"
        table.add_row(question, str(entry["classes"]), tested, *(f"{100 * share:.1f}" for share in shares))
    table.add_section()
    total = sum(entry["tested"] for entry in report.values())
    table.add_row("all", "", str(total), *(f"{100 * share:.1f}" for share in mean.values()), style="bold")
    if any(entry["tested_on"] != "validation" for entry in report.values()):
        table.caption = "* training pictures that were held out of the fit"
    return table
