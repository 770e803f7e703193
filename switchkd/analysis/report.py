"""What a finished run shows: accuracy of its models, training curves, where things lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from switchkd.architecture.references import resolve_checkpoint
from switchkd.data.answers import answer_all, plain_scores, read_answers, read_scores, write_answers
from switchkd.data.habits import Baselines, baselines
from switchkd.data.questions import read_questions
from switchkd.errors import SkdError
from switchkd.files import file_sha256, folder_sha256, write_text
from switchkd.losses.terms import Measure, Term, terms_of
from switchkd.models.answerer import Answerer
from switchkd.runs import STAGE_RECORD, data_folder, find_in_runs, latest_run, recorded_recipe
from switchkd.scoring import Score, is_right
from switchkd.training.run import Run
from switchkd.training.teaching import learned

# Names that reports give to a run's models, and the links that the run keeps to them.
_LINK_OF = {"teacher": "teacher", "SFT": "baseline"}
_STUDENT = "student"  # the link to it; its name tells what it learned from
TEACHER = "teacher"
_REPORTS = {
    "accuracy": "accuracy.json",
    "training curves": "training.png",
    "answers": "answers.png",
    "all on one page": "index.html",
}


def evaluate_models(run: Run, models: Mapping[str, Path]) -> dict[str, dict[str, Score]] | None:
    """Scores of each model on the recipe's test split, by question kind; None where there is no test split.

    Answers are kept under reports/answers/ and read again for the same model and questions.
    """
    file, _ = run.questions("test")
    if not file.is_file():
        return None
    results = {name: read_scores(kept_answers(run, folder, "test", name)) for name, folder in models.items()}
    plain: dict[str, Any] = {name: plain_scores(scores) for name, scores in results.items()}
    plain |= {"agreement_with_teacher": agreement(run, models)}
    if (unseen := run_baselines(run)) is not None:
        plain |= {name: plain_scores(getattr(unseen, name)) for name in ("blind", "majority")}
    write_text(run.folder / "reports" / "accuracy.json", json.dumps(plain, indent=2) + "\n")
    return results


def agreement(run: Run, models: Mapping[str, Path]) -> dict[str, float]:
    """Share of the test questions that each student answers like the teacher, right or wrong, after normalisation;
    empty where the teacher is not among the models."""
    if TEACHER not in models:
        return {}
    answers = {name: read_answers(kept_answers(run, folder, "test", name)) for name, folder in models.items()}
    teacher = [row["answer"] for row in answers.pop(TEACHER)]
    return {
        name: sum(_agree(row["answer"], other) for row, other in zip(rows, teacher, strict=True)) / len(teacher)
        for name, rows in answers.items()
    }


def _agree(answer: str | None, other: str | None) -> bool:
    """Whether two models say the same; what one of them couldn't be asked is no agreement."""
    return answer is not None and other is not None and is_right(answer, other)


def kept_answers(run: Run, model: Path, split: str, name: str) -> Path:
    """The file with a model's answers to a split's questions; asked now where they weren't before."""
    file, images = run.questions(split)
    kept = run.folder / "reports" / "answers" / f"{folder_sha256(model)[:12]}-{file_sha256(file)[:12]}.json"
    if not kept.exists():
        questions = read_questions(file, images, follow_links=run.recipe.data.follow_links)
        answers = answer_all(Answerer(model), questions, run.console, title=f"asking {name}")
        write_answers(kept, questions, answers)
    return kept


def run_baselines(run: Run, split: str = "test") -> Baselines | None:
    """What a split's questions give to whoever doesn't look at the pictures; None where there is no such split."""
    file, images = run.questions(split)
    recipe = run.recipe
    stages = recipe.student.stages or recipe.student.baseline or recipe.teacher.stages
    training = run.data_set(recipe.stages[stages[-1]].data)[0] if stages else file
    if not file.is_file() or not training.is_file() or training == file:
        return None
    return baselines(training, read_questions(file, images, follow_links=recipe.data.follow_links))


def recorded_conversations(run_folder: Path) -> tuple[Path, Path]:
    """File and picture folder of the conversations that a run's student (or, without one, its teacher) ends with.

    Raises:
        SkdError: the run trains neither, or the file is gone.
    """
    recipe = recorded_recipe(run_folder)
    stages = recipe["student"]["stages"] or recipe["teacher"]["stages"]
    if not stages:
        raise SkdError(f"The run {run_folder} trains no model, so it has no conversations.")
    entry = recipe["data"]["sets"][recipe["stages"][stages[-1]]["data"]]
    folder = data_folder(run_folder, recipe["data"])
    if not (folder / entry["file"]).is_file():
        raise SkdError(f"The run {run_folder} was trained on {folder / entry['file']}, which is gone.")
    return folder / entry["file"], folder / entry["images"]


