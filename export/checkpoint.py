"""A LLaVA checkpoint as every exporter reads it: complete settings, and tensors by the names of `switchkd.architecture.names`."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.family import Tensor
from switchkd.architecture.names import plain_name
from switchkd.errors import CheckpointError
from switchkd.export.tensors import Stored, stored_tensors
from switchkd.files import folder_sha256
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt


class Checkpoint:
    """A LLaVA model folder of known families, each with settings that can be exported.

    Raises:
        CheckpointError: something is missing, torn, or of a kind that isn't supported, by name.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"There is no model folder {folder}.")
        self.folder = folder
        self.architecture = Architecture.read(folder)
        self.vision: dict[str, Any] = self.architecture.vision
        self.text: dict[str, Any] = self.architecture.text
        _check_exportable(self.architecture, folder)
        self.prompt = ChatPrompt.load(folder)
        self.preprocess = Preprocess.load(folder)
        self._check_pictures()
        if self.prompt.length > self.text["vocab_size"]:
            raise CheckpointError(
                f"The tokenizer of {folder} has {self.prompt.length} ids, the model only {self.text['vocab_size']} rows."
            )

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture becomes."""
        return self.architecture.image_tokens

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
        flag = self.architecture.says_tied
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
            if not self._is_unused(plain):
                found[plain] = stored
        return found

    @cached_property
    def vision_tensors(self) -> list[Tensor]:
        """What tower and projector consist of by the configuration."""
        return [*self.architecture.vision_tensors()]

    @cached_property
    def language_tensors(self) -> list[Tensor]:
        """What the language model consists of by the configuration."""
        return [*self.architecture.language_tensors(tied=self.tied)]

    def check_complete(self) -> None:
        """Raises CheckpointError unless the files hold every tensor that the configuration means, in its shape, and no other."""
        meant = {tensor.name: tensor for tensor in (*self.vision_tensors, *self.language_tensors)}
        present = set(self.tensors) - ({"lm_head.weight"} if self.tied else set())
        for kind, names in (("lacks", set(meant) - present), ("has unexpected", present - set(meant))):
            if names:
                raise CheckpointError(f"{self.folder} {kind} tensors: {len(names)}, first {min(names)}.")
        for name, tensor in meant.items():
            if self.tensors[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{self.folder}: {name} is {list(self.tensors[name].shape)}, its config.json means {list(tensor.shape)}."
                )

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

    def _is_unused(self, name: str) -> bool:
        """Whether no answer depends on a tensor: what no feature passes through, and tables that are computed."""
        tower = self.architecture.tower
        if name.endswith("rotary_emb.inv_freq") or any(
            f"{name}.".startswith(f"{tower.prefix}{each}.") for each in tower.unused
        ):
            return True
        block = re.escape(tower.prefix + tower.blocks[0]).replace(r"\{layer\}", r"(\d+)")
        match = re.match(block, name)
        return match is not None and self.architecture.used_layers <= int(match[1]) < self.vision["num_hidden_layers"]

    def _check_pictures(self) -> None:
        side = self.vision["image_size"]
        if (self.preprocess.height, self.preprocess.width) != (side, side):
            raise CheckpointError(
                f"{self.folder} prepares pictures of {self.preprocess.width} × {self.preprocess.height} pixels, "
                f"but its tower takes {side} × {side}."
            )
        if self.vision["image_size"] < self.vision["patch_size"]:
            raise CheckpointError(f"{self.folder}: image_size {side} is smaller than one patch.")


def _check_exportable(architecture: Architecture, folder: Path) -> None:
    """Raises CheckpointError for settings with which training works and no exporter does."""
    layers = architecture.feature_layers
    if not isinstance(layers, int):
        raise CheckpointError(f"{folder} joins several feature layers ({layers}); only one is supported.")
    _ = architecture.used_layers  # refuses a layer that isn't there
    text = architecture.text
    if not text.get("head_dim") and text["hidden_size"] % text["num_attention_heads"]:
        raise CheckpointError(f"{folder}: hidden_size {text['hidden_size']} isn't a multiple of its attention heads.")
    architecture.require(folder)
