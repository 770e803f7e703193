"""Looking through a data file, with a bar: minutes for a large one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from switchkd.data.index import Index, Source, build_index


def check_data(source: Source, console: Console, *, workers: int, cache: Path | None = None) -> Index:
    """`build_index` with its progress on the terminal."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"checking {source.file.name}")
        return build_index(
            source,
            workers=workers,
            cache=cache,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
