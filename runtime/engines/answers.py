"""An engine that answers test questions, as `switchkd.data.answers` asks them."""

from __future__ import annotations

from switchkd.data.questions import Question
from switchkd.pictures import open_image
from switchkd.runtime.engines.engine import Engine


class EngineAnswers:
    """Questions put to an engine one after the other; it keeps one conversation at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def answer(self, questions: list[Question], *, max_new_tokens: int = 16) -> list[str]:
        """Greedy answers, without special tokens, in the questions' order.

        Raises:
            DataError: a picture that can't be used, or a prompt that doesn't fit.
        """
        return [
            self._engine.answer(question.messages, *map(open_image, question.images), max_new_tokens=max_new_tokens)
            for question in questions
        ]
