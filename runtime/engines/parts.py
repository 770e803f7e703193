"""What an engine's two parts are made from: files, and what has to be known of them. Openers make the parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from switchkd.errors import SkdError
from switchkd.manifest import TensorCount
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.runtime.engines.interfaces import CPU, DEFAULT_CONTEXT, LanguageModel, VisionEncoder


@dataclass(frozen=True)
class PartFiles:
    """The weights of one part."""

    files: Mapping[str, Path]  # role → file; "vision" or "language" is the one that tells the runtime
    precision: str  # of that file
    tensor_types: Callable[[], Mapping[str, TensorCount]]  # of that file

    def file(self, role: str) -> Path:
        """The file with a role. Raises SkdError where there is none."""
        if role not in self.files:
            raise SkdError(f"{next(iter(self.files.values()))} has no file with the role '{role}' beside it.")
        return self.files[role]


@dataclass(frozen=True)
class ExportParts:
    """An export, finished or in the making, as far as running it needs."""

    name: str  # what to call it in tables
    prompt: ChatPrompt
    preprocess: Preprocess
    vision: PartFiles
    language: PartFiles
    image_tokens: int  # that one picture takes
    end_tokens: frozenset[int]
    context: int  # most tokens that it was trained to read


@dataclass(frozen=True)
class RunOptions:
    """How an export is to be run."""

    threads: int
    context: int = DEFAULT_CONTEXT  # most tokens of a prompt and its answer together
    device: str = CPU
    traced: bool = False  # keep the stages of the vision part visible (`VisionEncoder.trace`)
    observe: Callable[[Any], None] | None = None  # sees the tensors of matrix products, where the runtime shows them


class Opener(Protocol):
    """Makes a runtime's parts."""

    def open_language(self, export: ExportParts, options: RunOptions) -> LanguageModel:
        """The language model. Raises SkdError where it can't be read, or a package is missing."""
        ...

    def open_vision(
        self, export: ExportParts, options: RunOptions, language: LanguageModel | None = None
    ) -> VisionEncoder:
        """Tower and projector; `language` is the export's other part, whose weights it may share. Raises likewise."""
        ...
