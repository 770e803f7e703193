"""The engine on ONNX Runtime: the three graphs of an export, no torch.

Keys and values stay in buffers that the decoder's fused attention reads and extends in place: each call gets the same
addresses as past and as present, and only the attention mask's length grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import DataError
from switchkd.hardware.runtimes import ONNX, RUNTIMES
from switchkd.preprocess import Preprocess
from switchkd.runtime.engines.interfaces import CPU, DEFAULT_CONTEXT, LanguageModel
from switchkd.runtime.engines.onnx.session import STOPPED, bind, one_line, open_session, run
from switchkd.runtime.engines.parts import ExportParts, RunOptions
from switchkd.runtime.engines.picture_places import picture_places
from switchkd.runtime.engines.pinning import pinned, places
from switchkd.runtime.engines.sampler import Floats

PIECE = RUNTIMES[ONNX].piece  # tokens of a prompt that are read at once
_FLOATS: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_language(export: ExportParts, options: RunOptions) -> OnnxLanguage:
    """See `Opener`. Raises SkdError also where ONNX Runtime hasn't got the device."""
    return OnnxLanguage(
        export.language.file("language"),
        export.language.file("embedding"),
        export.prompt.image_token_id,
        threads=options.threads,
        context=options.context,
        device=options.device,
    )


def open_vision(export: ExportParts, options: RunOptions, language: LanguageModel | None = None) -> OnnxVision:
    """See `Opener`. Raises as `open_language`."""
    path = export.vision.file("vision")
    return OnnxVision(path, export.preprocess, threads=options.threads, device=options.device)


class OnnxVision:
    """Tower and projector.

    Args:
        path: vision_encoder*.onnx: pixel_values [B, 3, H, W] → image_features [B, P, W].
        preprocess: bytes to pixel values.
        threads: processor threads.
        device: one of `devices`.
    """

    def __init__(self, path: Path, preprocess: Preprocess, *, threads: int, device: str = CPU) -> None:
        self._session = open_session(path, threads, device, one_shape=True)
        self._places = places(threads)
        self._preprocess = preprocess
        self._shown = ("image_features", "vision_features")[: len(self._session.get_outputs())]

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """See `VisionEncoder.encode`."""
        values = self._preprocess.normalize(pixels)  # [3, H, W]
        with pinned(self._places):
            return run(self._session, ["image_features"], {"pixel_values": values[None]})[0][0]

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """See `VisionEncoder.trace`; "features" where the graph has them as a second output."""
        values = self._preprocess.normalize(pixels)
        results = run(self._session, list(self._shown), {"pixel_values": values[None]})
        names = ("projected", "features")
        return {"pixels": values, **{name: result[0] for name, result in zip(names, results, strict=False)}}

    def close(self) -> None:
        """Lets the graph go."""
        self._session = None


