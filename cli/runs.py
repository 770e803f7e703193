"""`skd runs`: the runs that are here, and what each holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from switchkd.run_contents import RunContents


@click.command("runs", short_help="List runs, what each holds and scored.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all of it to this file too.")
def runs_command(json_file: Path | None) -> None:
    """List the runs under runs/: finished stages, models, exports, packages, and what share of the questions each model got right.

    Reads files only; nothing is run.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from switchkd.errors import SkdError
    from switchkd.run_contents import all_runs

    found = all_runs()
    if json_file is not None:
        _write(json_file, found)
    if not found:
        raise SkdError("There is no run under runs/ yet: start with `skd distill`.")
    table = Table(title="Runs", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
    for name in ("run", "stages", "models", "exports", "packages", "right, %"):
        table.add_column(name, overflow="fold")
    for run in found:
        stages = [*run.finished, *(f"{name}, interrupted" for name in run.begun)]
        scores = (f"{name} {100 * share:.1f}" for name, share in run.scores.items())
        lines: tuple[Iterable[str], ...] = (stages, run.models, run.exports, run.packages, scores)
        title = f"[bold]{escape(run.folder.name)}[/]{' (newest)' if run.newest else ''}\n{escape(run.recipe)}"
        table.add_row(title, *(escape("\n".join(each)) or "–" for each in lines))
    Console().print(table)


def _write(path: Path, found: list[RunContents]) -> None:
    import json
    from dataclasses import asdict

    from switchkd.files import write_text

    plain = {run.folder.name: asdict(run) | {"folder": str(run.folder)} for run in found}
    write_text(path, json.dumps(plain, indent=1) + "\n")
