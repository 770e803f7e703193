"""A foreign model in this package's terms: complete settings, every tensor under its name here; or refused, by what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from switchkd.architecture.architecture import Architecture, require_family
from switchkd.architecture.config_json import check_entries
from switchkd.architecture.families import find
from switchkd.architecture.family import Language, Projector, Tower
from switchkd.architecture.names import plain_name, portable_name
from switchkd.errors import CheckpointError, first_line
from switchkd.importing.connectors import Connector, find_connector
from switchkd.importing.layout import HEAD, LANGUAGE, PROJECTOR, VISION, Foreign, part_tensors
from switchkd.importing.stored import Stored
from switchkd.importing.writer import Entry
from switchkd.models.llava import classes

# Where a part's tensors are in a model's state dict.
_STATE = {
    VISION: "model.vision_tower.",
    PROJECTOR: "model.multi_modal_projector.",
    LANGUAGE: "model.language_model.",
    HEAD: "lm_head.",
}
_POOLING = "head."  # of a SigLIP tower; no feature comes from it
_ROWS = ("language_model.embed_tokens.weight", "lm_head.weight")  # tensors with a row a token
_LISTED = 8  # names in a refusal


@dataclass(frozen=True)
class Model:
    """What is written, and what it is proved against."""

    foreign: Foreign
    connector: Connector
    parts: Mapping[str, Mapping[str, Stored]]  # part → its tensors by the names of transformers' class
    vision: Any  # transformers' configurations, complete
    text: Any
    architecture: Architecture
    left_out: int  # tensors that no answer depends on

    @property
    def rows(self) -> int:
        """Tokens that the source's embedding has."""
        return self.text.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        """The type in which most of the weights are."""
        sizes: dict[torch.dtype, int] = {}
        for stored in self.foreign.tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.bytes
        return max(sizes, key=lambda dtype: sizes[dtype])

    def config(self, image_token: int, rows: int) -> Any:
        """transformers' configuration of the folder that is written."""
        text = AutoConfig.for_model(**{**self.text.to_dict(), "vocab_size": rows})
        return _llava_config(self.foreign, self.connector, self.vision, text, image_token)

    def entries(self, rows: int) -> list[Entry]:
        """The tensors to be written; the embedding and its head grown to `rows` by their rows' mean, which no picture changes."""
        entries = []
        for part, tensors in self.parts.items():
            for inner, stored in tensors.items():
                name = portable_name(_STATE[part] + self._renamed(part, inner))
                shape, load = stored.shape, stored.load
                if plain_name(name) in _ROWS and rows > shape[0]:
                    shape, load = (rows, *shape[1:]), partial(_grown, stored, rows)
                entries.append(Entry(name, stored.dtype, shape, load))
        return entries

    def _renamed(self, part: str, inner: str) -> str:
        return self.connector.renamed(inner) if part == PROJECTOR else inner


def _grown(stored: Stored, rows: int) -> Tensor:
    tensor = stored.load()
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - len(tensor), -1)])


def understand(foreign: Foreign, folder: Path) -> Model:
    """Raises CheckpointError for a part that isn't supported, settings that can't be, tensors that are missing, of other shapes
    or that no part knows."""
    require_family(Tower, foreign.vision.get("model_type"), f"The tower of {folder}")
    require_family(Language, foreign.text.get("model_type"), f"The language model of {folder}")
    connector = find_connector(foreign.connector, str(folder))
    vision, text = _settings(foreign.vision, folder), _settings(foreign.text, folder)
    config = _llava_config(foreign, connector, vision, text, 0, folder).to_dict()
    check_entries(config, folder / "config.json")
    architecture = Architecture.of(config, folder)
    if connector.grid not in (None, architecture.grid):
        raise CheckpointError(
            f"{folder} has {architecture.grid} patches along a picture's side; '{foreign.connector}' takes {connector.grid}."
        )
    parts, unknown = part_tensors(foreign, folder)
    dropped = [name for name in parts[VISION] if name.startswith(_POOLING)]
    for name in dropped:
        del parts[VISION][name]
    _drop_tied_head(parts, text, folder)
    model = Model(foreign, connector, parts, vision, text, architecture, len(dropped))
    _check_tensors(model, unknown, folder)
    return model


