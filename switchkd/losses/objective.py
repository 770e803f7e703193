"""The whole training objective: the weighed sum of a stage's loss terms (paper equation 1, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from switchkd.losses.terms import terms_of, weigh
from switchkd.models.passes import Asked, Passes
from switchkd.recipes.recipe import Distillation, Stage


class Sums(NamedTuple):
    """Sums over the positions handed in; divided by the global number of supervised positions they are the loss."""

    total: Tensor  # the one to differentiate
    terms: Mapping[str, Tensor]  # each of the stage's terms, unweighed; 0 where it was left out
    measures: Mapping[str, Tensor | None]  # what the terms tell besides, for the log


class Objective:
    """A stage's loss over a batch's supervised positions, all logits cut to the tokenizer's length.

    Args:
        distillation: the terms' settings and weights.
        stage: which of them count in it.

    Raises:
        RecipeError: options that can't be used.
    """

    def __init__(self, distillation: Distillation, stage: Stage):
        self.weights = weigh(stage, distillation)
        self._losses = {term: term.make(distillation) for term in terms_of(distillation)}
        active = [term for term, weight in self.weights.items() if weight]
        # Pass → what it is asked for; one that no term needs is missing.
        self.asks = {
            whose: Asked(
                frozenset().union(*(term.image_hidden for term in terms)),
                frozenset().union(*(term.attentions for term in terms)),
            )
            for whose in ("student", "teacher", "switch")
            if (terms := [term for term in active if getattr(term, whose, True)])
        }

    def __call__(self, passes: Passes) -> Sums:
        """The terms of one batch.

        Returns:
            Float32 scalars (float64 for float64 logits). Without positions they are zeros that still have a graph.

        Raises:
            ValueError: Switch logits without their teacher or rows, or of another number.
        """
        passes.check_switch()
        found = {
            term: self._losses[term](passes) for term, weight in self.weights.items() if weight and term.has_all(passes)
        }
        sums = {term: loss.values.sum() for term, loss in found.items()}
        first, *others = (self.weights[term] * value for term, value in sums.items())  # the cross entropy always counts
        none = first.new_zeros(())
        return Sums(
            sum(others, first),
            {term.name: sums.get(term, none) for term in self.weights},
            {name: values for loss in found.values() for name, values in loss.measures.items()},
        )
