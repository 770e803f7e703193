"""The reference engine: the checkpoint itself in PyTorch, float32, behind the interface of the others.

Everything else is proved against it. torch and transformers are imported when it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.architecture.architecture import Architecture
from switchkd.errors import MissingDependencyError
from switchkd.preprocess import Preprocess
from switchkd.runtime.engines.picture_places import picture_places
from switchkd.runtime.engines.sampler import Floats


def load_parts(
    folder: Path, preprocess: Preprocess, *, threads: int, context: int
) -> tuple[TorchVision, TorchLanguage]:
    """Both parts of a checkpoint.

    Args:
        context: most tokens of a prompt and its answer, at most what the model was trained on.

    Raises:
        MissingDependencyError: torch or transformers isn't installed.
        CheckpointError: the folder isn't a usable LLaVA checkpoint.
    """
    try:
        import torch

        from switchkd.models.vlm import load_vlm
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} is a PyTorch checkpoint, which needs an extra: pip install 'switchkd[train]'."
        ) from error
    torch.set_num_threads(threads)
    with quiet_transformers():
        vlm = load_vlm(folder).eval()
    return TorchVision(vlm, preprocess), TorchLanguage(vlm, context)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own progress bars and notes, which would mix with ours; errors still come as exceptions."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


class TorchVision:
    """Tower and projector of a checkpoint."""

    def __init__(self, vlm: Any, preprocess: Preprocess) -> None:
        self._vlm, self._preprocess = vlm, preprocess
        self.image_tokens: int = Architecture.of(vlm.config.to_dict()).image_tokens

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """See `VisionEncoder.encode`."""
        return self.trace(pixels)["projected"]

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """See `VisionEncoder.trace`."""
        import torch

        from switchkd.models.switch import vision_features

        values = self._preprocess.normalize(pixels)  # [3, H, W]
        with torch.inference_mode():
            features = vision_features(self._vlm, torch.from_numpy(values)[None])  # [1, P, W_v]
            projected = self._vlm.model.multi_modal_projector(features)  # [1, P, W]
        return {"pixels": values, "features": features[0].numpy(), "projected": projected[0].numpy()}

    def close(self) -> None:
        """Lets the model go."""
        self._vlm = None


class TorchLanguage:
    """The language model of a checkpoint with its key-value cache."""

    reused = 0  # it reads every prompt whole

    def __init__(self, vlm: Any, context: int) -> None:
        self._vlm = vlm
        self.context: int = min(context, vlm.config.text_config.max_position_embeddings)
        self._cache: Any = None

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """See `LanguageModel.prefill`."""
        import torch

        shown = torch.from_numpy(picture_places(ids, self._vlm.config.image_token_id, features))
        with torch.inference_mode():
            # The image token may have no row of its own.
            plain = torch.tensor([ids]).masked_fill(shown, 0)
            embeds = self._vlm.get_input_embeddings()(plain)  # [1, T, W]
            if features is not None:
                embeds[0, shown] = torch.from_numpy(features)
            self._cache = None
            return self._read(embeds, every)

    def step(self, token: int) -> Floats:
        """Appends one token; logits [V]."""
        import torch

        with torch.inference_mode():
            return self._read(self._vlm.get_input_embeddings()(torch.tensor([[token]])), every=False)

    def rewind(self, length: int) -> None:
        """See `LanguageModel.rewind`."""
        if more := self._cache.get_seq_length() - length:
            self._cache.crop(-more)

    def close(self) -> None:
        """Lets the model go."""
        self._vlm = self._cache = None

    def _read(self, embeds: Any, every: bool) -> Floats:
        output = self._vlm.model.language_model(inputs_embeds=embeds, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        hidden = output.last_hidden_state[0]  # [T, W]
        logits = self._vlm.lm_head(hidden if every else hidden[-1:]).numpy()
        return logits if every else logits[0]
