"""llama.cpp's own way through a picture and a question, as other programs go it: its library without the engine's repairs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.runtime.engines.llama.library import library

_CONTEXT = 1024


@dataclass(frozen=True)
class Seen:
    """What it made of a picture and a question."""

    image_tokens: list[int]  # of each picture that it made out of the one
    rows: NDArray[np.float32]  # [P, W] of the first
    answer: list[int]  # greedy tokens


def ask(folder: Path, text: str, pixels: NDArray[np.uint8], *, width: int, vocabulary: int, answer: int) -> Seen:
    """Asks an export in GGUF.

    Args:
        text: the whole prompt; the picture stands where llama.cpp's marker `<__media__>` is.
        pixels: [H, W, 3] of the tower's size, so that nothing is scaled.
        width: of the language model.
        vocabulary: its rows.
        answer: how many tokens; 0 looks at the picture alone.
    """
    llama, mtmd = library()
    model = llama.llama_model_load_from_file(str(folder / "language.gguf").encode(), llama.llama_model_default_params())
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup = False, 1, False
    vision = mtmd.mtmd_init_from_file(str(folder / "mmproj.gguf").encode(), model, params)
    data = np.ascontiguousarray(pixels)
    picture = mtmd.mtmd_bitmap_init(*pixels.shape[1::-1], data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    chunks = mtmd.mtmd_input_chunks_init()
    try:
        prompt = mtmd.mtmd_input_text(text.encode(), len(text.encode()), False, True)
        pictures = (mtmd.mtmd_bitmap_p_ctypes * 1)(picture)
        assert mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(prompt), pictures, 1) == 0
        images = [chunk for chunk in _all(mtmd, chunks) if mtmd.mtmd_input_chunk_get_type(chunk) == 1]
        counts = [mtmd.mtmd_input_chunk_get_n_tokens(chunk) for chunk in images]
        assert mtmd.mtmd_encode_chunk(vision, images[0]) == 0
        rows = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(vision), (counts[0], width)).copy()
        return Seen(counts, rows, _answer(model, vision, chunks, vocabulary, answer) if answer else [])
    finally:
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(picture)
        mtmd.mtmd_free(vision)
        llama.llama_model_free(model)


def _all(mtmd, chunks) -> list:
    return [mtmd.mtmd_input_chunks_get(chunks, index) for index in range(mtmd.mtmd_input_chunks_size(chunks))]


def _answer(model, vision, chunks, vocabulary: int, count: int) -> list[int]:
    llama, mtmd = library()
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _CONTEXT
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model, params)
    try:
        past = llama.llama_pos(0)
        assert mtmd.mtmd_helper_eval_chunks(vision, context, chunks, 0, 0, _CONTEXT, True, ctypes.byref(past)) == 0
        said: list[int] = []
        while True:
            logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (vocabulary,))
            said.append(int(logits.argmax()))
            if len(said) == count:
                return said
            assert llama.llama_decode(context, llama.llama_batch_get_one((llama.llama_token * 1)(said[-1]), 1)) == 0
    finally:
        llama.llama_free(context)
