"""What a layout is: how a folder that somebody else's code wrote is known, and what is read out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError
from switchkd.importing.stored import Stored

Config = Mapping[str, Any]  # config.json

# The parts of a model; behind each its tensors have the names that transformers' own class of that part gives them.
VISION, PROJECTOR, LANGUAGE, HEAD = "vision", "projector", "language", "head"
Prefixes = Sequence[
    tuple[str, str]
]  # how the names of a part's tensors begin in the source → the part; the first fitting counts
# What no answer depends on: tables that are computed, and SigLIP's pooling head.
UNUSED = (".rotary_emb.inv_freq", ".position_ids")


@dataclass(frozen=True)
class Source:
    """What is imported, as given."""

    folder: Path
    config: Config
    vision: Path | None = None  # a tower's folder, where it was named
    tokenizer: Path | None = None  # likewise

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is looked for: in a folder that was given, or that config.json names inside the source, or in it."""
        named = self.config.get("tokenizer_name_or_path")
        if self.tokenizer is None and isinstance(named, str):
            inside = Path(named).resolve()
            if inside.is_dir() and inside.is_relative_to(self.folder.resolve()):
                return inside
        return self.tokenizer or self.folder


@dataclass(frozen=True)
class Foreign:
    """A model by its source's conventions."""

    layout: str  # for people
    tensors: Mapping[str, Stored]  # all of its files, by their names there
    prefixes: Prefixes
    vision: Mapping[str, Any]  # the tower's settings, with their model_type
    text: Mapping[str, Any]  # the language model's
    connector: str  # the projector, as the source calls it
    feature_layer: int | list[int]
    first_token: bool  # whether the projector reads the tower's first token too
    pads: bool | None  # whether pictures are pasted on a square first; None: as `preprocessor` says
    template: str  # of chats, where nothing else is asked for
    template_reason: str
    preprocessor: Path | None = None  # a folder whose picture settings count; None: the tower's usual ones
    image_token: int | None = None  # where the source has one in its vocabulary
    tower_name: str = ""  # as the source names it, for people


@dataclass(frozen=True)
class Layout:
    """One way of writing a model."""

    name: str  # for people
    found: Callable[[Path, Config], bool]
    read: Callable[[Source], Foreign]  # raises CheckpointError for what can't be imported, before anything is written


def part_tensors(foreign: Foreign, folder: Path) -> tuple[dict[str, dict[str, Stored]], list[str]]:
    """(part → its tensors, by the names of transformers' class of it; names that no part knows).

    Raises:
        CheckpointError: two tensors that would get one name.
    """
    parts: dict[str, dict[str, Stored]] = {VISION: {}, PROJECTOR: {}, LANGUAGE: {}, HEAD: {}}
    unknown = []
    for name, stored in foreign.tensors.items():
        prefix, part = next(((prefix, part) for prefix, part in foreign.prefixes if name.startswith(prefix)), ("", ""))
        if f".{name}".endswith(UNUSED):
            continue
        if not part:
            unknown.append(name)
            continue
        inner = name.removeprefix(prefix)
        if inner in parts[part]:
            raise CheckpointError(f"{folder} holds {inner} of its {part} part twice.")
        parts[part][inner] = stored
    return parts, unknown
