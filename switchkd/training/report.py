"""What a finished run shows: accuracy of its models, training curves, where things lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from switchkd.data.questions import Question, read_questions
from switchkd.errors import SkdError
from switchkd.files import file_sha256, folder_sha256, write_text
from switchkd.scoring import Score, is_right
from switchkd.training.evaluate import Answerer, answer_all, score_answers
from switchkd.training.run import Run
from switchkd.training.stages import RECORD

_CURVES = {"loss": "loss", "ce": "cross entropy", "align": "Align", "vsd": "visual switch"}


def evaluate_models(run: Run, models: Mapping[str, Path]) -> dict[str, dict[str, Score]] | None:
    """Scores of each model on the recipe's test split, by question kind; None where there is no test split.

    Answers are kept under reports/answers/ and read again for the same model and questions.
    """
    file, _ = run.questions("test")
    if not file.is_file():
        return None
    results = {name: read_scores(kept_answers(run, folder, "test", name)) for name, folder in models.items()}
    write_text(run.folder / "reports" / "accuracy.json", json.dumps(_plain(results), indent=2) + "\n")
    return results


def kept_answers(run: Run, model: Path, split: str, name: str) -> Path:
    """The file with a model's answers to a split's questions; asked now where they weren't before."""
    file, images = run.questions(split)
    kept = run.folder / "reports" / "answers" / f"{folder_sha256(model)[:12]}-{file_sha256(file)[:12]}.json"
    if not kept.exists():
        questions = read_questions(file, images)
        answers = answer_all(Answerer(model), questions, run.console, title=f"asking {name}")
        write_answers(kept, questions, answers, score_answers(questions, answers))
    return kept


def blind_scores(run: Run) -> dict[str, float] | None:
    """What answering by habit scores on the built-in task's test split, by question kind and in "all"."""
    if run.recipe.data.source != "roadscenes":
        return None
    blind = json.loads((run.data() / "roadscenes.json").read_text(encoding="utf-8"))["blind"]
    return blind["by_kind"] | {"all": blind["overall"]}


def recorded_questions(run_folder: Path, split: str) -> tuple[Path, Path]:
    """Question file and picture folder of a run's split, as its recipe recorded them.

    Raises:
        SkdError: the run has no such split.
    """
    recorded = yaml.safe_load((run_folder / "recipe.yaml").read_text(encoding="utf-8"))["data"]
    folder = run_folder / "data" if recorded["source"] == "roadscenes" else Path(recorded["folder"] or ".")
    file = folder / recorded[split]
    if not file.is_file():
        raise SkdError(f"The run {run_folder} has no {split} questions; name a file with --data.")
    return file, folder / recorded["test_images"]


def write_answers(path: Path, questions: list[Question], answers: list[str], scores: Mapping[str, Score]) -> None:
    """Scores and every answer as JSON."""
    rows = [
        {"id": question.id, "kind": question.kind, "expected": question.answer, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    ]
    write_text(path, json.dumps({"scores": _plain({"": scores})[""], "answers": rows}, indent=1) + "\n")


def read_scores(path: Path) -> dict[str, Score]:
    """The scores that `write_answers` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))["scores"]
    return {kind: Score(entry["right"], entry["total"]) for kind, entry in plain.items()}


def read_right(path: Path) -> list[bool]:
    """Which questions were answered right, in the file's order."""
    rows = json.loads(path.read_text(encoding="utf-8"))["answers"]
    return [is_right(row["answer"], row["expected"]) for row in rows]


def _plain(results: Mapping[str, Mapping[str, Score]]) -> dict[str, Any]:
    return {
        name: {
            kind: {"right": score.right, "total": score.total, "accuracy": score.accuracy, "interval": score.interval()}
            for kind, score in scores.items()
        }
        for name, scores in results.items()
    }


def draw_curves(run_folder: Path) -> Path | None:
    """reports/training.png: each stage's named losses, and the knees' mean between their p10 and p90."""
    records = sorted((run_folder / "stages").glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in records]
    if not stages:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4 * len(stages)), layout="constrained")
    for row, stage in enumerate(stages):
        log = [entry for entry in stage["log"] if "loss" in entry]
        left, right = figure.add_subplot(len(stages), 2, 2 * row + 1), figure.add_subplot(len(stages), 2, 2 * row + 2)
        _draw_losses(left, stage["title"], log)
        _draw_knees(right, log)
    path = run_folder / "reports" / "training.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw_losses(axes: Any, title: str, log: list[dict[str, float]]) -> None:
    for key, label in _CURVES.items():
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points and (key != "ce" or any("align" in entry for entry in log)):
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
    axes.set(title=title, xlabel="step", yscale="log")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _draw_knees(axes: Any, log: list[dict[str, float]]) -> None:
    drawn = False
    for key, label in (("k_teacher", "teacher's k"), ("k_student", "student's k")):
        rows = [entry for entry in log if f"{key}_mean" in entry]
        if rows:
            steps = [entry["step"] for entry in rows]
            (line,) = axes.plot(steps, [entry[f"{key}_mean"] for entry in rows], label=label, linewidth=1.2)
            low, high = ([entry[f"{key}_{quantile}"] for entry in rows] for quantile in ("p10", "p90"))
            axes.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
            drawn = True
    if not drawn:
        axes.set_axis_off()
        return
    axes.set(title="k: mean, p10 to p90", xlabel="step")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def where_things_lie(run_folder: Path, models: Mapping[str, Path]) -> str:
    """A few lines that tell where a run's models and reports are."""
    links = {"teacher": "teacher", "SFT": "baseline", "Switch-KD": "student"}
    lines = [f"  {name:16} {run_folder / links[name]}" for name in models if (run_folder / links[name]).exists()]
    for label, name in (("accuracy", "accuracy.json"), ("training curves", "training.png")):
        if (run_folder / "reports" / name).exists():
            lines.append(f"  {label:16} {run_folder / 'reports' / name}")
    return "\n".join(lines)
