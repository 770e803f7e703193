"""What a student computes, reads and keeps, phase by phase, from its shapes and the real bytes of its files."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from switchkd.hardware.runtimes import RUNTIMES, Kernel, Runtime


class FitError(ValueError):
    """A question that can't be answered; one line, full sentences."""


@dataclass(frozen=True)
class Tower:
    """Vision tower and projector."""

    layers: int  # blocks that are computed
    width: int
    feed_forward: int
    tokens: int  # patches and class token
    patch_values: int  # numbers of one patch: 3 · patch²
    heads: int
    projector_weights: int  # of its matrices and filters
    projector_macs: int  # multiply-adds with them for one picture: a weight counts for every token that it acts on
    gated: bool = False  # the feed-forward part has a third matrix

    @property
    def block_weights(self) -> int:
        """Weights of one block's matrices."""
        return 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.feed_forward


@dataclass(frozen=True)
class Language:
    """Language model with grouped attention and a gated feed-forward part."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_width: int
    rows: int  # of the vocabulary

    @property
    def block_weights(self) -> int:
        """Weights of one block's matrices."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return 2 * self.width * queries + 2 * self.width * keys + 3 * self.width * self.feed_forward

    @property
    def head_weights(self) -> int:
        """Weights of the head, which gives logits."""
        return self.width * self.rows

    @property
    def token_weights(self) -> int:
        """Weights that one token is multiplied by."""
        return self.layers * self.block_weights + self.head_weights


@dataclass(frozen=True)
class StoredModel:
    """How one of a student's two models is stored.

    Raises:
        FitError: a format that nothing here is known of.
    """

    format: str  # gguf or onnx: the name of the runtime that runs it
    quant: str  # the format's name of the precision
    bytes: int  # read in one pass, as they lie in memory
    resident: int  # kept in memory: also what a pass doesn't read, such as an untied embedding
    blocks: str = ""  # type of the blocks' matrices, where the precision is a mixture that depends on the shape

    def __post_init__(self) -> None:
        if self.format not in RUNTIMES:
            raise FitError(f"Nothing is known of the format '{self.format}'; known: {', '.join(sorted(RUNTIMES))}.")

    @property
    def runtime(self) -> Runtime:
        """What runs it."""
        return RUNTIMES[self.format]

    @property
    def kernel(self) -> Kernel:
        """How fast it is computed with. Raises FitError where nothing is known of that."""
        quant = self.blocks or self.quant
        if quant not in self.runtime.kernels:
            known = ", ".join(f"{name} {each}" for name, runtime in RUNTIMES.items() for each in runtime.kernels)
            raise FitError(f"Nothing is known of how fast {self.format} {quant} is; known: {known}.")
        return self.runtime.kernels[quant]


@dataclass(frozen=True)
class Phase:
    """One pass, or all passes of a prompt."""

    part: StoredModel
    vision: bool
    macs: float  # multiply-adds with weights
    attention: float  # multiply-adds of activations with each other, in float
    bytes: float  # read from memory
    blocks: int  # gone through
    single: bool  # one token: a matrix by a vector


@dataclass(frozen=True)
class Memory:
    """Bytes that a variant needs."""

    weights: int
    cache: int  # keys and values of the whole context
    activations: int  # the most at a time
    runtime: int  # interpreter, engine, tokenizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations + self.runtime


@dataclass(frozen=True)
class Workload:
    """An exported student."""

    name: str
    language: Language
    text: StoredModel  # how the language model is stored
    tower: Tower | None = None  # None: a language model alone
    image: StoredModel | None = None  # how the tower is stored
    image_tokens: int = 0  # that a picture takes in a prompt
    cache_bytes: int = 2  # of one number among keys and values
    trained_context: int = 32768  # the most tokens it was trained to read
    tokenizer_bytes: int = 0  # of tokenizer.json
    tied: bool = True  # the head's weights are the embedding's

    def encode(self) -> Phase | None:
        """A picture to projected tokens; None without a tower."""
        tower = self.tower
        if tower is None or self.image is None:
            return None
        per_token = tower.layers * tower.block_weights + tower.patch_values * tower.width
        macs = tower.tokens * per_token + tower.projector_macs
        attention = 2 * tower.layers * tower.tokens**2 * tower.width
        return Phase(self.image, True, macs, attention, self.image.bytes, tower.layers, single=False)

    def prefill(self, tokens: int) -> Phase:
        """A prompt of so many tokens, read piece by piece; logits for the last one."""
        language, piece = self.language, self.text.runtime.piece
        passes = ceil(tokens / piece)
        macs = tokens * language.layers * language.block_weights + language.head_weights
        # Each piece attends to what came before it and to itself.
        pairs = sum(min(piece, tokens - start) * min(start + piece, tokens) for start in range(0, tokens, piece))
        attention = 2 * language.layers * pairs * language.heads * language.head_width
        return Phase(
            self.text, False, macs, attention, passes * self.text.bytes, passes * language.layers, single=False
        )

    def decode(self, length: int) -> Phase:
        """One more token after `length` of them."""
        language = self.language
        read = self.text.bytes + length * self.cache_per_token
        return Phase(self.text, False, language.token_weights, 0.0, read, language.layers, single=True)

    @property
    def cache_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        language = self.language
        return 2 * language.layers * language.kv_heads * language.head_width * self.cache_bytes

    def memory(self, context: int) -> Memory:
        """What it needs for conversations of `context` tokens."""
        runtime = self.text.runtime
        weights = self.text.resident + (self.image.resident if self.image else 0)
        tokenizer = round(self.tokenizer_bytes * runtime.tokenizer_factor)
        return Memory(weights, context * self.cache_per_token, self._activations(context), runtime.bytes + tokenizer)

    def _activations(self, context: int) -> int:
        """Float32 inputs and outputs of the widest step, and attention's scores, of whichever part needs more."""
        language = self.language
        at_once = min(self.text.runtime.piece, context)
        scores = language.heads * at_once * context
        text = at_once * (6 * language.width + 3 * language.feed_forward) + scores + language.rows
        tower = self.tower
        if tower is None:
            return 4 * text
        picture = tower.tokens * (6 * tower.width + 2 * tower.feed_forward) + tower.heads * tower.tokens**2
        return 4 * max(text, picture)
