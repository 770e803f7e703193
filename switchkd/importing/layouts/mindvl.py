"""The authors' published model (HaoyiSun/Switch-KD-Qwen2.5-CLIP-1.8B), written by code of their own that isn't public.

Parts are found by what their tensors' names end with and, the projector's, by their shapes; what can't be found is refused with
the list of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from switchkd.architecture.families import find
from switchkd.architecture.family import Language, Tower
from switchkd.errors import CheckpointError
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION, Config, Foreign, Layout, Source
from switchkd.importing.stored import Stored, stored_tensors

# A tensor that every model of a part has, once.
_ANCHORS = {
    VISION: re.compile(r"(?P<prefix>(?:.*\.)?)encoder\.layers\.0\.self_attn\.q_proj\.weight"),
    LANGUAGE: re.compile(r"(?P<prefix>(?:.*\.)?)layers\.0\.mlp\.gate_proj\.weight"),
    PROJECTOR: re.compile(r"(?P<prefix>(?:.*\.)?)mlp\.mlp\.0\.weight"),
}
_SHOWN = 12  # names in a refusal


def _found(folder: Path, config: Config) -> bool:
    named = config.get("architectures")
    names = [config.get("model_type"), *(named if isinstance(named, list) else [])]
    return any(isinstance(name, str) and "mindvl" in name.lower() for name in names)


def _read(source: Source) -> Foreign:
    tensors = stored_tensors(source.folder)
    prefixes = {part: _prefix(tensors, part, source.folder) for part in _ANCHORS}
    projector = prefixes[PROJECTOR]
    depthwise = tensors.get(f"{projector}peg.peg.0.weight")
    if depthwise is None or depthwise.shape[1:] != (1, 3, 3):
        raise _unknown(source.folder, "an LDPv2 projector", tensors)
    # "llm.model." → "llm.": the head lies beside the model.
    outer = re.sub(r"model\.$", "", prefixes[LANGUAGE])
    return Foreign(
        layout="MindVL (the authors' own)",
        tensors=tensors,
        prefixes=[
            (prefixes[VISION], VISION),
            (projector, PROJECTOR),
            (f"{outer}lm_head.", HEAD),
            (prefixes[LANGUAGE], LANGUAGE),
        ],
        vision=_settings(source, Tower),
        text=_settings(source, Language),
        connector="ldpnetv2",
        feature_layer=_layer(source.config),
        first_token=False,
        pads=True,
        template="chatml-system",
        template_reason="the prompt of the authors' chat.py",
    )


def _prefix(tensors: Mapping[str, Stored], part: str, folder: Path) -> str:
    found = {match["prefix"] for name in tensors if (match := _ANCHORS[part].fullmatch(name))}
    if part == LANGUAGE and len(found) > 1:
        found = {prefix for prefix in found if "vis" not in prefix}
    if len(found) != 1:
        raise _unknown(folder, f"one {part} part", tensors)
    return found.pop()


def _unknown(folder: Path, what: str, tensors: Mapping[str, Stored]) -> CheckpointError:
    shown = ", ".join(f"{name} {list(stored.shape)}" for name, stored in [*tensors.items()][:_SHOWN])
    return CheckpointError(f"{folder}: among its {len(tensors)} tensors {what} can't be found; the first are {shown}.")


def _settings(source: Source, kind: type[Tower] | type[Language]) -> dict[str, Any]:
    """The first object in config.json that says that it is a part of a known family."""
    for settings in _objects(source.config):
        name = settings.get("model_type")
        if isinstance(name, str) and find(kind, name) is not None and "hidden_size" in settings:
            return dict(settings)
    what = "tower" if kind is Tower else "language model"
    keys = ", ".join(sorted(source.config))
    raise CheckpointError(f"{source.folder}: config.json has no settings of a known {what}; its entries are {keys}.")


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _objects(inner)


def _layer(config: Config) -> int:
    """The feature layer under any of the names that it has elsewhere; LLaVA's choice where there is none."""
    names = ("vision_feature_layer", "visual_select_layer", "mm_vision_select_layer", "select_layer")
    for settings in _objects(config):
        for name in names:
            if isinstance(settings.get(name), int):
                return settings[name]
    return -2


LAYOUT = Layout("MindVL (the authors' own)", _found, _read)
