"""What the engines cost beyond the libraries they stand on: decoded tokens a second, engine against a bare loop.

    skd init bench/student --random --vision siglip-so400m-patch14-384 --language qwen2.5-0.5b --feature-layer -2
    skd export bench/student --format gguf --quant q4 --out bench/gguf-q4
    skd export bench/student --format onnx --quant q8 --out bench/onnx-q8
    python benchmarks/overhead.py bench/gguf-q4 bench/onnx-q8 --threads 2

Both loops are greedy, read the same file, hold the same cache and take turns in one process, the order drawn anew each
round; the first round warms up. The bare loops call nothing of this project after they are set up: llama.cpp's C functions
with one batch, ONNX Runtime with bound buffers. A ratio of 1 means that the engine costs nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from switchkd.manifest import Manifest
from switchkd.runtime.bench.machine import machine_facts
from switchkd.runtime.bench.statistics import noise, ratio
from switchkd.runtime.engine import Engine
from switchkd.runtime.onnx_session import place_helpers
from switchkd.runtime.variants import open_engine, usable_processors

PROMPT_TOKENS = 64
Loop = Callable[[int], tuple[list[int], float]]  # number of tokens → the tokens, seconds from the first to the last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=Path, help="export folders")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64, help="decoded in each round")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=usable_processors())
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print("| variant | engine, tokens/s | bare loop, tokens/s | ratio (95 %) |\n|---|---:|---:|---:|")
    for folder in options.variants:
        with open_engine(folder, threads=options.threads, context=options.context) as engine:
            loops = {"engine": engine_loop(engine), "bare": bare_loop(folder, engine, options)}
            times = measure(loops, options.rounds, options.tokens)
        medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
        value, error = ratio(medians["bare"], medians["engine"], noise(times["bare"]), noise(times["engine"]))
        speeds = (f"{(options.tokens - 1) / medians[name]:,.1f}" for name in ("engine", "bare"))
        shown = "" if error is None else f" ±{value * error:.3f}"
        print(f"| {folder.name} | {' | '.join(speeds)} | {value:.3f}{shown} |", flush=True)
    facts = machine_facts()
    print(
        f"\n{facts['cpu']}, {options.threads} threads; load {load:.1f} before, {os.getloadavg()[0]:.1f} after; "
        f"{options.rounds} rounds of {options.tokens} tokens after a prompt of {PROMPT_TOKENS}."
    )


def measure(loops: dict[str, Loop], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Seconds of each loop's rounds; both have to say the same."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    order = random.Random(0)
    for round_number in range(rounds + 1):
        said = {}
        for name in order.sample(list(loops), len(loops)):
            said[name], seconds = loops[name](tokens)
            if round_number:
                times[name].append(seconds)
        if len({tuple(each) for each in said.values()}) > 1:
            raise SystemExit(f"The loops say different things: {said}")
    return times


def prompt(engine: Engine) -> list[int]:
    """Some text tokens."""
    plain = [token for token in range(200) if token != engine.prompt.image_token_id]
    return random.Random(1).choices(plain, k=PROMPT_TOKENS)


def engine_loop(engine: Engine) -> Loop:
    """The engine's own greedy decoding, as `skd chat` and the bench do it."""
    ids = prompt(engine)

    def run(tokens: int) -> tuple[list[int], float]:
        said, start = [], 0.0
        for token in engine.tokens(ids, max_new_tokens=tokens):
            start = start or time.perf_counter()
            said.append(token)
        return said, time.perf_counter() - start

    engine.end_tokens = frozenset()
    return run


def bare_loop(folder: Path, engine: Engine, options: argparse.Namespace) -> Loop:
    """The same by the library alone."""
    manifest = Manifest.load(folder, verify=False)
    make = {"gguf": llama_loop, "onnx": onnx_loop}[manifest.format]
    return make(folder, manifest, prompt(engine), options)


def llama_loop(folder: Path, manifest: Manifest, ids: list[int], options: argparse.Namespace) -> Loop:
    """llama.cpp's own functions: decode one token, look for the largest logit."""
    import llama_cpp

    from switchkd.runtime.llama_build import can_rearrange_weights

    model_settings = llama_cpp.llama_model_default_params()
    model_settings.n_gpu_layers = 0
    model_settings.use_extra_bufts = can_rearrange_weights()
    model = llama_cpp.llama_model_load_from_file(str(folder / manifest.file_of("language")).encode(), model_settings)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = min(options.context, llama_cpp.llama_model_n_ctx_train(model))
    settings.n_threads = settings.n_threads_batch = options.threads
    settings.no_perf = True
    settings.flash_attn_type = 1
    context = llama_cpp.llama_init_from_model(model, settings)
    memory = llama_cpp.llama_get_memory(context)
    rows = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    first = (llama_cpp.llama_token * len(ids))(*ids)
    one = (llama_cpp.llama_token * 1)()

    def run(tokens: int) -> tuple[list[int], float]:
        llama_cpp.llama_memory_clear(memory, True)
        llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(first, len(ids)))
        said, start = [], 0.0
        while True:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (rows,))
            said.append(int(logits.argmax()))
            start = start or time.perf_counter()
            if len(said) == tokens:
                return said, time.perf_counter() - start
            one[0] = said[-1]
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1))

    return run


def onnx_loop(folder: Path, manifest: Manifest, ids: list[int], options: argparse.Namespace) -> Loop:
    """ONNX Runtime with everything bound: embed one token, run the decoder, look for the largest logit."""
    import onnxruntime

    def session(role: str, threads: int) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        place_helpers(settings, threads)
        path = str(folder / manifest.file_of(role))
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    embedding, decoder = session("embedding", 1), session("language", options.threads)
    logits = np.empty((1, 1, decoder.get_outputs()[0].shape[-1]), np.float32)
    room = min(options.context, manifest.context)
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

    def run(tokens: int, held: tuple[Any, ...] = (keep, buffers)) -> tuple[list[int], float]:
        # `held` keeps the bound memory alive.
        embeds = embedding.run(["inputs_embeds"], {"input_ids": np.array([ids], np.int64)})[0]
        length, said, start = 0, [], 0.0
        while True:
            length += embeds.shape[1]
            bind(binding.bind_input, "inputs_embeds", embeds)
            bind(binding.bind_input, "attention_mask", mask[:, :length])
            decoder.run_with_iobinding(binding)
            said.append(int(logits.argmax()))
            start = start or time.perf_counter()
            if len(said) == tokens:
                return said, time.perf_counter() - start
            token[0, 0] = said[-1]
            embedding.run_with_iobinding(lookup)
            embeds = embedded

    return run


if __name__ == "__main__":
    main()
