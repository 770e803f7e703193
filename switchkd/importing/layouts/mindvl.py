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
}
_LANGUAGE_MODULES = ("embed_tokens.", "layers.", "norm.")
_FOUND = "projector."  # what the projector's tensors are called once they are found
_SHOWN = 12  # names in a refusal


def _found(folder: Path, config: Config) -> bool:
    named = config.get("architectures")
    names = [config.get("model_type"), *(named if isinstance(named, list) else [])]
    return any(isinstance(name, str) and "mindvl" in name.lower() for name in names)


def _read(source: Source) -> Foreign:
    tensors = stored_tensors(source.folder)
    vision, text = _settings(source, Tower), _settings(source, Language)
    seeing, speaking = (_prefix(tensors, part, source.folder) for part in _ANCHORS)
    head = f"{re.sub(r'model[.]$', '', speaking)}lm_head."  # "llm.model." → "llm.": the head lies beside the model
    known = (seeing, head, *(speaking + module for module in _LANGUAGE_MODULES))
    rest = {name: stored for name, stored in tensors.items() if not name.startswith(known)}
    projector = _projector(rest, vision["hidden_size"], text["hidden_size"])
    if projector is None:
        raise _unknown(source.folder, "an LDPv2 projector", rest or tensors)
    return Foreign(
        layout="MindVL (the authors' own)",
        tensors={**{name: stored for name, stored in tensors.items() if name not in rest}, **projector},
        prefixes=[(_FOUND, PROJECTOR), (seeing, VISION), (head, HEAD), (speaking, LANGUAGE)],
        vision=vision,
        text=text,
        connector="ldpnetv2",
        feature_layer=_layer(source.config),
        first_token=False,
        pads=True,
        template="chatml-system",
        template_reason="the prompt of the authors' chat.py",
    )


def _projector(tensors: Mapping[str, Stored], features: Any, width: Any) -> dict[str, Stored] | None:
    """The tensors of an LDPv2 projector under MobileVLM's names, told by their shapes; None where these aren't one."""
    weights = {
        name.removesuffix("weight"): stored.shape for name, stored in tensors.items() if stored.shape != (width,)
    }
    shapes = {"mlp.mlp.0.": (width, features), "mlp.mlp.2.": (width, width), "peg.peg.0.": (width, 1, 3, 3)}
    found: dict[str, Stored] = {}
    for place, shape in shapes.items():
        name = next((name for name in sorted(weights) if weights[name] == shape), None)
        if name is None or not {f"{name}weight", f"{name}bias"} <= tensors.keys():
            return None
        del weights[name]
        found |= {f"{_FOUND}{place}{kind}": tensors[f"{name}{kind}"] for kind in ("weight", "bias")}
    return found if len(found) == len(tensors) else None


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
