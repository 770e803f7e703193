"""How far exports of a real language model are from it on real text, how large they are and how fast.

    python benchmarks/real_models.py FOLDER
    python benchmarks/real_text.py FOLDER/qwen-vlm-dithered EXPORT… [--rounds 3] [--json FILE]

EXPORT is an export folder, a .gguf file with a language model, or a decoder's .onnx file with its embed_tokens*.onnx beside
it. Prints a Markdown table a line at a time:

    KL           nats, of next-token distributions from the checkpoint's in float32 (PyTorch), mean and 99th percentile
    same first   share of equal first choices
    perplexity   of the text
    MB           the language model with its embedding; in brackets without, where that is a table of its own
    prefill      milliseconds a token of the pieces read, decode: milliseconds a token; the median of the rounds

Text: `texts`, at least 1,500 positions. The checkpoint's logits are kept beside its folder (a gigabyte), as they take longer
than an export's. Times come from rounds that visit every export in turn, so that all see the same machine; in brackets the
median of their ratios to the first export's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.computer import usable_processors
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.prompt import ChatPrompt
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.engines.interfaces import LanguageModel
from switchkd.runtime.engines.opening import open_checkpoint, open_engine

Floats = NDArray[np.float32]
PIECE_TOKENS, PIECE_LETTERS = 192, 1400
CONTEXT = 512
AT_ONCE = 64  # rows whose distributions are compared at once: half a gigabyte in float64
TIMED_PIECES, TIMED_STEPS = 2, 24
# Python's own files: prose of its language reference, and code. Each from some way in, to begin amid a thought.
PASSAGES = (
    *(("pydoc_data/topics.py", place) for place in (12_000, 75_000, 180_000, 300_000, 450_000)),
    ("heapq.py", 4_000),
    ("fractions.py", 2_500),
    ("shutil.py", 6_000),
)
CHATS = (
    (
        ("user", "How do I find out which of my Python functions is slow?"),
        (
            "assistant",
            "Run the program under the profiler that comes with Python and sort by the time spent in each function:\n\n"
            "```bash\npython -m cProfile -s tottime program.py\n```\n\nThe first lines of its table are what to look at. "
            "If one function is called very often, ask first whether it has to be.",
        ),
    ),
    (
        ("user", "The road ahead is wet and the car in front brakes. What matters now?"),
        (
            "assistant",
            "Distance and smoothness. On a wet road the way to a stop is about twice as long as on a dry one, so ease off "
            "early, brake gently at first and harder once the tyres grip, and keep the wheel straight.",
        ),
    ),
)


@dataclass
class Found:
    """What was measured of one export."""

    name: str
    size: int  # bytes with the embedding
    decoder: int  # bytes without it, where it is a table of its own
    kl: float = 0.0
    kl_p99: float = 0.0
    same: float = 0.0
    perplexity: float = 0.0
    positions: int = 0
    prefill: list[float] = field(default_factory=list)  # seconds a token, one a round
    decode: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=0, help="Rounds of timing; 0: none.")
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    given = parser.parse_args()
    text = Text(given.checkpoint)
    rows = reference(given.checkpoint, text, given.threads)
    print(f"float32: perplexity {perplexity(list(rows), text.pieces):.3f}, {len(text)} positions\n", flush=True)
    print("| export | KL mean | p99 | same first, % | perplexity | MB |\n|---|---:|---:|---:|---:|---:|")
    results = []
    for path in given.exports:
        with opened(path, text.image_token_id, given.threads) as language:
            found = compare(name_of(path), language, text, rows)
        found.size, found.decoder = sizes(path)
        results.append(found)
        print(accuracy_line(found), flush=True)
    for _ in range(given.rounds):
        for path, found in zip(given.exports, results, strict=True):
            with opened(path, text.image_token_id, given.threads) as language:
                note_times(language, text, found)
    if given.rounds:
        print("\n| export | prefill, ms a token | decode, ms a token |\n|---|---:|---:|")
        print("\n".join(speed_line(found, results[0]) for found in results))
    if given.json:
        given.json.write_text(json.dumps([asdict(found) for found in results], indent=1) + "\n")


class Text:
    """The text in a checkpoint's tokens."""

    def __init__(self, checkpoint: Path) -> None:
        prompt = ChatPrompt.load(checkpoint)
        encode = prompt.tokenizer.encode
        self.image_token_id = prompt.image_token_id
        self.vocabulary = prompt.tokenizer.get_vocab_size(with_added_tokens=True)  # the model may have rows beyond
        self.pieces = [encode(text, add_special_tokens=False).ids[:PIECE_TOKENS] for text in texts()]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


def texts() -> list[str]:
    """Prose, code and chat."""
    library = Path(os.__file__).parent
    found = [(library / name).read_text(encoding="utf-8")[at : at + PIECE_LETTERS] for name, at in PASSAGES]
    return found + ["".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in chat) for chat in CHATS]


def reference(checkpoint: Path, text: Text, threads: int) -> Sequence[Floats]:
    """The checkpoint's logits after every position, a piece at a time [T, V]; kept in a file, and read from there."""
    digest = hashlib.sha256(repr(text.pieces).encode())
    for weights in sorted(checkpoint.glob("*.safetensors")):
        digest.update(file_sha256(weights).encode())
    kept = checkpoint.resolve().parent / f"real-text-{digest.hexdigest()[:12]}.npy"
    if not kept.exists():
        partial = kept.with_suffix(f".{os.getpid()}.npy")
        with open_checkpoint(checkpoint, threads=threads, context=CONTEXT) as engine:
            file = np.lib.format.open_memmap(partial, "w+", np.float32, (len(text), text.vocabulary))
            start = 0
            for ids in text.pieces:
                file[start : start + len(ids)] = engine.language.prefill(ids, every=True)[:, : text.vocabulary]
                start += len(ids)
            file.flush()
        partial.replace(kept)
    whole = np.load(kept, mmap_mode="r")
    return np.split(whole, np.cumsum([len(ids) for ids in text.pieces])[:-1])


