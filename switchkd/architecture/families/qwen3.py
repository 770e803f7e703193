"""Qwen3 (arXiv 2505.09388): Qwen2 without biases, a norm of each head's queries and keys, heads of a width of their own."""

from dataclasses import replace

from switchkd.architecture.families import decoder
from switchkd.architecture.families.qwen2 import FAMILY as QWEN2
from switchkd.architecture.family import Weight

FAMILY = replace(
    QWEN2,
    name="qwen3",
    title="Qwen3",
    block=(
        decoder.ATTENTION_NORM,
        decoder.QUERIES,
        decoder.KEYS,
        decoder.VALUES,
        decoder.OUTPUT,
        Weight("self_attn.q_norm.weight", ("head",), "attn_q_norm.weight", exact=True),
        Weight("self_attn.k_norm.weight", ("head",), "attn_k_norm.weight", exact=True),
        *decoder.FEED_FORWARD,
    ),
    defaults={**QWEN2.defaults, "head_dim": 128, "attention_bias": False},
    refusals=(*decoder.REFUSALS, decoder.SLIDING_WINDOW, decoder.unbiased("attention_bias")),
    model_class="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
)
