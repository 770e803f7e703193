"""`skd bench`: how fast, how good and how steady each exported student is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import FOLLOW_LINKS, POSITIVE, FiniteRange, refuse_options

if TYPE_CHECKING:
    from rich.console import Console

    from switchkd.runtime.bench.measurement import Bench
    from switchkd.runtime.bench.tables import Grid

# Scenario → where its results go in a run.
_REPORTS = {"single": "bench", "camera": "bench-camera"}
_INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


@click.command("bench", short_help="Measure speed, memory and quality of exports.")
@click.argument("variants", nargs=-1, metavar="[VARIANT]...")
@click.option(
    "--device", default="cpu", show_default=True, help="Where ONNX exports run; `skd doctor` lists the devices."
)
@click.option(
    "--run", "run_name", help="The run whose exports are measured. Default: that of the variants, or the newest."
)
@click.option(
    "--reference", help="What the others are compared with. Default: the PyTorch student, else the first variant."
)
@click.option("--data", type=click.Path(path_type=Path), help="Questions: LLaVA JSON. Default: the run's.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Their picture folder. Default: images/ beside the file."
)
@FOLLOW_LINKS
@click.option(
    "--scenario",
    type=click.Choice(["single", "camera"]),
    default="single",
    show_default=True,
    help="One request after another, or frames at a fixed rate whether or not the last answer is done.",
)
@click.option(
    "--rate",
    type=POSITIVE,
    default=10.0,
    show_default=True,
    help="Camera: frames a second.",
)
@click.option(
    "--minutes",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Camera: of frames for each variant.",
)
@click.option(
    "--questions",
    type=click.IntRange(min=1),
    help="Asked of each variant; beyond the file's number they are asked again. Default: by time.",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=0),
    default=40.0,
    show_default=True,
    help="Without --questions: ask for so long, all variants together, but at least 64 questions.",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Requests of each variant that don't count.",
)
@click.option(
    "--divergence",
    type=click.IntRange(min=0),
    default=662,
    show_default=True,
    help="Next tokens whose distributions are compared, at least, if the questions asked have as many; 0: none, nor on "
    "the package's text.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Longest answer in tokens."
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Most tokens of a prompt and its answer.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all.")
@click.option(
    "--sequential",
    is_flag=True,
    help="One variant after another instead of in turns: less memory, more exposed to what else the machine does.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the questions' and variants' order.")
@click.option(
    "--max-loss",
    type=FiniteRange(min=0),
    metavar="POINTS",
    help="An export fails unless the questions show that it loses no more points of accuracy against the reference.",
)
@click.option("--max-ms", type=POSITIVE, metavar="MS", help="It fails if a whole answer takes longer in the median.")
@click.option("--max-mb", type=POSITIVE, metavar="MB", help="It fails if its weights take more, 10⁶ bytes each.")
@click.option(
    "--target",
    metavar="NAME",
    help="Also predict which to ship on this computer; `skd hardware list` has their names.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results. Default: reports/bench of the run, for a camera reports/bench-camera.",
)
@click.option(
    "--compare",
    "old",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    help="Also show ratios to an older bench.json.",
)
def bench_command(
    variants: tuple[str, ...],
    run_name: str | None,
    reference: str | None,
    data: Path | None,
    images: Path | None,
    follow_links: bool,
    old: Path | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Measure each VARIANT: an export folder, a name among a run's exports (also as RUN/NAME), or a checkpoint (a
    folder, or its name on the hub).

    Bare, it measures all exports of the run, with the PyTorch student as reference. Each variant runs in a process
    of its own; they take turns, in random order. Speed by phase, memory, energy where the machine counts it, and quality
    go to the terminal, to bench.json and to report.html. It ends with what to ship by goal, and why. With limits the status is 1
    where an export doesn't hold one.
    """
    from rich.console import Console

    from switchkd.files import require_writable
    from switchkd.run_page import refresh_page
    from switchkd.runs import RUNS, existing_run, find_in_runs, latest_run, run_of
    from switchkd.runtime.bench.comparison import changes_between, compare
    from switchkd.runtime.bench.limits import failed
    from switchkd.runtime.bench.measurement import OWN_SETTINGS
    from switchkd.runtime.bench.report import JSON_NAME, read_summary, write_bench
    from switchkd.runtime.bench.summary import summarise_bench
    from switchkd.runtime.bench.tables import grids

    scenario = options["scenario"]
    for other, names in OWN_SETTINGS.items():
        if other != scenario:
            refuse_options(names, f"goes with --scenario {other} alone.")
    console = Console()
    older = read_summary(old) if old else None
    run = existing_run(run_name)
    variants = tuple(find_in_runs(name, run) for name in variants)
    reference = reference and find_in_runs(reference, run)
    run = run or run_of(variants) or (latest_run() if (RUNS / "latest").exists() else None)
    out = out or (run or Path()) / "reports" / _REPORTS[scenario]
    require_writable(out)
    if old and old.resolve() == (out / JSON_NAME).resolve():
        raise click.UsageError(f"{old} would be overwritten: give the new results a folder of their own with --out.")
    bench = _prepare(run, variants, reference, data, images, follow_links, options, console)
    _measure(bench, console)
    if not any(bench.answered()):
        _end(bench)
    summary = summarise_bench(bench)
    extra = [compare(older, summary)] if older else []
    report = write_bench(bench, summary, extra, out)  # before anything is printed, which may fail
    refresh_page(report)
    for grid in [*grids(summary), *extra]:
        _print_grid(console, grid)
    notes = [*bench.conditions["warnings"], *(changes_between(older, summary) if older else [])]
    for note in notes:
        console.print(f"[yellow]{note}", highlight=False)
    if bench.energy is None:
        console.print("Energy: unavailable, no counter of this machine can be read.")
    _print_verdict(console, summary)
    console.print(f"report: {report}", soft_wrap=True)
    _end(bench, failed(summary))


