"""What a float32 graph's matrix products read, on the package's own text and on pictures: how large, and in which channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from switchkd.export.onnx.language import KEEP
from switchkd.export.onnx.products import Feeds, observe
from switchkd.export.parts import Quantization
from switchkd.export.samples import Sample, synthetic_samples
from switchkd.runtime.engines.opening import open_vision
from switchkd.runtime.engines.parts import RunOptions
from switchkd.runtime.engines.picture_places import join_features

Floats = NDArray[np.float32]
_TOKENS = 4000  # of text; more changed nothing
_PICTURES = 16
_LONGEST = 1024  # tokens of a conversation about a picture
_ROWS = 384  # that are kept of each value


@dataclass
class Seen:
    """A value's rows [T, K] over all examples."""

    largest: Floats  # magnitude of each channel [K], the mean of the examples' largest: no single one decides
    energy: Floats  # mean square of each channel [K], every row scaled to a mean square of 1
    rows: Floats  # some of them, from all over [R, K]


def calibrate(path: Path, names: list[str], examples: Iterable[Feeds], *, threads: int) -> dict[str, Seen]:
    """Name of a value inside a float32 graph → what it was on examples."""
    largest: dict[str, Floats] = {}
    energy: dict[str, Floats] = {}
    counts: dict[str, int] = {}
    kept: dict[str, list[Floats]] = {name: [] for name in names}

    def see(name: str, rows: Floats) -> None:
        unit = rows / np.maximum(np.sqrt(np.square(rows).mean(1, keepdims=True)), 1e-12)
        largest[name] = largest.get(name, np.float32(0)) + np.abs(rows).max(0)
        energy[name] = energy.get(name, np.float32(0)) + np.square(unit).sum(0)
        counts[name] = counts.get(name, 0) + len(rows)
        # The first row of a text is unlike the others, and its outliers are the largest.
        kept[name].append(rows[np.unique(np.linspace(0, len(rows) - 1, 8).astype(int))])

    observe(path, names, examples, see, threads=threads)
    return {
        name: Seen(
            largest[name] / np.float32(len(kept[name])),
            energy[name] / np.float32(counts[name]),
            np.concatenate(kept[name][-_ROWS // 8 :]),
        )
        for name in names
    }


def language_examples(job: Quantization) -> Iterator[Feeds]:
    """Inputs of the decoder for texts and for conversations about pictures."""
    checkpoint = job.checkpoint
    table = checkpoint.read("language_model.embed_tokens.weight")  # [V, W]
    every = -(-sum(map(len, job.passages)) // _TOKENS) or 1
    for ids in job.passages[::every]:
        yield _decoder_inputs(job, table[ids])
    vision = open_vision(job.parts, RunOptions(job.threads))
    for sample in _seeing(job):
        ids = checkpoint.prompt.encode(sample.messages, image_tokens=checkpoint.image_tokens).ids
        places = np.array(ids) == checkpoint.prompt.image_token_id
        embeds = table[np.where(places, 0, ids)]
        seen = [vision.encode(checkpoint.preprocess.resize(image)) for image in sample.images()]
        if (features := join_features(seen)) is not None:
            embeds[places] = features
        yield _decoder_inputs(job, embeds[:_LONGEST])
    vision.close()


def vision_examples(job: Quantization) -> Iterator[Feeds]:
    """Inputs of the tower for pictures."""
    preprocess = job.checkpoint.preprocess
    for sample in _seeing(job):
        for image in sample.images():
            yield {"pixel_values": preprocess.normalize(preprocess.resize(image))[None]}


def _seeing(job: Quantization) -> list[Sample]:
    """The user's records with pictures; made-up ones where there are none."""
    seeing = [sample for sample in job.calibration if sample.pictures]
    return seeing[:_PICTURES] or synthetic_samples(_PICTURES)


def _decoder_inputs(job: Quantization, embeds: Floats) -> Feeds:
    """A prompt [T, W] with an empty memory."""
    text = job.checkpoint.text
    heads, width = text["num_key_value_heads"], job.checkpoint.architecture.head_width
    empty = np.empty((1, heads, 0, width), np.float32)
    return {
        "inputs_embeds": embeds[None],
        "attention_mask": np.ones((1, len(embeds)), np.int64),
        KEEP: np.array(0),
        **{
            f"past_key_values.{layer}.{kind}": empty
            for kind in ("key", "value")
            for layer in range(text["num_hidden_layers"])
        },
    }