def _settings(given: Mapping[str, Any], folder: Path) -> Any:
    """Complete settings of a part, as transformers completes them."""
    try:
        return AutoConfig.for_model(**given)
    except Exception as error:  # transformers raises all kinds on entries of other types
        raise CheckpointError(f"{folder}: config.json can't be used: {first_line(error)}") from error


def _llava_config(
    foreign: Foreign, connector: Connector, vision: Any, text: Any, image_token: int, folder: Path | None = None
) -> Any:
    tower, projector = find(Tower, vision.model_type), find(Projector, connector.family)
    assert tower is not None and projector is not None, "understand has found them"
    for name, value in tower.settings.items():
        setattr(vision, name, value)
    config: Any = classes(connector.family)[0](
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=foreign.feature_layer,
        vision_feature_select_strategy="full" if foreign.first_token else "default",
        projector_hidden_act="gelu",
        tie_word_embeddings=bool(text.tie_word_embeddings),
        **projector.entries({}),
    )
    config.image_seq_length = Architecture.of(config.to_dict(), folder).image_tokens
    return config


def _drop_tied_head(parts: dict[str, dict[str, Stored]], text: Any, folder: Path) -> None:
    """A head that is the embedding isn't written. Raises CheckpointError where it should be and isn't."""
    if not text.tie_word_embeddings or not parts[HEAD]:
        return
    head, embedding = parts[HEAD].get("weight"), parts[LANGUAGE].get("embed_tokens.weight")
    if head is None or embedding is None or not torch.equal(head.load(), embedding.load()):
        raise CheckpointError(f"{folder} says that its output layer is the embedding (tied), but holds another one.")
    parts[HEAD].clear()


def _check_tensors(model: Model, unknown: list[str], folder: Path) -> None:
    """Raises CheckpointError unless the source holds what its settings mean, all of it, and nothing else."""
    if unknown:
        raise _listed(folder, "holds tensors that no part knows", unknown)
    # As if the last layers were read: files hold the blocks that no feature passes through too.
    layers = model.foreign.feature_layer
    last = -1 if isinstance(layers, int) else [-1] * len(layers)
    _ = model.architecture.used_layers  # refuses a layer that isn't there
    whole = replace(model.architecture, config={**model.architecture.config, "vision_feature_layer": last})
    meant = {tensor.name: tensor.shape for tensor in whole.vision_tensors()}
    meant |= {tensor.name: tensor.shape for tensor in whole.language_tensors(tied=model.text.tie_word_embeddings)}
    present = {plain_name(entry.name): entry.shape for entry in model.entries(0)}
    if lacking := sorted(meant.keys() - present.keys()):
        towerless = all(name.startswith("vision_tower.") for name in lacking) and not model.parts[VISION]
        if towerless:
            raise CheckpointError(f"{folder} holds no tower ({model.foreign.tower_name or 'not named'}).")
        raise _listed(folder, "lacks tensors", lacking)
    unused = tuple(f"vision_tower.{name}" for name in whole.tower.unused)
    if extra := sorted(name for name in present.keys() - meant.keys() if not name.startswith(unused)):
        raise _listed(folder, "holds tensors that its settings don't mean", extra)
    for name, shape in meant.items():
        if present[name] != shape:
            raise CheckpointError(f"{folder}: {name} is {list(present[name])}, its settings mean {list(shape)}.")


def _listed(folder: Path, what: str, names: list[str]) -> CheckpointError:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return CheckpointError(f"{folder} {what}: {', '.join(names[:_LISTED])}{more}.")
