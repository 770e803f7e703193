"""What the engines cost beyond the libraries they stand on: decoded tokens a second, engine against a bare loop.

    skd init bench/student --random --vision siglip-so400m-patch14-384 --language qwen2.5-0.5b --feature-layer -2
    skd export bench/student --format gguf --quant q4 --out bench/gguf-q4
    skd export bench/student --format onnx --quant q8 --out bench/onnx-q8
    python benchmarks/overhead.py bench/gguf-q4 bench/onnx-q8 --threads 2

Both loops are greedy, use the same weights in memory (two copies of a file differ by up to 3 % by where they lie), each its own
keys and values, and take turns in one process, token by token, the order drawn anew for each: what else the machine does hits
both alike. The first round warms up. The bare loops call nothing of this project after they are set up: llama.cpp's C
functions with one batch, ONNX Runtime with bound buffers. A ratio of 1 means that the engine costs nothing; its interval is
Student's over the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.llama.engine import LlamaLanguage
from switchkd.runtime.engines.onnx.engine import OnnxLanguage
from switchkd.runtime.engines.opening import open_engine, usable_processors
from switchkd.scoring import mean_interval

PROMPT_TOKENS = 64
Loop = Callable[[], Iterator[int]]  # reads the prompt for the first token, and one token more for each of the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=Path, help="export folders")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64, help="decoded in each round")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=usable_processors())
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print("| variant | engine, tokens/s | bare loop, tokens/s | ratio (95 %) | the engine's own, µs a token |")
    print("|---|---:|---:|---:|---:|")
    for folder in options.variants:
        with open_engine(folder, threads=options.threads, context=options.context) as engine:
            loops = {"engine": engine_loop(engine), "bare": bare_loop(engine)}
            times = measure(loops, options.rounds, options.tokens)
        print(f"| {folder.name} | {' | '.join(cells(times))} |", flush=True)
    facts = machine_facts()
    print(
        f"\n{facts['cpu']}, {options.threads} threads; load {load:.1f} before, {os.getloadavg()[0]:.1f} after; "
        f"{options.rounds} rounds of {options.tokens} tokens after a prompt of {PROMPT_TOKENS}."
    )


def measure(loops: dict[str, Loop], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Median seconds of a token in each loop's rounds; both have to say the same."""
    medians: dict[str, list[float]] = {name: [] for name in loops}
    order = random.Random(0)
    for round_number in range(rounds + 1):
        streams = {name: loop() for name, loop in loops.items()}
        times: dict[str, list[float]] = {name: [] for name in loops}
        said = {name: [next(stream)] for name, stream in streams.items()}
        for _ in range(tokens - 1):
            for name in order.sample(list(loops), len(loops)):
                start = time.perf_counter()
                token = next(streams[name])
                times[name].append(time.perf_counter() - start)
                said[name].append(token)
        if len({tuple(each) for each in said.values()}) > 1:
            raise SystemExit(f"The loops say different things: {said}")
        for name in loops if round_number else ():
            medians[name].append(float(np.median(times[name])))
    return medians


def cells(times: dict[str, list[float]]) -> Iterator[str]:
    """A row's figures: speeds, their ratio and the difference, each of the last two with its 95 % interval over the rounds."""
    engine, bare = np.array(times["engine"]), np.array(times["bare"])
    yield from (f"{1 / np.median(each):,.1f}" for each in (engine, bare))
    for paired, form in ((bare / engine, ".3f"), (1e6 * (engine - bare), ",.1f")):
        middle, half = mean_interval(paired.tolist())
        yield f"{middle:{form}} ±{half:{form}}"


def prompt(engine: Engine) -> list[int]:
    """Some text tokens."""
    plain = [token for token in range(200) if token != engine.prompt.image_token_id]
    return random.Random(1).choices(plain, k=PROMPT_TOKENS)