def run_models(run_folder: Path) -> dict[str, Path]:
    """The models that a run has, teacher first, by the names that reports give them."""
    models = {name: run_folder / link for name, link in _LINK_OF.items() if (run_folder / link).exists()}
    if (student := run_folder / _STUDENT).exists():
        models[learned(student).title] = student
    teacher = recorded_recipe(run_folder)["teacher"]
    if TEACHER not in models and teacher["checkpoint"]:
        models = {TEACHER: resolve_checkpoint(teacher["checkpoint"])} | models
    return models


def student_before(run_folder: Path) -> Path | None:
    """The student as it was before its first stage; None in a run without one."""
    if reference := recorded_recipe(run_folder)["student"]["checkpoint"]:
        return resolve_checkpoint(reference)
    starts = sorted((run_folder / "stages").glob("student-start-*/model"), key=lambda path: path.stat().st_mtime)
    return starts[-1] if starts else None


def named_models(references: Sequence[str], run_folder: Path | None = None) -> dict[str, Path]:
    """Models that a person named, under names short enough for a table; those of the run where none is named.

    Args:
        run_folder: where names of models are looked for; by default the newest run.

    Raises:
        SkdError: no such model, or no run yet.
    """
    if not references:
        models = run_models(run_folder or latest_run())
        if not models:
            raise SkdError(f"The run {run_folder or latest_run()} has no model yet; name a model folder.")
        return models
    folders = {reference: resolve_checkpoint(find_in_runs(reference, run_folder)) for reference in references}
    short = {reference: Path(reference).name for reference in folders}
    unique = len(set(short.values())) == len(short)
    return {short[reference] if unique else reference: folder for reference, folder in folders.items()}


def draw_curves(run: Run) -> Path | None:
    """reports/training.png: each stage's named losses, and their measures' mean between p10 and p90 (the knees)."""
    records = sorted((run.folder / "stages").glob(f"*/{STAGE_RECORD}"), key=lambda path: path.stat().st_mtime)
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in records]
    if not stages:
        return None
    from matplotlib.figure import Figure

    terms = terms_of(run.recipe.distillation)
    panels: list[Callable[[Any], None]] = []
    for stage in stages:
        log = [entry for entry in stage["log"] if "loss" in entry]
        panels.append(partial(_draw_losses, title=stage["title"], log=log, terms=terms))
        for term in terms:
            if any(f"{measure.name}_mean" in entry for measure in term.measures for entry in log):
                title = f"{stage['title']}: {term.measured or term.name}, mean and p10 to p90"
                panels.append(partial(_draw_measures, title=title, log=log, measures=term.measures))
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 2.4 * rows), layout="constrained")
    for number, draw in enumerate(panels, 1):
        draw(figure.add_subplot(rows, 2, number))
    path = run.folder / "reports" / "training.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw_losses(axes: Any, title: str, log: list[dict[str, float]], terms: Sequence[Term]) -> None:
    labels = {term.name: term.label or term.name for term in terms if any(term.name in entry for entry in log)}
    # One term alone is the loss.
    for key, label in ({"loss": "loss"} | (labels if len(labels) > 1 else {})).items():
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
    axes.set(title=title, xlabel="step", yscale="log")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _draw_measures(axes: Any, title: str, log: list[dict[str, float]], measures: Sequence[Measure]) -> None:
    for key, _, label, _ in measures:
        rows = [entry for entry in log if f"{key}_mean" in entry]
        steps = [entry["step"] for entry in rows]
        (line,) = axes.plot(steps, [entry[f"{key}_mean"] for entry in rows], label=label, linewidth=1.2)
        low, high = ([entry[f"{key}_{quantile}"] for entry in rows] for quantile in ("p10", "p90"))
        axes.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
    axes.set(title=title, xlabel="step")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def where_things_lie(run_folder: Path, models: Mapping[str, Path]) -> str:
    """A few lines that tell where a run's models and reports are."""
    links = {name: run_folder / _LINK_OF.get(name, _STUDENT) for name in models}
    lines = [f"  {name:16} {link}" for name, link in links.items() if link.exists()]
    for label, name in _REPORTS.items():
        if (run_folder / "reports" / name).exists():
            lines.append(f"  {label:16} {run_folder / 'reports' / name}")
    return "\n".join(lines)
