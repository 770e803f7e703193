"""Importance matrices: how strongly each input column of each weight is used, seen while the model reads real data.

llama.cpp's quantizer rounds a weight's values to lose least where the mean square of the inputs is large (its
tools/imatrix). Here the model reads pictures too, so that columns which only pictures use count as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import SkdError
from switchkd.export.gguf.quantize import Importance
from switchkd.export.samples import Sample
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.llama.library import Tensor


class ImportanceCollector:
    """Sums the squares of every weight's inputs; an observer of `LlamaLanguage`."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def __call__(self, tensor: Tensor) -> None:
        weight, inputs = tensor.source(0), tensor.source(1)
        if weight is None or inputs is None or not weight.name.endswith(".weight"):
            return  # a product of activations
        values = inputs.values().reshape(-1, inputs.shape[-1]).astype(np.float64)  # [T, W]
        self._sums[weight.name] = self._sums.get(weight.name, 0.0) + np.square(values).sum(0)
        self._rows[weight.name] = self._rows.get(weight.name, 0) + len(values)

    def importance(self) -> Importance:
        """Tensor name → mean square of its inputs [W]."""
        return {name: (total / self._rows[name]).astype(np.float32) for name, total in self._sums.items()}


def collect(
    engine: Engine, collector: ImportanceCollector, samples: Sequence[Sample], passages: Sequence[Sequence[int]]
) -> Importance:
    """Lets an engine that `collector` observes read whole conversations, and texts given as token ids."""
    for sample in samples:
        features = engine.encode_images(sample.images())
        ids = engine.prompt.encode(sample.messages, image_tokens=engine.image_tokens).ids
        # Logits after every position: otherwise the last block would see only the last token.
        engine.language.prefill(ids, features, every=True)
    for text in passages:
        engine.language.prefill(text, every=True)
    return collector.importance()


def kept(path: Path, make: Callable[[], Importance]) -> Importance:
    """The importance matrix in `path` (.npz), made and kept where there is none yet.

    Raises:
        SkdError: the file is there but torn, or can't be written.
    """
    try:
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                return {name: np.ascontiguousarray(file[name], np.float32) for name in file.files}
    except Exception as error:  # numpy and zipfile raise all kinds on a torn file
        raise SkdError(f"{path} can't be read: {error}; delete it to have it made again.") from error
    importance = make()
    partial = path.with_name(f".{path.name}")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **importance)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SkdError(f"{path} can't be written: {error.strerror or error}.") from error
    return importance