def engine_loop(engine: Engine) -> Loop:
    """The engine's own greedy decoding, as `skd chat` and the bench do it."""
    ids = prompt(engine)
    engine.end_tokens = frozenset()
    return lambda: engine.tokens(ids, max_new_tokens=engine.language.context)


def bare_loop(engine: Engine) -> Loop:
    """The same by the library alone."""
    language = engine.language
    if isinstance(language, LlamaLanguage):
        return llama_loop(language, prompt(engine))
    if isinstance(language, OnnxLanguage):
        return onnx_loop(language, prompt(engine))
    raise SystemExit(f"{engine.name} is neither GGUF nor ONNX.")


def llama_loop(language: LlamaLanguage, ids: list[int]) -> Loop:
    """llama.cpp's own functions: decode one token, look for the largest logit."""
    import llama_cpp

    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = language.context
    settings.n_threads = settings.n_threads_batch = language.threads
    settings.no_perf = True
    settings.flash_attn_type = 1
    context = llama_cpp.llama_init_from_model(language.model.pointer, settings)
    memory = llama_cpp.llama_get_memory(context)
    first = (llama_cpp.llama_token * len(ids))(*ids)
    one = (llama_cpp.llama_token * 1)()
    single = llama_cpp.llama_batch_get_one(one, 1)

    def run() -> Iterator[int]:
        llama_cpp.llama_memory_clear(memory, True)
        llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(first, len(ids)))
        seen, logits = None, np.empty(0)
        while True:
            pointer = llama_cpp.llama_get_logits(context)
            if (address := ctypes.addressof(pointer.contents)) != seen:
                seen, logits = address, np.ctypeslib.as_array(pointer, (language.model.rows,))
            one[0] = int(logits.argmax())
            yield one[0]
            llama_cpp.llama_decode(context, single)

    return run


def onnx_loop(language: OnnxLanguage, ids: list[int]) -> Loop:
    """ONNX Runtime with everything bound: embed one token, run the decoder, look for the largest logit."""
    embedding, decoder, room = language.embedding, language.decoder, language.context
    logits = np.empty((1, 1, decoder.get_outputs()[0].shape[-1]), np.float32)
    mask, keep, token = np.ones((1, room), np.int64), np.ones((), np.int64), np.zeros((1, 1), np.int64)
    embedded = np.empty((1, 1, embedding.get_outputs()[0].shape[-1]), np.float32)
    binding, lookup = decoder.io_binding(), embedding.io_binding()

    def bind(function: Any, name: str, array: np.ndarray) -> None:
        function(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    buffers = []
    for value in decoder.get_inputs():
        if value.name.startswith("past_key_values."):
            kind = np.float16 if value.type == "tensor(float16)" else np.float32
            buffers.append(np.zeros((1, value.shape[1], room, value.shape[3]), kind))
            bind(binding.bind_input, value.name, buffers[-1])
            bind(binding.bind_output, value.name.replace("past_key_values.", "present."), buffers[-1])
    bind(binding.bind_input, "num_logits_to_keep", keep)
    bind(binding.bind_output, "logits", logits)
    bind(lookup.bind_input, "input_ids", token)
    bind(lookup.bind_output, "inputs_embeds", embedded)

    def run(held: tuple[Any, ...] = (keep, buffers)) -> Iterator[int]:
        # `held` keeps the bound memory alive.
        embeds = embedding.run(["inputs_embeds"], {"input_ids": np.array([ids], np.int64)})[0]
        bind(binding.bind_input, "inputs_embeds", embeds)
        for length in range(len(ids), room):
            bind(binding.bind_input, "attention_mask", mask[:, :length])
            decoder.run_with_iobinding(binding)
            said = int(logits.argmax())
            yield said
            token[0, 0] = said
            embedding.run_with_iobinding(lookup)
            if length == len(ids):  # one token from here on
                bind(binding.bind_input, "inputs_embeds", embedded)

    return run


if __name__ == "__main__":
    main()
