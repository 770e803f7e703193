"""How far one gets without looking: answers by the habits of the training data. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from switchkd.data.index import RecordFile
from switchkd.data.questions import Question, exchanges, question_text
from switchkd.data.reasons import BadRecordError
from switchkd.data.records import read_record
from switchkd.data.scan import scan_records
from switchkd.scoring import Score, is_right, normalise, score_by_kind

Exchange = tuple[str, str, str]  # (kind of the question, its words, the answer)


def answer_by_habit(train: Iterable[Exchange], asked: Iterable[tuple[str, str]]) -> list[str | None]:
    """Answers to (kind, words): the most frequent training answer to the same words; to the same kind where they are new; to
    anything where the kind is new too. None where nothing was trained on.
    """
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kind, text, answer in train:
        by_text[text][answer] += 1
        by_kind[kind][answer] += 1
    of_text = {text: most_frequent(answers) for text, answers in by_text.items()}
    of_kind = {kind: most_frequent(answers) for kind, answers in by_kind.items()}
    counts = sum(by_kind.values(), Counter())
    of_all = most_frequent(counts) if counts else None
    return [of_text.get(text, of_kind.get(kind, of_all)) for kind, text in asked]


def most_frequent(answers: Counter[str]) -> str:
    """Of equally frequent ones the first in the alphabet."""
    return min(answers, key=lambda answer: (-answers[answer], answer))


def file_exchanges(file: Path) -> Iterator[Exchange]:
    """Every question of a LLaVA file with its normalised answer; records that can't be read are left out, as in training.

    Raises:
        DataError: the file itself can't be read.
    """
    records = RecordFile(file)
    for place in scan_records(file):
        try:
            record = read_record(records.read(*place))
        except BadRecordError:
            continue
        for text, answer in exchanges(record.messages):
            yield record.kind, text, normalise(answer)


@dataclass(frozen=True)
class Baselines:
    """What a test gives to whoever doesn't look at its pictures: scores by kind, and in "all"."""

    blind: dict[str, Score]  # by the habits of the training data
    majority: dict[str, Score]  # always the test's most frequent answer
    frequent: str  # that answer

    @property
    def best(self) -> int:
        """Questions that the better of both gets right."""
        return max(self.blind["all"].right, self.majority["all"].right)


def baselines(training: Path, questions: Sequence[Question]) -> Baselines:
    """The scores that need no looking.

    Args:
        training: the file that the student is trained on; has to be another than the questions'.
    """
    asked = [(question.kind, question_text(question.messages)) for question in questions]
    guesses = answer_by_habit(file_exchanges(training), asked)
    expected = [question.answer for question in questions]
    frequent = most_frequent(Counter(map(normalise, expected)))

    def score(answers: Iterable[str | None]) -> dict[str, Score]:
        right = (given is not None and is_right(given, meant) for given, meant in zip(answers, expected, strict=True))
        return score_by_kind((kind for kind, _ in asked), right)

    return Baselines(score(guesses), score([frequent] * len(expected)), frequent)
