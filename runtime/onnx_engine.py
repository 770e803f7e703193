"""The engine on ONNX Runtime: the three graphs of an export, no torch.

Keys and values stay in buffers that the decoder's fused attention reads and extends in place: each call gets the same
addresses as past and as present, and only the attention mask's length grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import DataError, MissingDependencyError, SkdError
from switchkd.preprocess import Preprocess
from switchkd.runtime.engine import CPU, Floats, picture_span
from switchkd.runtime.pinning import pinned, places

DEFAULT_CONTEXT = 4096
PIECE = 128  # tokens of a prompt that are read at once
_FLOATS: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_FATAL = 4  # log level: errors come as exceptions


def onnx_runtime() -> ModuleType:
    """The `onnxruntime` package. Raises MissingDependencyError where it isn't installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "Running an ONNX export needs ONNX Runtime: pip install 'switchkd[onnx]'."
        ) from error
    return onnxruntime


def devices() -> dict[str, str]:
    """What ONNX Runtime can run on here: device → its execution provider's name."""
    providers = onnx_runtime().get_available_providers()
    return {name.removesuffix("ExecutionProvider").lower(): name for name in providers if "Azure" not in name}


def load_parts(
    vision: Path,
    embedding: Path,
    language: Path,
    preprocess: Preprocess,
    image_token_id: int,
    *,
    threads: int,
    context: int = DEFAULT_CONTEXT,
    device: str = CPU,
) -> tuple[OnnxVision, OnnxLanguage]:
    """Both parts out of their files.

    Raises:
        SkdError: ONNX Runtime can't read a file, or hasn't got the device.
        MissingDependencyError: onnxruntime isn't installed.
    """
    return (
        OnnxVision(vision, preprocess, threads=threads, device=device),
        OnnxLanguage(language, embedding, image_token_id, threads=threads, context=context, device=device),
    )


