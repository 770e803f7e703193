"""The engine on llama.cpp: GGUF language model and picture encoder, no torch.

What llama.cpp would do by itself and mustn't: scale a picture into a grey frame (it gets one of exactly the tower's size),
tokenize without NFC (it gets ids), keep an older picture in its memory (see `LlamaLanguage.prefill`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import SkdError
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.interfaces import DEFAULT_CONTEXT, LanguageModel
from switchkd.runtime.engines.llama.bindings import failure
from switchkd.runtime.engines.llama.build import can_rearrange_weights
from switchkd.runtime.engines.llama.library import Observer, library, observer_callback
from switchkd.runtime.engines.llama.vision import LlamaVision
from switchkd.runtime.engines.parts import ExportParts, RunOptions
from switchkd.runtime.engines.picture_places import cut
from switchkd.runtime.engines.sampler import Floats

_F32, _F16 = 0, 1  # ggml_type
# Types whose weights llama.cpp copies into another arrangement on every processor; others it reads as they lie in the file.
_REARRANGED = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})


def is_rearranged(types: Mapping[str, TensorCount]) -> bool:
    """Whether llama.cpp copies the larger part of a language file's quantized weights, so that mapping it costs memory.

    Args:
        types: the file's tensors, by ggml's name of their type.
    """
    counts = {name: count.bytes for name, count in types.items() if name not in ("F32", "F16")}
    return 2 * sum(size for name, size in counts.items() if name in _REARRANGED) > sum(counts.values())


def open_language(export: ExportParts, options: RunOptions) -> LlamaLanguage:
    """See `Opener`. Float32 files are there to be exact; half a key-value cache would undo that."""
    part = export.language
    model = LlamaModel(
        part.file("language"), repack=options.observe is None, mapped=not is_rearranged(part.tensor_types())
    )
    try:
        return LlamaLanguage(
            model,
            export.prompt.image_token_id,
            threads=options.threads,
            context=options.context,
            exact=part.precision == "f32",
            observe=options.observe,
        )
    except SkdError:
        model.close()
        raise


def open_vision(export: ExportParts, options: RunOptions, language: LanguageModel | None = None) -> LlamaVision:
    """See `Opener`. Raises SkdError also beside a language model of another runtime."""
    path = export.vision.file("vision")
    if not isinstance(language, LlamaLanguage):
        raise SkdError(f"llama.cpp reads {path} beside a language model in GGUF alone.")
    exact = export.vision.precision == "f32"
    return LlamaVision(
        path,
        language.model,
        tokens=export.image_tokens,
        threads=options.threads,
        exact=exact,
        traced=options.traced,
    )


class LlamaModel:
    """A GGUF language model's weights; several parts share them.

    Args:
        path: the .gguf file, whose hash has been checked: llama.cpp ends the process on some torn files.
        repack: rearrange weights for this processor's fast kernels, where that is safe; off for an observer of inputs.
        mapped: leave the file's pages to the system. Where weights are copied anyway (`is_rearranged`) they would stay in memory
            beside the copies.
        vocabulary: read no weights, for the tokenizer alone.

    Raises:
        SkdError: llama.cpp can't read the file.
        MissingDependencyError: llama-cpp-python isn't installed.
    """

    def __init__(self, path: Path, *, repack: bool = True, mapped: bool = True, vocabulary: bool = False) -> None:
        llama, _ = library()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = repack and can_rearrange_weights()
        params.vocab_only = vocabulary
        if params.use_extra_bufts and not mapped:
            params.load_mode = llama.LLAMA_LOAD_MODE_NONE
        self.path = path
        self.pointer = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise failure(f"llama.cpp can't read {path}")
        self.width = llama.llama_model_n_embd(self.pointer)
        self.rows = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.pointer))
        self.trained_context = llama.llama_model_n_ctx_train(self.pointer)

    def tokenize(self, text: str) -> list[int]:
        """Token ids as other llama.cpp programs get them; for checking the file's tokenizer."""
        llama, _ = library()
        raw = text.encode()
        ids = (llama.llama_token * (len(raw) + 8))()
        vocab = llama.llama_model_get_vocab(self.pointer)
        count = llama.llama_tokenize(vocab, raw, len(raw), ids, len(ids), False, True)
        return list(ids[: max(count, 0)])

    def close(self) -> None:
        """Frees the weights."""
        if self.pointer:
            library()[0].llama_model_free(self.pointer)
            self.pointer = None


