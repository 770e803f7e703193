"""What config.json of several layouts says in the same words: parts, the features that are read, how pictures are cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError
from switchkd.files import read_json
from switchkd.importing.layout import Config

# What strategies of LLaVA's descendants are called → whether the tower's first token is read too.
_STRATEGIES = {"patch": False, "default": False, "cls_patch": True, "full": True}
# What pictures' ways are called → whether they are pasted on a square; other ways make several crops of a picture.
_WAYS = {None: False, "square": False, "original": False, "pad": True}
_PLACES = ("_name_or_path", "model_name_or_path", "model_name_or_path2")  # where a part came from


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises CheckpointError where there is none, or none that can be read."""
    path = folder / "config.json"
    try:
        config = read_json(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give a model folder.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} isn't a JSON object.")
    return config


def part_settings(config: Config, part: str, where: str) -> dict[str, Any]:
    """A part's settings. Raises CheckpointError where there are none, or they don't say of what kind it is."""
    settings = config.get(part)
    if not isinstance(settings, Mapping) or not isinstance(settings.get("model_type"), str):
        raise CheckpointError(f"{where}: config.json has no {part} that says its model_type.")
    return {name: value for name, value in settings.items() if name not in _PLACES}


def feature_choice(
    config: Config, where: str, layer: str = "vision_feature_layer", strategy: str = "vision_feature_select_strategy"
) -> tuple[Any, bool]:
    """(the hidden layer or layers, whether the first token is read), by the names of their entries.

    Raises:
        CheckpointError: a strategy that isn't known, or a layer that has no number.
    """
    chosen = config.get(strategy) or "patch"
    if chosen not in _STRATEGIES:
        raise CheckpointError(f"{where}: {strategy} is {chosen!r}; known are {', '.join(_STRATEGIES)}.")
    layers = config.get(layer)
    layers = -2 if layers is None else layers
    if not all(type(each) is int for each in (layers if isinstance(layers, list) else [layers])) or layers == []:
        raise CheckpointError(f"{where}: {layer} is {layers!r}, not the number of a layer.")
    return layers, _STRATEGIES[chosen]


def pasted_on_a_square(config: Config, where: str) -> bool:
    """Whether pictures are. Raises CheckpointError where several crops are made of each."""
    way = config.get("image_aspect_ratio")
    if way not in _WAYS:
        raise CheckpointError(f"{where} cuts a picture into several crops ({way}), which can't be imported.")
    return _WAYS[way]
