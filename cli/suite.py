"""The part of `skd eval` that runs a suite of benchmarks in lmms-eval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from switchkd.runtime.lmms.benchmarks import Benchmark
    from switchkd.runtime.lmms.run import Result

    Results = dict[str, dict[str, Result]]  # model → title → result


@dataclass(frozen=True)
class SuiteOptions:
    """What `skd eval --suite` was asked for; the fields are the options' names."""

    suite: str
    benchmark: tuple[str, ...] = ()
    out: Path = Path("benchmarks")
    threads: int | None = None
    limit: int | None = None
    download: bool = False
    json_file: Path | None = None


def run_suite(options: SuiteOptions, folders: dict[str, Path], console: Console) -> None:
    """Runs the benchmarks whose data is there with each model, and tells what the others need.

    The scores so far are in the JSON file after every benchmark, and in a table also after Ctrl-C.
    """
    from switchkd.cli.tables import suite_table
    from switchkd.runtime.lmms.benchmarks import choose, has_data, require_lmms_eval

    chosen = choose(options.suite, options.benchmark)
    require_lmms_eval()
    ready = [benchmark for benchmark in chosen if options.download or has_data(benchmark)]
    results: Results = {name: {} for name in folders}
    try:
        _run_all(options, folders, ready, results, console)
    finally:
        console.print(suite_table(chosen, results, ready))
        _tell_submissions(results, console)
    failures = [f"{title} by {name}: {each.failure}" for name, title, each in _flat(results) if each.failure]
    if not ready:
        failures = ["None of these benchmarks' data is here: --download lets lmms-eval fetch it from the hub."]
    if failures:
        raise click.ClickException("\n".join(failures))


def _run_all(
    options: SuiteOptions, folders: dict[str, Path], ready: Sequence[Benchmark], results: Results, console: Console
) -> None:
    """Fills `results`, model after model."""
    from rich.markup import escape

    from switchkd.errors import SkdError
    from switchkd.runtime.lmms.benchmarks import result_folders
    from switchkd.runtime.lmms.run import Job, Result, model_sha256

    into = result_folders([*folders.values()])
    _write(options, results)  # a file that can't be written is told of now, not after hours
    for name, folder in folders.items():
        model = model_sha256(folder) if ready else ""
        for benchmark in ready:
            place = options.out / into[folder] / benchmark.task
            job = Job(benchmark, folder, model, place, options.threads, options.limit, options.download)
            result = job.kept()
            about = f"{name}: {benchmark.title} ({benchmark.task}){', kept from before' if result else ''}"
            console.print(escape(about), highlight=False, style="dim", soft_wrap=True)
            try:
                results[name][benchmark.title] = result or job.run()
            except SkdError as error:
                results[name][benchmark.title] = Result(failure=str(error))
            _write(options, results)


def _tell_submissions(results: Results, console: Console) -> None:
    from rich.markup import escape

    for name, title, result in _flat(results):
        if result.submission is not None:
            line = f"submission file of {title} by {name}: {result.submission}"
            console.print(escape(line), highlight=False, soft_wrap=True)


def _flat(results: Results) -> list[tuple[str, str, Result]]:
    return [(name, title, result) for name, row in results.items() for title, result in row.items()]


def _write(options: SuiteOptions, results: Results) -> None:
    """Scores by model and benchmark."""
    from switchkd.files import write_text

    if options.json_file is not None:
        models = {name: {title: each.to_json() for title, each in row.items()} for name, row in results.items()}
        write_text(options.json_file, json.dumps({"suite": options.suite, "models": models}, indent=1) + "\n")
