"""`skd data`: make the built-in task, or check a data set of yours."""

from __future__ import annotations

from pathlib import Path

import click

from switchkd.cli.options import FOLLOW_LINKS, RUN


@click.group("data", short_help="Check training data, or draw the built-in task.")
def data_group() -> None:
    """Make or check training data."""


@data_group.command("roadscenes")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--size", default=64, show_default=True, help="Pixels a side.")
@click.option("--seed", default=0, show_default=True, help="Seed of the scenes.")
@click.option("--train", default=6000, show_default=True, help="Training pictures.")
@click.option("--val", default=50, show_default=True, help="Validation pictures.")
@click.option("--test", default=250, show_default=True, help="Test pictures.")
@click.option("--text", default=12000, show_default=True, help="Text-only scenes.")
@click.option("--pairs", default=0, show_default=True, help="Training questions about two pictures each.")
def roadscenes_command(folder: Path, pairs: int, **sizes: int) -> None:
    """Draw driving-camera pictures with captions and questions into FOLDER, as LLaVA JSON."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from switchkd.data.roadscenes import write_roadscenes

    console = Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("drawing road scenes")
        summary = write_roadscenes(
            folder,
            **sizes,
            pairs=pairs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(title=f"{folder}", title_justify="left")
    table.add_column("question kind")
    table.add_column("blind %", justify="right")
    for kind, accuracy in summary["blind"]["by_kind"].items():
        table.add_row(kind, f"{100 * accuracy:.1f}")
    table.add_row("all", f"{100 * summary['blind']['overall']:.1f}", style="bold")
    if pairs:
        for kind, accuracy in summary["blind_pairs"]["by_kind"].items():
            table.add_row(f"pairs: {kind}", f"{100 * accuracy:.1f}")
        table.add_row("all pairs", f"{100 * summary['blind_pairs']['overall']:.1f}", style="bold")
    console.print(table)


@data_group.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Picture folder. Default: images/ beside the file.")
@click.option(
    "--model",
    help="The model whose tokens are counted: a folder, asset:NAME, RUN/NAME or a name on the hub. Default: the run's "
    "student.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="Longest usable sample in tokens. Default: that of the run whose student is taken, else of the recipe `own`.",
)
@click.option(
    "--verify",
    type=click.Choice(["full", "header"]),
    default="full",
    show_default=True,
    help="Decode pictures whole, or read their headers.",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of unusable records that is still fine.",
)
@FOLLOW_LINKS
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes that decode.")
@RUN
def check_command(
    file: Path,
    images: Path | None,
    model: str | None,
    max_length: int | None,
    verify: str,
    max_bad: float,
    follow_links: bool,
    workers: int,
    run_name: str | None,
) -> None:
    """Tell what of FILE (LLaVA JSON or JSONL) can be trained on, why the rest can't, and what is in it: lengths in tokens,
    answers, shapes of pictures and what the model's processor makes of them.

    Ends with an error where more records than --max-bad are unusable.
    """
    from rich.console import Console

    from switchkd.architecture.architecture import Architecture
    from switchkd.architecture.endings import require_learned_end
    from switchkd.architecture.references import resolve_checkpoint
    from switchkd.cli.tables import data_table, statistics_table
    from switchkd.data.index import Source
    from switchkd.data.progress import check_data
    from switchkd.data.statistics import data_statistics
    from switchkd.data.usability import count_usable
    from switchkd.preprocess import Preprocess
    from switchkd.prompt import ChatPrompt
    from switchkd.recipes.reader import load_recipe
    from switchkd.runs import existing_run, find_in_runs, latest_run, recorded_recipe

    console = Console()
    run = existing_run(run_name)
    folder = resolve_checkpoint(find_in_runs(model, run)) if model else (run or latest_run()) / "student"
    if max_length is None:
        recorded = None if model else recorded_recipe(run or latest_run())["data"]
        max_length = recorded["max_length"] if recorded else load_recipe("own").data.max_length
    prompt = ChatPrompt.load(folder)
    prompt.require_answer_marks()
    require_learned_end(folder, prompt)
    source = Source(
        file,
        images or file.parent / "images",
        prompt,
        image_tokens=Architecture.read(folder).image_tokens,
        max_length=max_length,
        verify="full" if verify == "full" else "header",
        follow_links=follow_links,
    )
    index = check_data(source, console, workers=workers)
    usability = count_usable(source, index)
    console.print(data_table(str(file), usability))
    console.print(statistics_table(data_statistics(source, index, Preprocess.load(folder)), max_length))
    usability.check(max_bad)
