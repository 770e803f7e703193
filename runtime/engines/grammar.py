"""Answers of a given form: which tokens may come next, by llguidance, for the model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import MissingDependencyError, SkdError, first_line
from switchkd.prompt import ChatPrompt
from switchkd.runtime.engines.sampler import Chooser, Floats

_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": "[ ]?"}  # a small model may write blanks without end


class GrammarError(SkdError):
    """A schema that can't be followed."""


class Grammars:
    """Makes grammars for one model.

    Args:
        prompt: whose tokenizer the model's ids are of.
        end_tokens: ids that end an answer.
    """

    def __init__(self, prompt: ChatPrompt, end_tokens: frozenset[int]) -> None:
        self._prompt, self._end_tokens = prompt, end_tokens

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of JSON that fits a schema; between its parts stands one blank at most.

        Raises:
            GrammarError: something in it can't be followed.
            MissingDependencyError: llguidance isn't installed.
        """
        library = _library()
        try:
            text = library.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)
            matcher = library.LLMatcher(self._tokenizer, text, log_level=0)
            reason = Exception(matcher.get_error()) if matcher.is_error() else None
        except (ValueError, RecursionError) as error:  # a schema too deep for either reader
            reason = error
        if reason is not None:
            raise GrammarError(f"The schema can't be followed: {first_line(reason)}")
        return Grammar(matcher)

    @cached_property
    def _tokenizer(self) -> Any:
        """Made once: the vocabulary is sorted into a tree."""
        return _library().LLTokenizer(self._prompt.tokenizer.to_str(), eos_token=sorted(self._end_tokens) or None)


class Grammar:
    """A form of answers, at its beginning."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def constrain(self, choose: Chooser) -> Constrained:
        """The same chooser for one answer of this form."""
        return Constrained(choose, self._matcher.deep_copy())


class Constrained:
    """A chooser that is only offered tokens with which the answer keeps its form, an end where it is complete."""

    def __init__(self, choose: Chooser, matcher: Any) -> None:
        self._choose, self._matcher = choose, matcher

    def __call__(self, logits: Floats) -> int:
        """The next token for logits [V]. Raises GrammarError where the form is too involved to go on."""
        allowed = self._allowed(len(logits))
        token = self._choose(np.where(allowed, logits, np.float32(-np.inf)))
        if not allowed[token] or not self._matcher.consume_token(token):
            reason = first_line(Exception(self._matcher.get_error() or "no token fits"))
            raise GrammarError(f"The answer can't go on in this form: {reason}")
        return token

    def _allowed(self, rows: int) -> NDArray[np.bool_]:
        """Which tokens may come next [V]; a row without a token never may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.zeros(rows, bool)
        known = np.unpackbits(bits, bitorder="little")[:rows]
        allowed[: len(known)] = known
        return allowed


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        message = "Answers of a given form need llguidance: pip install 'switchkd[schema]'."
        raise MissingDependencyError(message) from error
    return llguidance
