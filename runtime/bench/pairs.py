"""Two variants of a bench on the same questions, as bench.json has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchkd.scoring import Paired

SURE = 0.05  # largest p of a difference that counts as told


def paired_with(summary: Mapping[str, Any], first: str, second: str) -> Paired | None:
    """The pair of these two, in this order; None where they answered no question together."""
    for each in summary["pairs"]:
        if (each["first"], each["second"]) == (first, second):
            return Paired(each["first_only"], each["second_only"], each["total"])
        if (each["first"], each["second"]) == (second, first):
            return Paired(each["second_only"], each["first_only"], each["total"])
    return None


def told(pair: Paired, first: str) -> str:
    """How much more or less of the questions the second answers right than the first, and whether they tell it; a clause."""
    points, p = 100 * pair.difference, pair.p_value
    if not pair.only_first + pair.only_second:
        return f"right where {first} is on all {pair.total:,} questions"
    if not points:
        return f"as many right as {first} on {pair.total:,} questions"
    said = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'} right than {first} (p = {p:.2g})"
    if p < SURE:
        return f"{said}, told by {pair.total:,} questions"
    return (
        f"{said}: {pair.total:,} questions can't tell them apart, about {pair.questions_for(pair.difference):,} could"
    )
