"""`skd hardware`: target computers, and whether exports fit them and how fast they will be there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import POSITIVE, RUN

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from switchkd.hardware.fit import Estimate, Fit
    from switchkd.hardware.profile import Profile

_PLAIN_WIDTH = 140  # columns of tables that go to a file


@click.group("hardware", short_help="Predict whether an export fits a target, how fast.")
def hardware_group() -> None:
    """Target computers: what is known of them, what an export needs there and how fast it will be, by prediction."""


@hardware_group.command("list")
def list_command() -> None:
    """List the computers that skd knows, and this one."""
    from switchkd.hardware.profile import FIELDS, LOCAL, ProfileError, profile_names, shipped_profile
    from switchkd.runtime.computer.profile import kept_local

    table = _table("Target computers (– unknown)", "name", "computer", "cores", "RAM, GB", "GB/s", "int8 TOPS", "known")
    for name in profile_names():
        profile = shipped_profile(name)
        if name == LOCAL:
            with suppress(ProfileError):  # what was kept is torn
                profile = kept_local() or profile
        cores = ", ".join(f"{count}× {kind}" for kind, count in (profile.value("cores") or {}).items()) or "–"
        numbers = [
            _plain(profile.value("ram_gb")),
            _plain(profile.value("memory_gbps") or profile.value("memory_read_gbps")),
            _plain(profile.value("accelerator_int8_tops")),
        ]
        note = " (skd hardware probe measures it)" if name == LOCAL and not profile.figures else ""
        table.add_row(name, f"{profile.title}{note}", cores, *numbers, f"{len(profile.figures)} of {len(FIELDS)}")
    _console().print(table)


@hardware_group.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show every figure of NAME with its source, and what is unknown with the reason. A .toml file of yours is checked too."""
    from switchkd.runtime.computer.profile import find_profile

    _show(find_profile(name))


@hardware_group.command("probe")
@click.option("--threads", type=click.IntRange(min=1), help="Cores that measure together. Default: all.")
def probe_command(threads: int | None) -> None:
    """Measure this computer again: memory bandwidth, int8 and float products. Takes ten seconds on an idle computer.

    What else runs meanwhile makes it look slower. The result is kept for `--target local`.
    """
    from switchkd.runtime.computer.profile import cache_file, probe_local

    with _console(stderr=True).status("measuring"):
        profile = probe_local(threads=threads)
    _show(profile)
    click.echo(f"kept in {cache_file()}")