@contextmanager
def opened(path: Path, image_token_id: int, threads: int) -> Iterator[LanguageModel]:
    """The language model of an export folder or of a lone file."""
    if path.is_dir():
        with open_engine(path, threads=threads, context=CONTEXT, verify=False) as engine:
            yield engine.language
        return
    language: LanguageModel
    if path.suffix == ".gguf":
        from switchkd.runtime.engines.llama.engine import LlamaLanguage, LlamaModel

        language = LlamaLanguage(LlamaModel(path), image_token_id, threads=threads, context=CONTEXT)
    else:
        from switchkd.runtime.engines.onnx.engine import OnnxLanguage

        language = OnnxLanguage(path, embedding_of(path), image_token_id, threads=threads, context=CONTEXT)
    try:
        yield language
    finally:
        language.close()


def compare(name: str, language: LanguageModel, text: Text, rows: Sequence[Floats]) -> Found:
    """Divergence from the checkpoint's logits over the whole text."""
    divergences: list[NDArray[np.float64]] = []
    agreed: list[NDArray[np.bool_]] = []
    own: list[Floats] = []
    for ids, expected in zip(text.pieces, rows, strict=True):
        logits = language.prefill(ids, every=True)[:, : text.vocabulary]
        for start in range(0, len(ids), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            divergences.append(divergence(expected[part], logits[part]))
            agreed.append(expected[part].argmax(-1) == logits[part].argmax(-1))
        own.append(chosen_logs(logits, ids))
    values = np.concatenate(divergences)
    return Found(
        name,
        size=0,
        decoder=0,
        kl=float(values.mean()),
        kl_p99=float(np.quantile(values, 0.99)),
        same=float(np.concatenate(agreed).mean()),
        perplexity=float(np.exp(-np.concatenate(own).mean())),
        positions=len(values),
    )


def perplexity(rows: Sequence[Floats], pieces: Sequence[Sequence[int]]) -> float:
    """Of the text, given logits [T, V] of each piece."""
    logs = [chosen_logs(logits, ids) for logits, ids in zip(rows, pieces, strict=True)]
    return float(np.exp(-np.concatenate(logs).mean()))


def chosen_logs(logits: Floats, ids: Sequence[int]) -> Floats:
    """Log-probabilities of the tokens that do follow: logits [T, V] → [T - 1]."""
    kept = logits[:-1]
    top = kept.max(-1, keepdims=True)
    norm = np.log(np.exp(kept - top).sum(-1)) + top[:, 0]
    return kept[np.arange(len(kept)), ids[1:]] - norm


def note_times(language: LanguageModel, text: Text, found: Found) -> None:
    """One round of one export: a piece to warm up, then pieces, then single tokens."""
    language.prefill(text.pieces[0])
    pieces = text.pieces[1 : 1 + TIMED_PIECES]
    start = time.perf_counter()
    for ids in pieces:
        language.prefill(ids)
    found.prefill.append((time.perf_counter() - start) / sum(map(len, pieces)))
    start = time.perf_counter()
    for token in text.pieces[0][:TIMED_STEPS]:
        language.step(token)
    found.decode.append((time.perf_counter() - start) / TIMED_STEPS)


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of the language model with its embedding, and without where the embedding is a table of its own."""
    if path.is_dir():
        entries = Manifest.load(path, verify=False).files
        roles = {
            name: entries[name.removesuffix("_data")].role for name in entries if name.removesuffix("_data") in entries
        }
        decoder, embedding = (
            sum(entries[name].bytes for name, role in roles.items() if role == wanted)
            for wanted in ("language", "embedding")
        )
        files = [path / name for name, role in roles.items() if role == "language"]
    elif path.suffix == ".onnx":
        decoder, embedding, files = onnx_bytes(path), onnx_bytes(embedding_of(path)), []
    else:
        decoder, embedding, files = path.stat().st_size, 0, [path]
    inside = sum(embedding_bytes(file) for file in files if file.suffix == ".gguf")
    return decoder + embedding, decoder - inside


def embedding_bytes(file: Path) -> int:
    """Bytes of a GGUF file's embedding, 0 where it serves as the head as well."""
    from gguf import GGUFReader

    tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(file).tensors}
    return tensors["token_embd.weight"] if "output.weight" in tensors else 0


def onnx_bytes(file: Path) -> int:
    """Bytes of a graph and of the files with its weights beside it."""
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))


def embedding_of(decoder: Path) -> Path:
    """The embedding's graph beside a decoder's."""
    return min(decoder.parent.glob("embed_tokens*.onnx"))


def name_of(path: Path) -> str:
    """What to call an export in tables."""
    return path.name if (path / FILE_NAME).exists() else path.stem


def accuracy_line(found: Found) -> str:
    decoder = "" if found.decoder == found.size else f" ({found.decoder / 1e6:.0f})"
    return (
        f"| {found.name} | {found.kl:.4f} | {found.kl_p99:.3f} | {100 * found.same:.1f} | {found.perplexity:.3f} "
        f"| {found.size / 1e6:.0f}{decoder} |"
    )


def speed_line(found: Found, first: Found) -> str:
    def cell(phase: str) -> str:
        own, others = getattr(found, phase), getattr(first, phase)
        ratio = statistics.median(one / other for one, other in zip(own, others, strict=True))
        return f"{1000 * statistics.median(own):.2f} ({ratio:.2f})"

    return f"| {found.name} | {cell('prefill')} | {cell('decode')} |"


if __name__ == "__main__":
    main()
