"""What a family of parts is: all in which one family differs from another, as data. Each has its file in `families/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError

Settings = Mapping[str, Any]  # a part of config.json


@dataclass(frozen=True)
class Weight:
    """One tensor of a part, or one of each of its blocks."""

    name: str  # in a checkpoint, behind the part's or the block's prefix
    shape: tuple[str | int, ...]  # names of the part's sizes, or numbers
    gguf: str  # in a GGUF file, behind the block's prefix
    exact: bool = False  # float32 whatever a file's precision: norms, biases and positions are small and sensitive
    # Rows that positions turn in pairs: half a head apart in a checkpoint, neighbours in the GGUF files of some architectures.
    turned: bool = False
    # float16 in GGUF whatever a file's precision: llama.cpp ends the process at filters of another type.
    half: bool = False

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


@dataclass(frozen=True)
class Tensor:
    """A tensor that a part has by its configuration."""

    name: str  # in a checkpoint, in the one spelling of `switchkd.architecture.names`
    shape: tuple[int, ...]
    gguf: str  # in a GGUF file
    exact: bool
    turned: int = 0  # rows of a head whose pairs lie otherwise in a GGUF file, see `Weight`; 0: they don't
    half: bool = False  # see Weight


@dataclass(frozen=True)
class Refusal:
    """A setting with which a part can be trained and not exported."""

    what: str  # for docs/families.md
    found: Callable[[Settings], bool]  # in the part's complete settings
    message: str  # one line; {folder} and the settings are filled in
    format: str = ""  # that refuses it; empty: every one


def refuse(refusals: Iterable[Refusal], settings: Settings, folder: Path | str, format: str = "") -> None:
    """Raises CheckpointError for the first setting that a format refuses, or with no format that every one does."""
    for refusal in refusals:
        if refusal.format == format and refusal.found(settings):
            raise CheckpointError(refusal.message.format_map({**settings, "folder": folder}))


@dataclass(frozen=True)
class Family:
    """What all kinds of parts have."""

    name: str  # `model_type` of its part of config.json; of a projector `projector_type`, which LLaVA's own leaves out
    title: str  # for people
    prefix: str  # of its tensors in a checkpoint
    before: tuple[Weight, ...]  # the tensors, in the order in which files hold them: before the blocks …
    block: tuple[Weight, ...] = ()  # … of each block …
    after: tuple[Weight, ...] = ()  # … and after them
    blocks: tuple[str, str] = ("", "")  # a block's prefix in a checkpoint and in GGUF, with {layer}
    defaults: Settings = field(default_factory=dict)  # what transformers assumes where config.json says nothing
    refusals: tuple[Refusal, ...] = ()
    lacks: Settings = field(default_factory=dict)  # format that can't hold it → why, as part of a sentence

    def complete(self, given: Settings) -> dict[str, Any]:
        """Settings with what config.json leaves out."""
        return {**self.defaults, **given}

    def tensors(self, sizes: Mapping[str, int], layers: int = 0) -> Iterator[Tensor]:
        """Every tensor that answers depend on.

        Args:
            sizes: what the weights' shapes are made of.
            layers: blocks that are used, counted from the input.
        """
        for weight in self.before:
            yield self._tensor(weight, sizes)
        for layer in range(layers):
            for weight in self.block:
                yield self._tensor(weight, sizes, *(prefix.format(layer=layer) for prefix in self.blocks))
        for weight in self.after:
            yield self._tensor(weight, sizes)

    def _tensor(self, weight: Weight, sizes: Mapping[str, int], source: str = "", target: str = "") -> Tensor:
        name, gguf = f"{self.prefix}{source}{weight.name}", f"{target}{weight.gguf}"
        turned = sizes["head"] if weight.turned else 0
        return Tensor(name, weight.sized(sizes), gguf, weight.exact, turned, weight.half)


@dataclass(frozen=True)
class Tower(Family):
    """A family of vision towers. Sizes: width, feed_forward, patch, positions."""

    model_class: str = ""  # in transformers
    processor_class: str = ""  # in transformers, the image processor's
    processor: Callable[[int], dict[str, Any]] = lambda side: {}  # its arguments, by the tower's side in pixels
    crops: bool = False  # whether that cuts a square out of the picture where its settings don't say; else it stretches
    class_token: bool = False  # a token in front of the patches, which the projector doesn't see
    unused: tuple[str, ...] = ()  # modules and tensors that no feature passes through, behind the prefix
    settings: Settings = field(default_factory=dict)  # that a new model's tower gets


@dataclass(frozen=True)
class Projector(Family):
    """A family of projectors, from the tower's features to the language model's width.

    Its settings are config.json's own entries, with image_size, patch_size and class_token of the tower, and `grid`, the patches
    along a side of a picture. Sizes: features, width, and joined, the features of all patches that become one token.
    """

    gguf_type: str = ""  # llama.cpp's `clip.projector_type`
    gguf_keys: Mapping[str, str] = field(
        default_factory=dict
    )  # its whole-numbered settings → their names behind `clip.vision.`
    # (features, width, settings) → its torch module, [I, P, features] → [I, made, width]; None: LLaVA's own. It imports torch by
    # itself.
    module: Callable[[int, int, Settings], Any] | None = None
    # How many tokens it makes of the whole grid of patches; None: one of each token that it reads. Then `before` acts on those that
    # it reads, `after` on those that it makes.
    tokens: Callable[[Settings], int] | None = None
    needs: tuple[Refusal, ...] = ()  # settings that it can't compute with: refused wherever the model is read
    variant: Callable[[Settings], Projector] | None = None  # the family as it is with certain settings

    def at(self, settings: Settings) -> Projector:
        """The family as it is with these settings."""
        return self if self.variant is None else self.variant(settings)

    def entries(self, given: Settings) -> dict[str, Any]:
        """What config.json says of it, where some settings are given. Raises CheckpointError for one that it hasn't got."""
        if self.module is None:
            known: dict[str, Any] = {}  # transformers' own class has its own
        else:
            known = {"projector_type": self.name, **self.defaults}
        if unknown := [name for name in given if name not in known]:
            others = ", ".join(self.defaults if known else ()) or "none"
            raise CheckpointError(f"The projector {self.name} has no setting {unknown[0]}; its settings: {others}.")
        return {**known, **given}


@dataclass(frozen=True)
class Language(Family):
    """A family of language models. Sizes: width, feed_forward, queries, keys, head, rows."""

    model_class: str = ""  # in transformers, and by which onnxruntime-genai's builder knows it
    gguf_architecture: str = ""  # llama.cpp's `general.architecture`
    # A tokenizer.json's patterns of words → llama.cpp's name, where export/gguf/tokenizer.py doesn't have it.
    gguf_splits: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    # Behind "lm_head.", where it isn't the embedding.
    head: Weight = Weight("weight", ("rows", "width"), "output.weight")


def affine(name: str, gguf: str, outputs: str, inputs: str) -> tuple[Weight, Weight]:
    """A matrix and its bias."""
    return (
        Weight(f"{name}.weight", (outputs, inputs), f"{gguf}.weight"),
        Weight(f"{name}.bias", (outputs,), f"{gguf}.bias", exact=True),
    )


def norm(name: str, gguf: str) -> tuple[Weight, Weight]:
    """A norm's factors and offsets."""
    return (
        Weight(f"{name}.weight", ("width",), f"{gguf}.weight", exact=True),
        Weight(f"{name}.bias", ("width",), f"{gguf}.bias", exact=True),
    )
