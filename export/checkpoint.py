"""A LLaVA checkpoint as every exporter reads it: one spelling of its configuration and of its tensors' names.

Checkpoints in the wild spell both in several ways: configurations leave default values out, and tensor names changed
with transformers 5. Here `vision` and `text` are complete, and tensors are named

    vision_tower.{embeddings, encoder.layers.N, …}   multi_modal_projector.linear_{1,2}   language_model.{…}   lm_head
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.architecture.config_json import read_config_json
from switchkd.architecture.layout import used_blocks
from switchkd.errors import CheckpointError
from switchkd.export.tensors import Stored, stored_tensors
from switchkd.files import folder_sha256
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

# What transformers assumes where config.json says nothing.
_TEXT_DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 32768,
    "hidden_act": "silu",
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
}
_VISION_FAMILIES = {
    "siglip_vision_model": {"patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    "clip_vision_model": {"patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
}

# Tensors that no answer depends on: the pooling head, the norm after the hidden states, CLIP's text side's leftovers.
_UNUSED = re.compile(r"vision_tower\.(head\.|post_layernorm\.|embeddings\.position_ids)|.*rotary_emb\.inv_freq$")


class Checkpoint:
    """A LLaVA model folder: SigLIP or CLIP tower, two-layer projector, Qwen2.

    Raises:
        CheckpointError: something is missing, torn, or of a kind that isn't supported, by name.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"There is no model folder {folder}.")
        self.folder = folder
        self.config = read_config_json(folder)
        self.vision: dict[str, Any] = _vision_config(self.config, folder)
        self.text: dict[str, Any] = _text_config(self.config, folder)
        self.prompt = ChatPrompt.load(folder)
        self.preprocess = Preprocess.load(folder)
        self._check_pictures()
        if self.prompt.length > self.text["vocab_size"]:
            raise CheckpointError(
                f"The tokenizer of {folder} has {self.prompt.length} ids, the model only {self.text['vocab_size']} rows."
            )

    @property
    def is_clip(self) -> bool:
        """CLIP's tower has a class token, which the projector never sees; SigLIP's has none."""
        return self.vision["model_type"] == "clip_vision_model"

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture becomes."""
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2

    @property
    def used_layers(self) -> int:
        """How many of the tower's blocks the chosen feature layer needs."""
        return _used_layers(self.config, self.vision, self.folder)

    @cached_property
    def sha256(self) -> str:
        """Hash over the folder's files."""
        return folder_sha256(self.folder)

    @cached_property
    def tied(self) -> bool:
        """True where the output layer is the embedding.

        Raises:
            CheckpointError: the file and its configuration contradict each other.
        """
        flag = bool(self.config.get("tie_word_embeddings") or self.config["text_config"].get("tie_word_embeddings"))
        if "lm_head.weight" not in self.tensors:
            return flag
        if not flag:
            return False
        if not np.array_equal(self.read("lm_head.weight"), self.read("language_model.embed_tokens.weight")):
            raise CheckpointError(
                f"{self.folder} says tie_word_embeddings, but its lm_head differs from its embedding."
            )
        return True

    @cached_property
    def tensors(self) -> dict[str, Stored]:
        """Every tensor that answers depend on, under its one name."""
        found: dict[str, Stored] = {}
        for name, stored in stored_tensors(self.folder).items():
            plain = plain_name(name)
            if plain in found:
                raise CheckpointError(f"{self.folder} holds {plain} twice, under an older and a newer name.")
            if not _UNUSED.match(plain) and not self._beyond_feature_layer(plain):
                found[plain] = stored
        return found

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor's values.

        Raises:
            CheckpointError: it is missing, or holds a value that isn't finite.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.folder} lacks the tensor {name}.")
        values = self.tensors[name].read()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.folder}: {name} holds values that aren't finite.")
        return values

    def _beyond_feature_layer(self, name: str) -> bool:
        match = re.match(r"vision_tower\.encoder\.layers\.(\d+)\.", name)
        return match is not None and self.used_layers <= int(match[1]) < self.vision["num_hidden_layers"]

    def _check_pictures(self) -> None:
        side = self.vision["image_size"]
        if (self.preprocess.height, self.preprocess.width) != (side, side):
            raise CheckpointError(
                f"{self.folder} prepares pictures of {self.preprocess.width} × {self.preprocess.height} pixels, "
                f"but its tower takes {side} × {side}."
            )
        if self.vision["image_size"] < self.vision["patch_size"]:
            raise CheckpointError(f"{self.folder}: image_size {side} is smaller than one patch.")


def plain_name(name: str) -> str:
    """The one spelling of a tensor's name, from transformers 4's, 5's or a state dict's."""
    name = name.removeprefix("model.")
    name = re.sub(r"^vision_tower\.vision_model\.", "vision_tower.", name)
    name = re.sub(r"^language_model\.lm_head\.", "lm_head.", name)
    return re.sub(r"^language_model\.model\.", "language_model.", name)


def _vision_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = config["vision_config"]
    family = given.get("model_type")
    if family not in _VISION_FAMILIES:
        raise CheckpointError(f"The tower of {folder} is a '{family}'; supported are {', '.join(_VISION_FAMILIES)}.")
    vision = {**_VISION_DEFAULTS, **_VISION_FAMILIES[family], **given}
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise CheckpointError(f"{folder} joins several feature layers ({layer}); only one is supported.")
    _used_layers(config, vision, folder)
    wanted = "default" if family == "clip_vision_model" else "full"
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != wanted:
        raise CheckpointError(
            f"{folder} says vision_feature_select_strategy = {strategy}; with a {family} only '{wanted}' is supported, "
            "which passes every patch and no class token."
        )
    if not config.get("multimodal_projector_bias", True):
        raise CheckpointError(f"The projector of {folder} has no biases; that isn't supported.")
    activation = config.get("projector_hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(f"The projector of {folder} has the activation '{activation}'; only gelu is supported.")
    return vision


def _used_layers(config: dict[str, Any], vision: dict[str, Any], folder: Path) -> int:
    return used_blocks(config.get("vision_feature_layer", -2), vision["num_hidden_layers"], folder)


def _text_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = config["text_config"]
    if given.get("model_type") != "qwen2":
        raise CheckpointError(f"The language model of {folder} is a '{given.get('model_type')}'; supported is qwen2.")
    text = {**_TEXT_DEFAULTS, **given}
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    text["rope_theta"] = rope.get("rope_theta", text["rope_theta"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{folder} scales its positions ({kind}); that isn't supported.")
    if text.get("use_sliding_window"):
        raise CheckpointError(f"{folder} attends through a sliding window; that isn't supported.")
    if text["hidden_act"] != "silu":
        raise CheckpointError(f"The language model of {folder} has the activation '{text['hidden_act']}', not silu.")
    if text["hidden_size"] % text["num_attention_heads"]:
        raise CheckpointError(f"{folder}: hidden_size {text['hidden_size']} isn't a multiple of its attention heads.")
    return text
