"""Scores of tokens whose text is held back, because it may become a stop text or is half a character."""

from __future__ import annotations

from switchkd.runtime.engines.logprobs import TokenScore


class HeldScores:
    """Gives each token's score away with the first of its text."""

    def __init__(self) -> None:
        self._new: list[TokenScore] = []  # of tokens whose piece is still to come
        self._held: list[tuple[int, TokenScore]] = []  # with the place in the text where its piece begins
        self._begun = self._sent = 0  # characters

    def add(self, score: TokenScore) -> None:
        """A token was said."""
        self._new.append(score)

    def follow(self, piece: str) -> None:
        """The tokens so far have become text."""
        self._held += [(self._begun, score) for score in self._new]
        self._begun += len(piece)
        self._new = []

    def take(self, text: str) -> tuple[TokenScore, ...]:
        """This much text more is sent: the scores of the tokens that begin in it."""
        self._sent += len(text)
        taken = tuple(score for place, score in self._held if place < self._sent)
        self._held = [(place, score) for place, score in self._held if place >= self._sent]
        return taken
