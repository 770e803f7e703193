"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from switchkd.scoring import Paired, Score

if TYPE_CHECKING:
    from switchkd.data.habits import Baselines
    from switchkd.data.statistics import Statistics
    from switchkd.overlap import MeanScore
    from switchkd.runtime.bench.tables import Grid
    from switchkd.runtime.lmms.benchmarks import Benchmark
    from switchkd.runtime.lmms.run import Result


def accuracy_table(
    results: Mapping[str, Mapping[str, Score | MeanScore]],
    unseen: Baselines | None = None,
    title: str = "Accuracy on held-out questions, % (95 % interval)",
) -> Table:
    """Accuracy by question kind: without looking at the pictures, then a column a model, each with its 95 % interval."""
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("kind", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    if unseen is not None:
        table.add_column("blind", justify="right", no_wrap=True)
    for name in results:
        table.add_column(escape(name), justify="right", no_wrap=True)
    kinds = list(next(iter(results.values())))
    for kind in kinds:
        scores = [scores[kind] for scores in results.values()]
        cells = [_cell(score) for score in scores]
        if unseen is not None:
            cells.insert(0, f"{100 * unseen.blind[kind].accuracy:.1f}")
        style = "bold" if kind == "all" else ""
        table.add_row(escape(kind), str(scores[0].total), *cells, style=style, end_section=kind == kinds[-2:][0])
    if unseen is not None:
        majority = f"{100 * unseen.majority['all'].accuracy:.1f}"
        table.caption = (
            "blind: by the training data's habits, without the picture\n"
            f"majority: always “{escape(unseen.frequent)}” would be right {majority} %"
        )
        table.caption_justify = "left"
    return table


def _cell(score: Score | MeanScore) -> str:
    low, high = score.interval()
    return f"{100 * score.accuracy:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def paired_table(first: str, pairs: Mapping[str, Paired]) -> Table:
    """Models against the first on the same questions."""
    table = Table(
        title=f"Against {escape(first)}, in points (95 % interval)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model", overflow="fold")
    for name in ("difference", "lost", "won", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, paired in pairs.items():
        low, high = paired.interval()
        difference = f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        p_value = f"{paired.p_value:.2g}" if paired.p_value < 0.1 else f"{paired.p_value:.2f}"
        table.add_row(escape(name), difference, str(paired.only_first), str(paired.only_second), p_value)
    return table


def suite_table(
    suite: Sequence[Benchmark], results: Mapping[str, Mapping[str, Result]], ready: Collection[Benchmark]
) -> Table:
    """Benchmarks of a suite: each model's score on the paper's scale, or what a score needs.

    Args:
        ready: those whose data is there.
    """
    table = Table(title="The paper's benchmarks", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark", no_wrap=True)
    table.add_column("lmms-eval's task", no_wrap=True)
    for name in results:
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("scored by", overflow="fold")
    for benchmark in suite:
        otherwise = "not run" if benchmark in ready else "no data"
        cells = [_outcome(row[benchmark.title]) if benchmark.title in row else otherwise for row in results.values()]
        table.add_row(benchmark.title, benchmark.task, *cells, benchmark.server or "lmms-eval")
    if any(result.joined for row in results.values() for result in row.values()):
        table.caption = "joined: questions whose pictures the model saw side by side as one"
        table.caption_justify = "left"
    return table


def _outcome(result: Result) -> str:
    if result.failure:
        return "[red]failed"
    if result.too_few:
        return "too few questions"
    counts = {"unanswered": result.unanswered, "joined": result.joined}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    score = "to submit" if result.score is None else f"{result.score:.1f}"
    return f"{score} ({told})" if told else score


def data_table(name: str, report: Any) -> Table:
    """What of a data file can be used, and why the rest can't."""
    table = Table(title=escape(name), title_justify="left")
    table.add_column("records")
    table.add_column("number", justify="right")
    table.add_column("for example")
    table.add_row("usable", str(report.usable))
    table.add_row("  of these text only", str(report.text_only))
    if report.several:
        table.add_row("  of these with several pictures", str(report.several), f"up to {report.most_pictures}")
    for reason, count in report.bad.items():
        examples = escape(f"{', '.join(report.examples[reason])}: {report.why[reason]}")
        table.add_row(f"[red]unusable: {escape(reason)}", str(count), examples)
    table.add_row("all", str(report.total), style="bold")
    return table


def statistics_table(statistics: Statistics, limit: int) -> Table:
    """Lengths, answers and pictures of a data file, and what the model makes of the pictures' shapes."""
    looked_at, records = statistics.looked_at, statistics.records
    of = "" if looked_at == records else f"; answers and pictures of {looked_at:,} of {records:,} usable records"
    table = Table(title=f"What is in it{of}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("median", "95 %", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {"tokens a record": (statistics.tokens, "{:.0f}"), "longer side over shorter": (statistics.aspect, "{:.2f}")}
    rows |= {_CHANGES[name][0]: (spread, _CHANGES[name][1]) for name, spread in statistics.changes.items()}
    for name, (spread, form) in rows.items():
        if spread is not None:
            table.add_row(name, *(form.format(value) for value in (spread.median, spread.high, spread.most)))
    lines = [f"{statistics.too_long:,} records are longer than {limit:,} tokens: they are left out, none is cut"]
    for name, frequent in (("answers", statistics.answers), ("pictures", statistics.sizes)):
        if frequent.total:
            named = ", ".join(f"{thing or '(nothing)'} {100 * share:.1f} %" for thing, share in frequent.named)
            lines.append(f"{frequent.total:,} {name}, {frequent.different:,} different: {named}")
    table.caption, table.caption_justify = escape("\n".join(lines)), "left"
    return table


# What a processor does to pictures, and how it is written.
_CHANGES = {
    "stretched": ("one side stretched against the other", "{:.2f}-fold"),
    "lost": ("of a picture cut off", "{:.1%}"),
    "filled": ("of what is seen padding", "{:.1%}"),
}


def grid_table(grid: Grid) -> Table:
    """A table of a bench."""
    table = Table(title=grid.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(grid.columns):
        word = max(map(len, name.split()), default=0)
        table.add_column(name, justify="right" if index else "left", no_wrap=not index, min_width=word)
    for row in grid.rows:
        table.add_row(*map(escape, row))
    return table
