"""What the projectors share that are layers with biases, and GELU between them."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

PREFIX = "multi_modal_projector."


def layers(*widths: int) -> OrderedDict[str, Any]:
    """The modules of layers `linear_1`, `linear_2`, …: [I, P, first] → [I, P, last]."""
    from torch import nn

    named: OrderedDict[str, Any] = OrderedDict()
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        if named:
            named[f"act_{number - 1}"] = nn.GELU()
        named[f"linear_{number}"] = nn.Linear(inputs, outputs)
    return named
