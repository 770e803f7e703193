"""Whether exported variants answer as their PyTorch source does, on a file of questions.

python benchmarks/variants.py CHECKPOINT VARIANT… --questions FILE --images DIR [--threads N]

Prints a Markdown table: answers equal to the checkpoint's, accuracy, the paired difference, seconds a question.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from switchkd.data.questions import Question, read_questions
from switchkd.runtime.engines.answers import EngineAnswers
from switchkd.runtime.engines.opening import open_engine
from switchkd.scoring import is_right, pair


def answers_of(variant: str, questions: list[Question], threads: int | None) -> tuple[list[str], float]:
    """Every answer of one variant, and seconds a question."""
    begun = time.perf_counter()
    with open_engine(variant, threads=threads) as engine:
        answers = EngineAnswers(engine).answer(questions)
    return answers, (time.perf_counter() - begun) / len(questions)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint")
    options.add_argument("variants", nargs="+")
    options.add_argument("--questions", type=Path, required=True)
    options.add_argument("--images", type=Path, required=True)
    options.add_argument("--threads", type=int)
    given = options.parse_args()
    questions = read_questions(given.questions, given.images)
    print("| variant | answers as PyTorch | accuracy, % | difference, points (p) | ms a question |")
    print("|---|---:|---:|---:|---:|")
    reference: list[str] = []
    for variant in (given.checkpoint, *given.variants):
        answers, seconds = answers_of(variant, questions, given.threads)
        reference = reference or answers
        same = sum(one == other for one, other in zip(reference, answers, strict=True)) / len(questions)
        right = [is_right(answer, question.answer) for answer, question in zip(answers, questions, strict=True)]
        first = [is_right(answer, question.answer) for answer, question in zip(reference, questions, strict=True)]
        paired = pair(first, right)
        print(
            f"| {Path(variant).name} | {100 * same:.2f} % | {100 * sum(right) / len(right):.2f} "
            f"| {100 * paired.difference:+.2f} ({paired.p_value:.2g}) | {1000 * seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
