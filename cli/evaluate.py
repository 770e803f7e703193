"""`skd eval`: how many questions models answer right, checkpoints and exports alike; or the paper's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import FOLLOW_LINKS, RUN, find_named, refuse_options

if TYPE_CHECKING:
    from rich.console import Console

    from switchkd.cli.answers import Asked
    from switchkd.data.questions import Question


@click.command("eval", short_help="Measure accuracy, by kind of question.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--data", "file", type=click.Path(path_type=Path), help="Questions: LLaVA JSON.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Their picture folder. Default: images/ beside the file."
)
@FOLLOW_LINKS
@click.option(
    "--split", type=click.Choice(["test", "validation"]), default="test", show_default=True, help="Of the run."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Questions at a time, of a checkpoint; an export takes them one by one.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Longest answer in tokens. Default: half as many again as the longest expected one, at least 16.",
)
@click.option(
    "--score",
    "measure",
    type=click.Choice(["exact", "f1", "rouge-l"]),
    help="Exact match, words in common, or words in the same order. Default: by how long nine tenths of the expected answers "
    "are: exact up to 4 words, f1 up to 20, else rouge-l.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads for an export. Default: all.")
@click.option(
    "--through",
    help="A teacher's checkpoint: it answers, looking through each MODEL's vision tower. Tells what the switch has taught.",
)
@click.option("--suite", type=click.Choice(["paper"]), help="Run the paper's ten benchmarks in lmms-eval instead.")
@click.option(
    "--benchmark", multiple=True, metavar="NAME", help="With --suite: only this one of its benchmarks; can be repeated."
)
@click.option("--download", is_flag=True, help="With --suite: let lmms-eval fetch data that isn't there.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="With --suite: only so many questions of each, to try it out."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="With --suite: folder for what lmms-eval writes; finished results there are kept. Default: benchmarks.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the scores and answers here.")
@RUN
def eval_command(
    models: tuple[str, ...],
    file: Path | None,
    images: Path | None,
    follow_links: bool,
    split: str,
    batch_size: int,
    max_tokens: int | None,
    measure: str | None,
    threads: int | None,
    through: str | None,
    suite: str | None,
    benchmark: tuple[str, ...],
    download: bool,
    limit: int | None,
    out: Path | None,
    json_file: Path | None,
    run_name: str | None,
) -> None:
    """Accuracy of each MODEL by question kind, with 95 % intervals.

    MODEL is a checkpoint, an export folder, or the name of one of a run's exports or models (also as RUN/NAME). Of several, each is
    compared with the first on the same questions. Bare, it asks the newest run's student the questions of that run's test split.
    """
    from rich.console import Console

    from switchkd.cli.answers import report
    from switchkd.cli.suite import SuiteOptions, run_suite
    from switchkd.data.questions import read_questions
    from switchkd.overlap import usual_measure
    from switchkd.runs import existing_run, latest_run, recorded_questions, run_of

    if suite is None:
        refuse_options(("benchmark", "download", "limit", "out"), "goes with --suite alone.")
    else:
        refuse_options(
            ("file", "images", "follow_links", "split", "batch_size", "max_tokens", "measure", "through"),
            "doesn't go with --suite, which brings its own.",
        )
    console = Console()
    folders = _find_models(models, run_name)
    if suite is not None:
        options = SuiteOptions(suite, benchmark, out or Path("benchmarks"), threads, limit, download, json_file)
        run_suite(options, folders, console)
        return
    if file is None:
        file, recorded_images = recorded_questions(
            existing_run(run_name) or run_of(folders.values()) or latest_run(), split
        )
        images = images or recorded_images
    questions = read_questions(file, images or file.parent / "images", follow_links=follow_links)
    teacher = None if through is None else _find_model(through, run_name)
    asking = Asking(questions, console, batch_size, max_tokens, threads, teacher)
    answers, failures = _ask_each(folders, asking)
    if answers:
        chosen = measure or usual_measure(question.answer for question in questions)
        report([*folders], questions, answers, chosen, console, json_file)
    if failures:
        raise click.ClickException("\n".join(failures))


@dataclass(frozen=True)
class Asking:
    """How models are asked."""

    questions: list[Question]
    console: Console
    batch_size: int
    max_tokens: int | None  # None: as the expected answers need
    threads: int | None
    teacher: Path | None  # that looks through the models' towers


def _find_models(names: tuple[str, ...], run_name: str | None) -> dict[str, Path]:
    """Their folders, by names short enough for a table, in the order given."""
    from switchkd.runs import existing_run, latest_run
    from switchkd.runtime.bench.lineup import name_all

    if not names:
        folder = (existing_run(run_name) or latest_run()) / "student"
        return {str(folder): folder}
    folders = [_find_model(name, run_name) for name in names]
    return name_all(folders) if len(folders) > 1 else {str(folders[0]): folders[0]}


def _find_model(name: str, run_name: str | None) -> Path:
    from switchkd.architecture.weights import refuse_other_kinds
    from switchkd.errors import SkdError
    from switchkd.manifest import FILE_NAME

    folder = find_named(name, run_name)
    if not any((folder / file).exists() for file in (FILE_NAME, "config.json")):
        refuse_other_kinds(folder)
        raise SkdError(f"{folder} is neither an export (no {FILE_NAME}) nor a checkpoint (no config.json).")
    return folder


def _ask_each(folders: dict[str, Path], asking: Asking) -> tuple[dict[str, Asked], list[str]]:
    """Each model's answers, one model after the other; what went wrong with one doesn't lose the others' answers.

    Anything may: torch and the engines' libraries raise what they like where memory or a file's form lets them down.
    """
    from switchkd.errors import SkdError

    answers, failures = {}, []
    for name, folder in folders.items():
        try:
            answers[name] = _ask(folder, asking)
        except Exception as error:
            if len(folders) == 1:
                raise
            kind = "" if isinstance(error, SkdError) else f"{type(error).__name__}: "
            failures.append(f"{name}: {kind}{' '.join(str(error).split())}")
    return answers, failures


def _ask(folder: Path, asking: Asking) -> Asked:
    """A model's answers; or those of a teacher that looks through the model's tower."""
    from switchkd.cli.answers import Asked
    from switchkd.data.answers import Counted, answer_all, usual_limit
    from switchkd.errors import MissingDependencyError, SkdError
    from switchkd.manifest import FILE_NAME
    from switchkd.runtime.engines.answers import EngineAnswers
    from switchkd.runtime.engines.opening import open_engine

    def ask(model: Any, prompt: Any, batch_size: int) -> Asked:
        limit = asking.max_tokens or usual_limit(prompt, asking.questions)
        size = {"batch_size": batch_size, "max_new_tokens": limit}
        texts = answer_all(model, asking.questions, asking.console, title=f"asking {folder.name}", **size)
        return Asked(texts, limit, model.cut)

    teacher = asking.teacher
    exports = [path for path in (folder, teacher) if path is not None and (path / FILE_NAME).exists()]
    if teacher is not None and exports:
        raise SkdError(f"{exports[0]} is an export; --through takes a teacher's and students' checkpoints.")
    if exports:
        with open_engine(folder, threads=asking.threads) as engine:
            return ask(Counted(EngineAnswers(engine), lambda: engine.timings.ended), engine.prompt, 1)
    try:
        from switchkd.models.answerer import Answerer
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} is a PyTorch checkpoint, which needs an extra: pip install 'switchkd[train]'."
        ) from error
    answerer = Answerer(folder) if teacher is None else Answerer(teacher, tower=folder)
    return ask(answerer, answerer.prompt, asking.batch_size)
