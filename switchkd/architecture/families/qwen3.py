"""Qwen3 (arXiv 2505.09388): no biases, a norm of each head's queries and keys, heads of a width of their own."""

from switchkd.architecture.families import decoder
from switchkd.architecture.family import Language, Weight

FAMILY = Language(
    name="qwen3",
    title="Qwen3",
    prefix=decoder.PREFIX,
    before=(decoder.EMBEDDING,),
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
    after=(decoder.NORM,),
    blocks=decoder.PREFIXES,
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
    },
    refusals=(
        decoder.scaled_positions(),
        decoder.SLIDING_WINDOW,
        decoder.ACTIVATION,
        decoder.unbiased("attention_bias"),
    ),
    model_class="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
)