class OnnxVision:
    """Tower and projector.

    Args:
        path: vision_encoder*.onnx: pixel_values [B, 3, H, W] → image_features [B, P, W].
        preprocess: bytes to pixel values.
        threads: processor threads.
        device: one of `devices`.
    """

    def __init__(self, path: Path, preprocess: Preprocess, *, threads: int, device: str = CPU) -> None:
        self._session = _session(path, threads, device, one_shape=True)
        self._places = places(threads)
        self._preprocess = preprocess
        self._shown = ("image_features", "vision_features")[: len(self._session.get_outputs())]

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """See `VisionEncoder.encode`."""
        values = self._preprocess.normalize(pixels)  # [3, H, W]
        with pinned(self._places):
            return _run(self._session, ["image_features"], {"pixel_values": values[None]})[0][0]

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """See `VisionEncoder.trace`; "features" where the graph has them as a second output."""
        values = self._preprocess.normalize(pixels)
        results = _run(self._session, list(self._shown), {"pixel_values": values[None]})
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
        self._decoder = _session(decoder, threads, device)
        self._embedding = _session(embedding, 1, CPU)
        self._places = places(threads)
        self._image_token_id = image_token_id
        self.context = context
        self._rows = self._decoder.get_outputs()[0].shape[-1]
        self._length = 0  # tokens in the cache
        self._mask = np.ones((1, context), np.int64)
        self._keep = np.zeros((), np.int64)
        self._token = np.zeros((1, 1), np.int64)
        self._logits = np.empty((1, 1, self._rows), np.float32)
        self._binding = self._decoder.io_binding()
        # Pages of zeros cost no memory until they are written.
        self._cache = [
            self._bind_cache(value, context) for value in self._decoder.get_inputs() if _is_cache(value.name)
        ]
        _bind(self._binding.bind_input, "num_logits_to_keep", self._keep)

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """See `LanguageModel.prefill`."""
        start, end = picture_span(ids, self._image_token_id, features)
        # The image token may have no row of its own.
        plain = np.array([[*ids[:start], *[0] * (end - start), *ids[end:]]], np.int64)
        embeds = self._embed(plain)
        if features is not None:
            embeds[0, start:end] = features
        self._length = 0
        with pinned(self._places):
            return self._read(embeds, every)

    def step(self, token: int) -> Floats:
        """Appends one token; logits [V]. It goes on where the prompt was read, and pinning would cost a tiny model 5 %."""
        self._token[0, 0] = token
        return self._read(self._embed(self._token), every=False)

    def read_batch(self, embeds: Floats, mask: NDArray[np.int64]) -> Floats:
        """Next-token logits [B, V] of several prompts at once, beside the conversation in memory.

        Args:
            embeds: [B, T, W], padded on the right with anything.
            mask: [B, T]: ones, then zeros where a row is padded.

        Raises:
            DataError: a row padded on the left, which the fused attention would misplace, or empty.
        """
        lengths = mask.sum(1)
        if (lengths == 0).any() or (mask != (np.arange(mask.shape[1]) < lengths[:, None])).any():
            raise DataError("Prompts of a batch must be padded on the right, each of one token at least.")
        inputs: dict[str, NDArray[Any]] = {
            value.name: np.empty((len(embeds), value.shape[1], 0, value.shape[3]), _FLOATS[value.type])
            for value in self._decoder.get_inputs()
            if _is_cache(value.name)
        }
        inputs |= {"inputs_embeds": embeds, "attention_mask": mask, "num_logits_to_keep": np.array(0)}
        logits = _run(self._decoder, ["logits"], inputs)[0]  # [B, T, V]
        return logits[np.arange(len(embeds)), lengths - 1]

    def close(self) -> None:
        """Lets both graphs and the cache go."""
        self._binding = self._decoder = self._embedding = None
        self._cache = []

    def _embed(self, ids: NDArray[np.int64]) -> Floats:
        """[1, T] → [1, T, W]."""
        return _run(self._embedding, ["inputs_embeds"], {"input_ids": ids})[0]

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
        if self._length + count > self.context:
            raise DataError(f"{self._length + count} tokens are more than the context of {self.context}.")
        self._length += count
        # The graph takes hidden[:, -keep:], which for none of them begins behind the last.
        self._keep[...] = wanted or -count
        _bind(self._binding.bind_input, "inputs_embeds", embeds)
        _bind(self._binding.bind_input, "attention_mask", self._mask[:, : self._length])
        _bind(self._binding.bind_output, "logits", logits)
        with _one_line("ONNX Runtime couldn't go on"):
            self._decoder.run_with_iobinding(self._binding)

    def _bind_cache(self, value: Any, context: int) -> NDArray[np.floating[Any]]:
        """A buffer for keys or values, bound as past and as present at once."""
        _, heads, _, width = value.shape
        buffer = np.zeros((1, heads, context, width), _FLOATS[value.type])
        _bind(self._binding.bind_input, value.name, buffer)
        _bind(self._binding.bind_output, value.name.replace("past_key_values.", "present."), buffer)
        return buffer


def _is_cache(name: str) -> bool:
    return name.startswith("past_key_values.")


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Binds an array's memory, which its owner keeps alive and in one piece."""
    bind(name, CPU, 0, array.dtype.type, array.shape, array.ctypes.data)


def _session(path: Path, threads: int, device: str, *, one_shape: bool = False) -> Any:
    """A loaded graph.

    Args:
        one_shape: every call's inputs have the same shape: its memory is planned once, and given back after each call.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = not one_shape
    options.enable_mem_pattern = one_shape
    # Waiting threads spin while a graph runs, and leave the processor to the next graph when it ends.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if others := places(threads)[1:]:  # the library counts processors from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(at + 1) for at in others))
    provider = _provider(device)
    providers = [provider] if device == CPU else [provider, "CPUExecutionProvider"]
    with _one_line(f"ONNX Runtime can't read {path}"):
        session = runtime.InferenceSession(str(path), options, providers=providers)
    if provider not in session.get_providers():  # it goes on without one that it can't load
        raise SkdError(f"ONNX Runtime can't use '{device}' here: {provider} doesn't load; are its libraries installed?")
    return session


def _run(session: Any, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]) -> list[Any]:
    with _one_line("ONNX Runtime couldn't go on"):
        return session.run(outputs, inputs)


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns ONNX Runtime's exceptions, which have no common base, into ours."""
    try:
        yield
    except Exception as error:
        raise SkdError(f"{what}: {' '.join(str(error).split())}") from error


def _provider(device: str) -> str:
    known = devices()
    if device not in known:
        raise SkdError(f"ONNX Runtime has no device '{device}' here, only {', '.join(known)}.")
    return known[device]
