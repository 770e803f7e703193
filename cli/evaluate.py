"""`skd eval`: how many questions a model answers right."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("eval")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--data", "file", type=click.Path(path_type=Path), help="Questions: LLaVA JSON of one turn each.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Their picture folder. Default: images/ beside the file."
)
@click.option(
    "--split", type=click.Choice(["test", "validation"]), default="test", show_default=True, help="Of the run."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Questions at a time.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Longest answer in tokens."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the scores and answers here.")
def eval_command(
    checkpoint: Path | None,
    file: Path | None,
    images: Path | None,
    split: str,
    batch_size: int,
    max_tokens: int,
    json_file: Path | None,
) -> None:
    """Accuracy of CHECKPOINT by question kind, with 95 % intervals.

    Bare, it asks the newest run's student the questions of that run's test split.
    """
    from rich.console import Console

    from switchkd.cli.tables import accuracy_table
    from switchkd.data.questions import read_questions
    from switchkd.models.vlm import resolve_checkpoint
    from switchkd.runs import latest_run, recorded_questions
    from switchkd.training.evaluate import Answerer, answer_all, score_answers
    from switchkd.training.report import write_answers

    console = Console()
    folder = latest_run() / "student" if checkpoint is None else resolve_checkpoint(checkpoint)
    answerer = Answerer(folder)
    if file is None:
        file, recorded_images = recorded_questions(latest_run(), split)
        images = images or recorded_images
    questions = read_questions(file, images or file.parent / "images")
    answers = answer_all(
        answerer, questions, console, title="answering", batch_size=batch_size, max_new_tokens=max_tokens
    )
    scores = score_answers(questions, answers)
    console.print(accuracy_table({str(folder): scores}))
    if json_file is not None:
        write_answers(json_file, questions, answers, scores)
