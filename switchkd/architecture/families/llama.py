"""Llama (arXiv 2302.13971, 2407.21783) and what is built as it is: Vicuna, TinyLlama, MobileLLaMA, SmolLM2."""

from dataclasses import replace

from switchkd.architecture.families import decoder
from switchkd.architecture.family import Language

FAMILY = Language(
    name="llama",
    title="Llama",
    prefix=decoder.PREFIX,
    before=(decoder.EMBEDDING,),
    block=(
        decoder.ATTENTION_NORM,
        replace(decoder.QUERIES, turned=True),
        replace(decoder.KEYS, turned=True),
        decoder.VALUES,
        decoder.OUTPUT,
        *decoder.FEED_FORWARD,
    ),
    after=(decoder.NORM,),
    blocks=decoder.PREFIXES,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    },
    refusals=(
        decoder.scaled_positions("llama3"),
        decoder.ACTIVATION,
        decoder.unbiased("attention_bias"),
        decoder.unbiased("mlp_bias"),
    ),
    model_class="LlamaForCausalLM",
    gguf_architecture="llama",
)
