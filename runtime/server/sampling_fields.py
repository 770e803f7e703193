"""A request's fields that say how tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from switchkd.runtime.engines.sampling import SETTINGS, Sampling
from switchkd.runtime.server.limits import RequestError

_ALIASES = {"repeat_penalty": "repetition_penalty"}  # as llama.cpp's server has it
_ALL = -1  # of `top_k`, as vLLM has it
SAMPLING_FIELDS = {setting.name for setting in SETTINGS} | {"seed"} | _ALIASES.keys()


def sampling_of(fields: Mapping[str, Any], usual: Sampling) -> Sampling:
    """How a request's answer is drawn.

    Args:
        fields: the request.
        usual: what holds where it doesn't say.

    Raises:
        RequestError: 400 for a value that is none, or out of range.
    """
    sampling = usual
    for name in SAMPLING_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        setting = _ALIASES.get(name, name)
        whole = setting in ("top_k", "seed")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise RequestError(400, f"'{name}' is a {'whole ' if whole else ''}number.", param=name)
        try:
            value = 0 if setting == "top_k" and value == _ALL else value
            change: dict[str, Any] = {setting: value if whole else float(value)}
            sampling = replace(sampling, **change)
        except (ValueError, OverflowError) as error:
            message = str(error) if isinstance(error, ValueError) else f"'{name}' is too large a number."
            raise RequestError(400, message, param=name, code="unsupported_value") from error
    return sampling
