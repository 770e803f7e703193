"""What a LLaVA model is made of, read from its config.json: its parts' families, and all that follows from them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from switchkd.architecture.config_json import read_config_json
from switchkd.architecture.families import find, known
from switchkd.architecture.family import Family, Language, Projector, Tensor, Tower, refuse
from switchkd.errors import CheckpointError

_Kind = TypeVar("_Kind", bound=Family)
# LLaVA's own choices, where config.json names none: the tower's hidden layer, the projector's family.
LAYER, PROJECTOR = -2, "mlp"


@dataclass(frozen=True)
class Architecture:
    """A model's parts and sizes. Complete settings: what config.json leaves out is as transformers assumes it."""

    config: Mapping[str, Any]  # config.json
    tower: Tower
    projector: Projector
    language: Language
    vision: dict[str, Any]  # complete settings of the tower
    text: dict[str, Any]  # of the language model
    projection: dict[str, Any]  # and of the projector, with what it has to know of the tower
    folder: Path | None = None  # for errors

    @classmethod
    def read(cls, folder: Path) -> Architecture:
        """That of a LLaVA folder. Raises CheckpointError as `read_config_json`, and as `of`."""
        return cls.of(read_config_json(folder), folder)

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path | None = None) -> Architecture:
        """That of a configuration.

        Raises:
            CheckpointError: a part of a family that isn't known, or a projector that can't read what the tower gives it.
        """
        where = "this model" if folder is None else folder
        vision, text = config["vision_config"], config["text_config"]
        tower = require_family(Tower, vision.get("model_type"), f"The tower of {where}")
        language = require_family(Language, text.get("model_type"), f"The language model of {where}")
        projector = require_family(Projector, config.get("projector_type", PROJECTOR), f"The projector of {where}")
        text = language.complete(text)
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        text["rope_theta"] = rope.get("rope_theta", text["rope_theta"])
        text["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
        text.setdefault("num_key_value_heads", text["num_attention_heads"])  # Llama's, before there were fewer
        vision = tower.complete(vision)
        sides = {name: vision[name] for name in ("image_size", "patch_size")}
        grid = vision["image_size"] // vision["patch_size"]
        projection = projector.complete(config) | sides | {"grid": grid, "class_token": tower.class_token}
        refuse(projector.needs, projection, where)
        made = cls(config, tower, projector.at(projection), language, vision, text, projection, folder)
        made._check_selection(where)
        return made

    def require(self, folder: Path, format: str = "", part: str = "") -> None:
        """Raises CheckpointError where families or settings have no place in a format.

        Args:
            format: its name; "" for what no format has a place for.
            part: "vision" or "language", where the other is in another format.
        """
        families: list[tuple[str, Family, Mapping[str, Any]]] = [
            ("vision", self.tower, self.vision),
            ("vision", self.projector, self.projection),
            ("language", self.language, self.text | {"head_width": self.head_width}),
        ]
        for whose, family, settings in families:
            if part and whose != part:
                continue
            if format in family.lacks:
                raise CheckpointError(
                    f"{folder}: {family.title} can't be exported to {format}: {family.lacks[format]}."
                )
            refuse(family.refusals, settings, folder, format)

    @property
    def feature_layers(self) -> int | Sequence[int]:
        """The hidden layer of the tower that the projector reads, or several that are joined; see `used_blocks`."""
        return self.config.get("vision_feature_layer", LAYER)

    @cached_property
    def used_layers(self) -> int:
        """How many of the tower's blocks these need. Raises CheckpointError as `used_blocks`."""
        return used_blocks(self.feature_layers, self.vision["num_hidden_layers"], self.folder)

    @property
    def feature_width(self) -> int:
        """Width of the features that the projector reads."""
        layers = self.feature_layers
        return self.vision["hidden_size"] * (1 if isinstance(layers, int) else len(layers))

    @property
    def grid(self) -> int:
        """Patches along a side of a picture."""
        return self.vision["image_size"] // self.vision["patch_size"]

    @property
    def positions(self) -> int:
        """Tokens in the tower: the patches, and a class token."""
        return self.grid**2 + self.tower.class_token

    @property
    def select_strategy(self) -> str:
        """Which of them the projector reads: "default" leaves the first out, "full" reads all."""
        return self.config.get("vision_feature_select_strategy", "default")

    @property
    def patches_alone(self) -> str:
        """The strategy by which the projector reads every patch and no class token."""
        return "default" if self.tower.class_token else "full"

    @property
    def read_tokens(self) -> int:
        """How many of the tower's tokens the projector reads."""
        return self.positions - (self.select_strategy == "default")

    @property
    def image_tokens(self) -> int:
        """How many tokens one picture becomes."""
        make = self.projector.tokens
        return self.read_tokens if make is None else make(self.projection)

    @property
    def head_width(self) -> int:
        """Width of one of the language model's attention heads."""
        return self.text.get("head_dim") or self.text["hidden_size"] // self.text["num_attention_heads"]

    @property
    def says_tied(self) -> bool:
        """Whether config.json says that the output layer is the embedding."""
        return bool(self.config.get("tie_word_embeddings") or self.config["text_config"].get("tie_word_embeddings"))

    def vision_tensors(self) -> Iterator[Tensor]:
        """The tensors of tower and projector that answers depend on, in the order of files."""
        vision = self.vision
        sizes = {
            "width": vision["hidden_size"],
            "feed_forward": vision["intermediate_size"],
            "patch": vision["patch_size"],
            "positions": self.positions,
        }
        return chain(self.tower.tensors(sizes, self.used_layers), self.projector.tensors(self.projector_sizes))

    @property
    def projector_sizes(self) -> dict[str, int]:
        """What the shapes of the projector's tensors are made of."""
        features, joined = self.feature_width, self.read_tokens // self.image_tokens
        return {"features": features, "joined": joined * features, "width": self.text["hidden_size"]}

    def projector_macs(self, *, read: int, made: int) -> int:
        """Multiply-adds with the projector's matrices and filters, where it reads so many tokens and makes so many."""
        acts = ((self.projector.before, read), (self.projector.after, made))
        shapes = [(weight.sized(self.projector_sizes), tokens) for weights, tokens in acts for weight in weights]
        return sum(tokens * prod(shape) for shape, tokens in shapes if len(shape) > 1)

    def _check_selection(self, where: str | Path) -> None:
        if self.projector.tokens is not None and self.select_strategy != self.patches_alone:
            raise CheckpointError(
                f"{where} has vision_feature_select_strategy '{self.select_strategy}', but {self.projector.title} reads every "
                f"patch and no class token, which for {self.tower.title} is '{self.patches_alone}'."
            )

    def language_tensors(self, *, tied: bool) -> Iterator[Tensor]:
        """Those of the language model, its head left out where it is the embedding."""
        text = self.text
        sizes = {
            "width": text["hidden_size"],
            "feed_forward": text["intermediate_size"],
            "queries": self.head_width * text["num_attention_heads"],
            "keys": self.head_width * text["num_key_value_heads"],
            "head": self.head_width,
            "rows": text["vocab_size"],
        }
        yield from self.language.tensors(sizes, text["num_hidden_layers"])
        if not tied:
            head = self.language.head
            yield Tensor(f"lm_head.{head.name}", tuple(sizes[str(size)] for size in head.shape), head.gguf, head.exact)


def used_blocks(layer: int | Sequence[int], blocks: int, folder: Path | None = None) -> int:
    """How many of a tower's blocks the features pass through, counted from its input.

    Args:
        layer: the hidden layer that is read, or several; N is what block N made, −1 what the last one made.
        blocks: how many the tower has.
        folder: the model's, for the error.

    Raises:
        CheckpointError: a layer that the tower doesn't have, or only layer 0, which no block has seen.
    """
    chosen = [layer] if isinstance(layer, int) else [*layer]
    deepest = max((each % (blocks + 1) for each in chosen), default=0)
    if deepest == 0 or not all(-blocks - 1 <= each <= blocks for each in chosen):
        place = f"{folder}: " if folder else ""
        raise CheckpointError(
            f"{place}Feature layer {layer} can't be read: the tower has the layers 1 to {blocks}, "
            f"or counted from its end -1 to -{blocks}."
        )
    return deepest


def require_family(kind: type[_Kind], name: Any, whose: str) -> _Kind:
    """The family of a name. Raises CheckpointError, beginning with `whose`, where it isn't known."""
    family = find(kind, name)
    if family is None:
        raise CheckpointError(f"{whose} is a '{name}'; {supported(kind)}.")
    return family


def supported(kind: type[Family]) -> str:
    """The families of a kind, for an error."""
    names = [family.name for family in known(kind)]
    return f"supported {'is' if len(names) == 1 else 'are'} {', '.join(names)}"