@hardware_group.command("fit")
@click.argument("variants", nargs=-1, required=True)
@click.option("--target", "targets", multiple=True, help="Name or .toml file; can be repeated. Default: all.")
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens that a conversation may have. Default: 2048, or what the student was trained on.",
)
@click.option("--text", type=click.IntRange(1), default=32, show_default=True, help="Tokens of a question.")
@click.option("--answer", type=click.IntRange(1), default=16, show_default=True, help="Tokens of an answer.")
@click.option("--rate", type=POSITIVE, help="Pictures a second that a camera gives.")
@click.option("--ram", type=POSITIVE, help="GB of memory, for targets whose profile has none.")
@click.option(
    "--processor",
    type=click.Choice(["cpu", "accelerator"]),
    default="cpu",
    show_default=True,
    help="Where it runs. skd's engines use the CPU; the accelerator is an outlook for other runtimes.",
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write everything to this file too.")
@RUN
def fit_command(
    variants: tuple[str, ...],
    targets: tuple[str, ...],
    context: int | None,
    text: int,
    answer: int,
    rate: float | None,
    ram: float | None,
    processor: str,
    file: Path | None,
    run_name: str | None,
) -> None:
    """Predict whether VARIANTS fit target computers, and how fast they will be there.

    A variant is an export folder or the name of one of a run's exports (also as RUN/NAME). Nothing is run; docs/hardware.md
    says how the predictions are made, docs/results/hardware.md how good they were.
    """
    from switchkd.errors import SkdError
    from switchkd.hardware.fit import FitError, fit
    from switchkd.hardware.profile import profile_names
    from switchkd.runs import existing_run, find_in_runs
    from switchkd.runtime.computer.profile import find_profile
    from switchkd.runtime.computer.workloads import read_workload

    errors: dict[str, None] = {}  # each once, in order

    def each_good(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Results for those items that don't fail; what the others say is told at the end."""
        results = []
        for item in items:
            try:
                results.append(work(item))
            except (SkdError, FitError) as error:
                errors[str(error)] = None
        return results

    asked: dict[str, Any] = {"context": context, "text_tokens": text, "answer_tokens": answer, "rate": rate}
    run = existing_run(run_name)
    workloads = each_good(lambda name: read_workload(find_in_runs(name, run)), variants)
    profiles = each_good(find_profile, dict.fromkeys(targets or profile_names()))
    console, fits = _console(), []
    for workload in workloads:
        rows = each_good(partial(fit, workload, **asked, processor=processor, ram_gb=ram), profiles)
        if rows:
            console.print(_fit_table(rows))
            _print_reasons(console, rows)
        fits += rows
    if file and fits:
        _write(file, [each.to_json() for each in fits])
    if errors:
        raise click.ClickException("\n".join(errors))


def _fit_table(fits: Sequence[Fit]) -> Table:
    """One variant on all targets."""
    first = fits[0]
    asked = f"context {first.context}, picture and question {first.prompt_tokens} tokens, answer {first.answer_tokens}"
    columns = [
        "target",
        "needs, GB",
        "has, GB",
        "fits",
        "encode, s",
        "prefill, s",
        "first token, s",
        "decode, tokens/s",
    ]
    columns.append("pictures/s" if first.rate is None else f"holds {first.rate:g} Hz")
    table = _table(f"Predicted: {first.workload.name} on the {first.processor} ({asked})", *columns, "prefer")
    colours = {"yes": "green", "no": "red", "perhaps": "yellow", "unknown": "yellow"}

    def coloured(word: str) -> str:
        return f"[{colours[word]}]{word}"

    for each in fits:
        held = each.holds_rate
        table.add_row(
            each.profile.name,
            f"{each.memory.total / 1e9:.2f}",
            "–" if each.available is None else f"{each.available / 1e9:.2f}",
            coloured(each.fits),
            *map(_value, (each.encode, each.prefill)),
            *map(_band, (each.first_token, each.tokens_per_second)),
            _band(each.pictures_per_second) if held is None else coloured(held),
            each.advice.choice.short if each.advice.choice else "none fits",
        )
    return table


def _print_reasons(console: Console, fits: Sequence[Fit]) -> None:
    """Why which export is preferred, and why figures are missing, each once with the targets it holds for."""
    preferred: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for each in fits:
        advice = each.advice
        preferred.setdefault(f"{advice.title}: {'; '.join(advice.reasons)}", []).append(each.profile.name)
        if each.missing:
            missing.setdefault("; ".join(each.missing), []).append(each.profile.name)
    for title, reasons in (("prefer", preferred), ("missing (–)", missing)):
        for reason, names in reasons.items():
            console.print(f"[bold]{title}[/bold] {reason} [dim]({', '.join(names)})", highlight=False)


def _write(file: Path, fits: list[dict[str, Any]]) -> None:
    import json

    from switchkd.files import write_text

    write_text(file, json.dumps({"kind": "predicted", "fits": fits}, indent=2, ensure_ascii=False) + "\n")


def _show(profile: Profile) -> None:
    from rich.markup import escape

    from switchkd.hardware.profile import FIELDS

    table = _table(f"{profile.name}: {profile.title}", "field", "value", "confidence", "source")
    for name, field in FIELDS.items():
        if figure := profile.figures.get(name):
            cells = (f"{_plain(figure.value)} {field.unit}".strip(), figure.confidence, figure.source)
            table.add_row(name, *map(escape, cells))
    console = _console()
    console.print(table)
    if profile.note:
        console.print(escape(profile.note))
    if profile.unknown:
        unknown = _table("unknown", "field", "reason")
        for name, reason in profile.unknown.items():
            unknown.add_row(name, escape(reason))
        console.print(unknown)


def _band(estimate: Estimate | None) -> str:
    """A value with its band."""
    if estimate is None:
        return "–"
    low, value, high = (_short(each) for each in (estimate.low, estimate.value, estimate.high))
    return f"{value} ({low}–{high})"


def _value(estimate: Estimate | None) -> str:
    return "–" if estimate is None else _short(estimate.value)


def _short(value: float) -> str:
    """Two significant digits, whole numbers from ten on."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _plain(value: Any) -> str:
    """A profile's value for people."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " – ".join(map(_plain, value)) if isinstance(value[0], int | float) else ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        numeric = any(unit in column for unit in ("GB", "TOPS", ", s", "/s"))
        table.add_column(column, justify="right" if numeric else "left", no_wrap=not index)
    return table


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PLAIN_WIDTH)