class LlamaLanguage:
    """The language model with its key-value cache.

    Args:
        model: its weights, owned by this part and freed with it.
        image_token_id: the id that stands for a picture's tokens in prompts.
        threads: processor threads.
        context: most tokens of a prompt and its answer, at most what the model was trained on.
        exact: keep keys and values in float32 and compute attention plainly, for a float32 file.
        observe: sees every matrix product's tensor (for importance matrices).
    """

    def __init__(
        self,
        model: LlamaModel,
        image_token_id: int,
        *,
        threads: int,
        context: int = DEFAULT_CONTEXT,
        exact: bool = False,
        observe: Observer | None = None,
    ) -> None:
        llama, _ = library()
        self.context = min(context, model.trained_context)
        self.model, self._image_token_id, self.threads = model, image_token_id, threads
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        params.type_k = params.type_v = _F32 if exact else _F16
        params.flash_attn_type = int(not exact)
        if observe is not None:
            self._observer = observer_callback(lambda tensor: tensor.operation == "MUL_MAT", observe)
            params.cb_eval = self._observer
        self._pointer = llama.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise failure(f"llama.cpp can't make a context for {model.path}")
        self._memory = llama.llama_get_memory(self._pointer)
        self._prefix: list[int] = []  # text before a picture that is in memory, read as one batch
        self._length = 0  # tokens in memory
        self._reused = 0
        self._token = (llama.llama_token * 1)()
        self._single = llama.llama_batch_get_one(self._token, 1)  # positions follow by themselves
        # Where the last logits lay, and a look at them.
        self._seen: tuple[int, Floats] = (0, np.empty((0, 0), np.float32))

    @property
    def reused(self) -> int:
        """How many of the last prompt's tokens were still in memory."""
        return self._reused

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """See `LanguageModel.prefill`.

        The text before the first picture is read as a batch of its own and kept for the next request, if that one begins with
        exactly the same text: everything from the picture on is forgotten first. Because the batches are cut at the same
        places either way, a request's result doesn't depend on the one before, to the last bit.
        """
        pieces = list(cut(ids, self._image_token_id, features))
        prefix = pieces[0] if features is not None and isinstance(pieces[0], list) else []
        kept = len(prefix) if prefix == self._prefix and not every else 0
        self._prefix = []  # nothing is sure to be in memory until it has been read
        self._forget_to(kept)
        self._reused = kept
        outputs = [self._decode(piece, every=every) for piece in pieces[1 if kept else 0 :]]
        self._prefix = prefix
        return np.concatenate(outputs) if every else outputs[-1][-1]

    def step(self, token: int) -> Floats:
        """See `LanguageModel.step`."""
        self._token[0] = token
        return self._read(self._single, rows=1)[0]

    def rewind(self, length: int) -> None:
        """See `LanguageModel.rewind`."""
        self._forget_to(length)

    def close(self) -> None:
        """Frees the context and the weights."""
        if self._pointer:
            library()[0].llama_free(self._pointer)
            self._pointer = None
        self.model.close()

    def _forget_to(self, length: int) -> None:
        llama, _ = library()
        if length == 0:
            llama.llama_memory_clear(self._memory, True)
        elif not llama.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise failure("llama.cpp couldn't forget the last request")
        self._length = length

    def _decode(self, piece: list[int] | Floats, *, every: bool) -> NDArray[np.float32]:
        """Reads one batch of tokens or embeddings; a copy of logits [T, V] with `every`, else [1, V] after the last."""
        count = len(piece)
        batch = library()[0].llama_batch()
        batch.n_tokens = count
        # These arrays back the batch's pointers during the call.
        if isinstance(piece, list):
            token_array = np.asarray(piece, np.int32)
            batch.token = token_array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            embedding_array = np.ascontiguousarray(piece, np.float32)
            batch.embd = embedding_array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        positions = np.arange(self._length, self._length + count, dtype=np.int32)
        batch.pos = positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        wanted = np.full(count, every, np.int8)
        wanted[-1] = 1
        batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return self._read(batch, count if every else 1).copy()

    def _read(self, batch: Any, rows: int) -> NDArray[np.float32]:
        """Reads a batch; the logits [rows, V] it asked for, in llama.cpp's own memory."""
        llama, _ = library()
        if llama.llama_decode(self._pointer, batch) != 0:
            raise failure(f"llama.cpp couldn't read {batch.n_tokens} tokens after {self._length}")
        self._length += batch.n_tokens
        logits = llama.llama_get_logits(self._pointer)
        address = ctypes.addressof(logits.contents)
        if (address, rows) != (self._seen[0], len(self._seen[1])):  # looking anew takes 2 microseconds
            self._seen = address, np.ctypeslib.as_array(logits, (rows, self.model.rows))
        return self._seen[1]