def _prepare(
    run: Path | None,
    variants: tuple[str, ...],
    reference: str | None,
    data: Path | None,
    images: Path | None,
    follow_links: bool,
    options: dict[str, Any],
    console: Console,
) -> Bench:
    """Everything that can be refused before anything is measured."""
    from switchkd.computer import usable_processors
    from switchkd.data.questions import read_questions
    from switchkd.errors import SkdError
    from switchkd.run_contents import run_contents
    from switchkd.runs import latest_run, recorded_questions
    from switchkd.runtime.bench.lineup import line_up, line_up_run, require_device
    from switchkd.runtime.bench.measurement import YARDSTICKS, Bench, Measurement, Settings
    from switchkd.runtime.computer.profile import find_profile

    require_device(options["device"])
    if variants:
        folders, note = line_up(variants, reference, run), ""
    else:
        folders, note = line_up_run(run or latest_run(), reference)
    if note:
        console.print(note, highlight=False)
    scores: dict[str, float] = {}
    if data is None:
        if run is None:
            raise SkdError("There is no run whose questions could be asked; name a file with --data.")
        data, recorded_images = recorded_questions(run, "test")
        images, scores = images or recorded_images, run_contents(run).scores
    questions = read_questions(data, images or data.parent / "images", follow_links=follow_links)
    settings = Settings(**options | {"threads": options["threads"] or usable_processors()})
    measurements = {name: Measurement(name, folder) for name, folder in folders.items()}
    bench = Bench(settings, questions, data, run.resolve().name if run else "", measurements)
    bench.profile = None if settings.target is None else find_profile(settings.target)
    bench.yardsticks = {name: scores[name] for name in YARDSTICKS if name in scores}
    return bench


def _measure(bench: Bench, console: Console) -> None:
    """With a progress bar where there is a terminal; drawn seldom, as it takes the processor from what is measured."""
    from rich.progress import Progress

    from switchkd.runtime.bench.runner import run_bench

    shown = console.is_terminal
    with Progress(console=console, transient=True, disable=not shown, auto_refresh=False) as progress:
        task = progress.add_task("", total=1.0)
        last = [0.0]

        def tell(what: str, share: float) -> None:
            if shown and abs(share - last[0]) > 0.005:
                last[0] = share
                progress.update(task, description=what, completed=share, refresh=True)

        run_bench(bench, tell)


def _print_grid(console: Console, grid: Grid) -> None:
    from switchkd.cli.tables import grid_table

    console.print(grid_table(grid))
    if grid.note:
        console.print(f"{grid.note}\n", style="dim", highlight=False, markup=False)


def _print_verdict(console: Console, summary: dict[str, Any]) -> None:
    """What to ship, by goal; lines, as the reasons are sentences."""
    from rich.markup import escape

    from switchkd.runtime.bench.tables import verdict_lines

    if lines := verdict_lines(summary):
        console.print("What to ship", style="italic")
        for goal, choice, basis, why in lines:
            console.print(f"  [bold]{goal}: {escape(choice)}[/] ({escape(basis)}): {escape(why)}.", highlight=False)
        for caveat in summary["verdict"]["caveats"]:
            console.print(f"  [dim]{escape(caveat)}", highlight=False)


def _end(bench: Bench, unheld: Sequence[str] = ()) -> None:
    """Tells what went wrong and which limits aren't held, if anything is so, and leaves with the status that says so."""
    failures = [*bench.failures(), *unheld]
    for line in failures:
        click.echo(f"Error: {line}", err=True)
    if bench.interrupted:
        there = "the results are those up to here" if any(bench.answered()) else "nothing was measured yet"
        click.echo(f"Interrupted; {there}.", err=True)
    if failures or bench.interrupted or not any(bench.answered()):
        raise click.exceptions.Exit(_INTERRUPTED if bench.interrupted else 1)
