"""What it costs to ask a checkpoint with the words before the picture, where training had them behind it.

    python benchmarks/picture_order.py [--model asset:teacher] [--questions 240]

Questions are the built-in task's; figures in docs/serving.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from switchkd.architecture.references import resolve_checkpoint
from switchkd.data.answers import right_answers
from switchkd.data.questions import Question, read_questions
from switchkd.data.roadscenes import write_roadscenes
from switchkd.models.answerer import Answerer

BATCH = 60


def words_first(question: Question) -> Question:
    """The same question with its picture at the end."""
    *before, last = question.messages
    parts = sorted(last["content"], key=lambda part: part["type"] == "image")
    return replace(question, messages=[*before, {**last, "content": parts}])


def main() -> None:
    """Prints how many answers are right in each order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="asset:teacher")
    parser.add_argument("--questions", type=int, default=240)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        data = Path(work, "data")
        write_roadscenes(data, size=64, seed=1, train=4, val=4, test=40, text=0)
        questions = read_questions(data / "test.json", data / "images")[: options.questions]
        model = Answerer(resolve_checkpoint(options.model))
        for order, asked in (("picture first", questions), ("words first", [*map(words_first, questions)])):
            batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
            answers = [answer for batch in batches for answer in model.answer(batch)]
            print(f"{order}: {sum(right_answers(asked, answers))} of {len(asked)} right")


if __name__ == "__main__":
    main()