class OnnxLanguage:
    """Token embedding and decoder with its key-value cache.

    Args:
        decoder: decoder_model_merged*.onnx.
        embedding: embed_tokens*.onnx.
        image_token_id: the id that stands for a picture's tokens in prompts.
        threads: processor threads.
        context: most tokens of a prompt and its answer.
        device: one of `devices`.
    """

    reused = 0  # it reads every prompt whole

    def __init__(
        self,
        decoder: Path,
        embedding: Path,
        image_token_id: int,
        *,
        threads: int,
        context: int = DEFAULT_CONTEXT,
        device: str = CPU,
    ) -> None:
        self.decoder = open_session(decoder, threads, device)
        self.embedding = open_session(embedding, 1, CPU)
        self._places = places(threads)
        self._image_token_id = image_token_id
        self.context = context
        self._rows = self.decoder.get_outputs()[0].shape[-1]
        self._length = 0  # tokens in the cache
        self._mask = np.ones((1, context), np.int64)
        self._ones = self._mask.ctypes.data  # asking for it takes a microsecond
        self._keep = np.zeros((), np.int64)
        self._token = np.zeros((1, 1), np.int64)
        self._logits = np.empty((1, 1, self._rows), np.float32)
        # Pages of zeros cost no memory until they are written.
        self._cache = {
            value.name: np.zeros((1, value.shape[1], context, value.shape[3]), _FLOATS[value.type])
            for value in self.decoder.get_inputs()
            if _is_cache(value.name)
        }
        self._prompt, self._single = self._bind_cache(), self._bind_cache()
        self._lookup: Any = self.embedding.io_binding()
        self._bind_single()

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """See `LanguageModel.prefill`."""
        shown = picture_places(ids, self._image_token_id, features)
        # The image token may have no row of its own.
        embeds = self._embed(np.where(shown, 0, np.asarray(ids, np.int64))[None])
        if features is not None:
            embeds[0, shown] = features
        self._length = 0
        with pinned(self._places):
            return self._read(embeds, every)

    def step(self, token: int) -> Floats:
        """See `LanguageModel.step`. It goes on where the prompt was read: pinning each would cost a tiny model 5 %."""
        self._token[...] = token
        self._keep[...] = 1
        self._grow(1, self._single)
        with one_line(STOPPED):
            self.embedding.run_with_iobinding(self._lookup)
            self.decoder.run_with_iobinding(self._single)
        return self._logits[0, 0]

    def rewind(self, length: int) -> None:
        """See `LanguageModel.rewind`. What lies behind in the buffers is written over before it is read."""
        self._length = length

    def close(self) -> None:
        """Lets both graphs and the cache go."""
        self._prompt = self._single = self._lookup = self.decoder = self.embedding = None
        self._cache = {}

    def _embed(self, ids: NDArray[np.int64]) -> Floats:
        """[1, T] → [1, T, W]."""
        return run(self.embedding, ["inputs_embeds"], {"input_ids": ids})[0]

    def _read(self, embeds: Floats, every: bool) -> Floats:
        """Appends embeddings [1, T, W]; logits [V] after the last, or [T, V] with `every`.

        A long prompt is read in pieces: attention skips what comes after a piece, and rounding to 8 bits, which looks
        for the largest activation of a piece, gets finer.
        """
        count = embeds.shape[1]
        logits = np.empty((1, count, self._rows), np.float32) if every else self._logits
        for start in range(0, count, PIECE):
            piece = embeds[:, start : start + PIECE]
            if every:
                self._append(piece, logits[:, start : start + PIECE])
            else:
                last = start + PIECE >= count
                self._append(piece, logits if last else logits[:, :0])
        return logits[0] if every else logits[0, 0].copy()

    def _append(self, embeds: Floats, logits: Floats) -> None:
        """One run of the decoder: embeddings [1, T, W] in, the last N positions' logits out, into [1, N, V].

        Raises:
            DataError: the buffers have no room for them.
        """
        count, wanted = embeds.shape[1], logits.shape[1]
        # The graph takes hidden[:, -keep:], which for none of them begins behind the last.
        self._keep[...] = wanted or -count
        self._grow(count, self._prompt)
        bind(self._prompt.bind_input, "inputs_embeds", embeds)
        bind(self._prompt.bind_output, "logits", logits)
        with one_line(STOPPED):
            self.decoder.run_with_iobinding(self._prompt)

    def _grow(self, count: int, binding: Any) -> None:
        """Makes room for tokens in what a run sees. Raises DataError where the buffers have none."""
        if self._length + count > self.context:
            raise DataError(f"{self._length + count} tokens are more than the context of {self.context}.")
        self._length += count
        binding.bind_input("attention_mask", CPU, 0, np.int64, (1, self._length), self._ones)

    def _bind_cache(self) -> Any:
        """A binding that has every buffer of keys or values as past and as present at once."""
        binding = self.decoder.io_binding()
        for name, buffer in self._cache.items():
            bind(binding.bind_input, name, buffer)
            bind(binding.bind_output, name.replace("past_key_values.", "present."), buffer)
        bind(binding.bind_input, "num_logits_to_keep", self._keep)
        return binding

    def _bind_single(self) -> None:
        """One token's way stays the same but for the mask: id → embedding → logits."""
        output = self.embedding.get_outputs()[0]
        self._embeds = np.empty((1, 1, output.shape[-1]), _FLOATS[output.type])
        bind(self._lookup.bind_input, "input_ids", self._token)
        bind(self._lookup.bind_output, "inputs_embeds", self._embeds)
        bind(self._single.bind_input, "inputs_embeds", self._embeds)
        bind(self._single.bind_output, "logits", self._logits)


def _is_cache(name: str) -> bool:
    return name.startswith("past_key_values.")
