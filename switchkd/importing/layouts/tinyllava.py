"""TinyLLaVA Factory's folders: whole ones, and the three that its training leaves (github.com/TinyLLaVA/TinyLLaVA_Factory).

LLaVA-KD writes the same under another architecture's name, so names in config.json that only these have tell them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION, Config, Foreign, Layout, Source
from switchkd.importing.settings import feature_choice, part_settings, pasted_on_a_square
from switchkd.importing.stored import Stored, holds_weights, stored_tensors

PREFIXES = (
    ("vision_tower._vision_tower.vision_model.", VISION),
    ("vision_tower._vision_tower.", VISION),
    ("connector._connector.", PROJECTOR),
    ("language_model.lm_head.", HEAD),
    ("language_model.model.", LANGUAGE),
)
# The folders of a training's output → what their tensors' names begin with in a whole one.
FOLDERS = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector.",
}
_OWN_KEYS = ("connector_type", "llm_model_name_or_path")
_OPENS_WITH_A_TOKEN = ("llama", "gemma")  # language models whose tokenizers begin a text with one


def _found(folder: Path, config: Config) -> bool:
    return config.get("model_type") == "tinyllava" or all(key in config for key in _OWN_KEYS)


def _read(source: Source) -> Foreign:
    config, where = source.config, str(source.folder)
    if config.get("vision_model_name_or_path2"):
        raise CheckpointError(f"{where} has two vision towers (a mixture of features), which can't be imported.")
    vision, text = (part_settings(config, part, where) for part in ("vision_config", "text_config"))
    opens = text.get("model_type") in _OPENS_WITH_A_TOKEN
    template = "vicuna" if opens else "tinyllava"
    layer, first_token = feature_choice(config, where)
    return Foreign(
        layout="TinyLLaVA Factory",
        tensors=_tensors(source.folder),
        prefixes=PREFIXES,
        vision=vision,
        text=text,
        connector=str(config.get("connector_type")),
        feature_layer=layer,
        first_token=first_token,
        pads=pasted_on_a_square(config, where),
        template=template,
        template_reason=f"Factory's words, {'behind' if opens else 'without'} a token that opens a text",
        tower_name=_name(config),
    )


def _name(config: Config) -> str:
    value: Any = config.get("vision_model_name_or_path")
    return value if isinstance(value, str) else ""


def _tensors(folder: Path) -> dict[str, Stored]:
    if holds_weights(folder) or not all((folder / name).is_dir() for name in FOLDERS):
        return stored_tensors(folder)
    return {
        prefix + name: stored
        for inner, prefix in FOLDERS.items()
        for name, stored in stored_tensors(folder / inner).items()
    }


LAYOUT = Layout("TinyLLaVA Factory", _found, _read)
