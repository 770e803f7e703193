"""Tower and projector on llama.cpp: pictures of exactly the tower's size to the embeddings that stand for them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import SkdError
from switchkd.runtime.engines.llama.bindings import failure
from switchkd.runtime.engines.llama.library import Tensor, library, observer_callback
from switchkd.runtime.engines.sampler import Floats

if TYPE_CHECKING:
    from switchkd.runtime.engines.llama.engine import LlamaModel


class LlamaVision:
    """Tower and projector out of an mmproj file.

    Args:
        path: the mmproj .gguf file.
        model: the language model's weights, for whose width it is made.
        tokens: what a picture becomes; where llama.cpp makes one more, of a tower without class token, the first is left out.
        threads: processor threads.
        exact: compute attention plainly, for a float32 file.
        traced: `trace` will be used, which costs a little time in every call.
    """

    def __init__(
        self,
        path: Path,
        model: LlamaModel,
        *,
        tokens: int,
        threads: int,
        exact: bool = False,
        traced: bool = False,
    ) -> None:
        _, mtmd = library()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.n_threads = threads
        params.warmup = False
        params.flash_attn_type = int(not exact)
        self._width, self._tokens = model.width, tokens
        self._marker = mtmd.mtmd_default_marker()
        self._surplus = 0  # rows that llama.cpp makes beyond these
        self._seen: dict[str, Floats] = {}
        self._traced, self._class_token_last = traced, False
        if traced or _has_class_token(path):
            self._observer = observer_callback(self._before, self._see)
            params.cb_eval = self._observer
        self._pointer = mtmd.mtmd_init_from_file(str(path).encode(), model.pointer, params)
        if not self._pointer:
            raise failure(f"llama.cpp can't read {path}")

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """See `VisionEncoder.encode`."""
        _, mtmd = library()
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels)
        bitmap = mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(self._marker, len(self._marker), False, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._pointer, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise failure("llama.cpp couldn't prepare a picture")
            return self._encode_chunk(mtmd, chunks)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """See `VisionEncoder.trace`; the part must have been made with `traced`."""
        self._seen = {}
        projected = self.encode(pixels)
        if "features" in self._seen:
            self._seen["features"] = self._seen["features"][self._surplus :]
        return {**self._seen, "projected": projected}

    def close(self) -> None:
        """Frees the tower."""
        if self._pointer:
            library()[1].mtmd_free(self._pointer)
            self._pointer = None

    def _encode_chunk(self, mtmd: Any, chunks: Any) -> Floats:
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                continue
            if mtmd.mtmd_encode_chunk(self._pointer, chunk) != 0:
                raise failure("llama.cpp couldn't encode a picture")
            made = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            self._surplus = made - self._tokens
            if self._surplus not in (0, 1):
                raise SkdError(f"llama.cpp makes {made} tokens of a picture, the export {self._tokens}.")
            rows = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._pointer), (made, self._width))
            return rows[self._surplus :].copy()
        raise failure("llama.cpp found no picture in its own prompt")

    def _before(self, tensor: Tensor) -> bool:
        """Called before a tensor is computed: puts right which rows llama.cpp takes around a class token.

        CLIP's class token comes first, and so does the first row of its positions. llama.cpp's graph joins it after the
        patches, but numbers the rows as if it came first (its issue 25814): every patch would get its neighbour's position,
        and the projector the class token instead of the first patch. A graph that joins it in front is left alone.
        """
        operation = tensor.operation
        if operation == "CONCAT":
            second = tensor.source(1)
            self._class_token_last = second is not None and second.name == "v.class_embd"
        elif operation == "GET_ROWS" and self._class_token_last:
            rows = tensor.source(1)
            assert rows is not None
            if rows.name == "positions":
                # Patches from 1 on, then the class token's 0.
                rows.replace_integers(np.roll(np.arange(rows.size, dtype=np.int32), -1))
            elif rows.name == "patches":
                rows.replace_integers(np.arange(rows.size, dtype=np.int32))
        return self._traced and _stage(tensor) is not None

    def _see(self, tensor: Tensor) -> None:
        if _stage(tensor) == "pixels":
            picture = tensor.source(1)
            assert picture is not None
            self._seen["pixels"] = picture.values()[0]  # [3, H, W]
        else:
            values = tensor.values()
            self._seen["features"] = values.reshape(-1, values.shape[-1])  # [P, W_v]


def _has_class_token(path: Path) -> bool:
    from gguf import GGUFReader

    try:
        return any(tensor.name == "v.class_embd" for tensor in GGUFReader(path).tensors)
    except Exception as error:  # the reader raises all kinds on a torn file
        raise failure(f"llama.cpp can't read {path}, {error}") from error


def _stage(tensor: Tensor) -> str | None:
    """Which stage a tensor of clip.cpp's graph shows: the patches' cut has the pixels as its operand. What the projector reads is
    the choice of rows out of the last block's output, or where it takes the grid that output in another shape."""
    operation, source = tensor.operation, tensor.source(0)
    if operation == "IM2COL" and (picture := tensor.source(1)) and picture.name == "inp_raw":
        return "pixels"
    if source is None or not source.name.startswith("layer_out"):
        return None
    whole = operation == "RESHAPE" and not source.name.endswith(")")  # not what was reshaped before
    return "features" if whole or operation == "GET_ROWS" else None
