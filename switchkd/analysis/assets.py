"""Stand-ins for public checkpoints: made by a recipe, stored in half precision, each with a card that says how good it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from switchkd.analysis.probe import overall, probe_run
from switchkd.analysis.report import kept_answers
from switchkd.data.answers import answer_all, read_scores, score_answers
from switchkd.data.questions import Question, read_questions
from switchkd.data.roadscenes import scenes
from switchkd.data.roadscenes.records import training_records
from switchkd.files import file_sha256, replacing_folder, write_text
from switchkd.models.answerer import Answerer
from switchkd.scoring import Score
from switchkd.training.run import Run

ASSETS = ("tower", "language-small", "language-large", "teacher")
CARD = "card.json"
# Scenes in words that language parts are asked about; no training recipe uses this seed.
_TEXT_SEED, _TEXT_QUESTIONS = 7919, 1000


def make_assets(run: Run, folder: Path) -> None:
    """Makes every shipped part with the run's recipe and writes them under `folder`, each whole or not at all.

    Can be interrupted and started again, as every run.
    """
    for name in ASSETS:
        source = run.teacher() if name == "teacher" else run.part(name)
        card = {
            "name": name,
            "recipe": run.recipe.name,
            "seed": run.recipe.seed,
            "data": f"roadscenes, {run.recipe.roadscenes.train} pictures, {run.recipe.roadscenes.text} scenes in words",
            "stages": _stages_of(run, name),
            **measure(run, name, source),
        }
        with replacing_folder(folder / name) as partial:
            halve(source, partial)
            card["sha256"] = file_sha256(partial / "model.safetensors")
            write_text(partial / CARD, json.dumps(card, indent=1) + "\n")
            write_text(partial / "README.md", describe(card))
        run.console.print(f"{folder / name}: {card['measured']} {100 * card['accuracy']:.1f} %")


def _stages_of(run: Run, name: str) -> list[dict[str, Any]]:
    """Stages behind a part, in order, with their length."""
    role = run.recipe.teacher if name == "teacher" else run.recipe.parts[name]
    stages = [(stage, run.recipe.stages[stage]) for stage in role.stages]
    return [{"stage": stage, "steps": settings.steps, "epochs": settings.epochs} for stage, settings in stages]


def measure(run: Run, name: str, source: Path) -> dict[str, Any]:
    """What a part can do, on what it hasn't seen: {"measured": of what, "accuracy": share, "questions": number}."""
    if name == "teacher":
        scores = read_scores(kept_answers(run, source, "test", name))
        by_kind = {kind: score.accuracy for kind, score in scores.items() if kind != "all"}
        return _figure("questions about test pictures", scores["all"]) | {"by_kind": by_kind}
    whole = source.parent / "model"
    if name == "tower":
        report = probe_run(run.folder, {name: whole}, run.console)
        tested = sum(entry["tested"] for entry in report.values())
        return {"measured": "linear probe of its features", "accuracy": overall(report)[name], "questions": tested}
    questions = text_questions(run.folder / "reports", _TEXT_SEED, _TEXT_QUESTIONS)
    return _figure("questions about scenes in words", ask(whole, questions, run.console))


def _figure(what: str, score: Score) -> dict[str, Any]:
    return {"measured": what, "accuracy": score.accuracy, "questions": score.total}


def ask(model: Path, questions: list[Question], console: Console) -> Score:
    """How many questions a model folder answers right."""
    answers = answer_all(Answerer(model), questions, console, title="asking")
    return score_answers(questions, answers)["all"]


def text_questions(folder: Path, seed: int, count: int) -> list[Question]:
    """Single questions about scenes that are described in words, written to a file in `folder` and read from it."""
    records = training_records("text", seed, scenes("text", seed, count), pictures=False)
    singles = [
        {**record, "conversations": record["conversations"][:2], "kind": questions[0].kind}
        for record, questions in islice(_first_of_each(records), count)
    ]
    file = folder / f"text-questions-{seed}-{count}.json"
    write_text(file, json.dumps(singles))
    return read_questions(file, None)


def _first_of_each(records: Iterable[Any]) -> Iterable[Any]:
    return (entry for entry in records if entry[0]["id"].endswith("-talk"))


def halve(source: Path, target: Path) -> None:
    """A copy of a model folder with its weights in float16."""
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(path).items()}
            save_file(tensors, target / path.name, metadata={"format": "pt"})
        elif path.is_file():
            shutil.copyfile(path, target / path.name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": "float16", "torch_dtype": "float16"}
    write_text(target / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def describe(card: dict[str, Any]) -> str:
    """A card in words."""
    stages = ", ".join(_length(row) for row in card["stages"])
    lines = [
        f"# {card['name']}",
        "",
        "A small stand-in for a public checkpoint, for the built-in task only. Made by `make assets`.",
        "",
        f"- recipe: `{card['recipe']}`, seed {card['seed']}",
        f"- data: {card['data']}",
        f"- stages: {stages}",
        f"- {card['measured']}: {100 * card['accuracy']:.1f} % of {card['questions']}",
        f"- SHA-256 of model.safetensors: {card['sha256']}",
    ]
    lines += [f"- {kind}: {100 * accuracy:.1f} %" for kind, accuracy in card.get("by_kind", {}).items()]
    return "\n".join(lines) + "\n"


def _length(stage: dict[str, Any]) -> str:
    unit = "steps" if stage["steps"] else "epochs"
    return f"{stage['stage']} ({stage[unit]} {unit})"
